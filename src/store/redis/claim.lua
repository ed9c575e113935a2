local token, lease, fence = KEYS[1], KEYS[2], KEYS[3]
local have, refused, length = tonumber(ARGV[1]), ARGV[2] == '1', ARGV[3]

local held = redis.call('HMGET', token, 'g', 'v')
local generation = number(held[1])
if refused and generation == have then
  redis.call('DEL', token)
elseif generation and held[2] and generation > have then
  local left = redis.call('PTTL', token)
  if left > 0 then return {'entry', generation, held[2], left} end
end

local left = redis.call('PTTL', lease)
if left > 0 then return {'held', left} end

local now = time()
local next = math.max((number(redis.call('GET', fence)) or 0) + 1, now)
redis.call('SET', fence, digits(next), 'PX', ARGV[4])
redis.call('SET', lease, digits(next), 'PX', length)
return {'lease', next, now}
