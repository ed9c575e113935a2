-- The times of the token requests within the last span, the oldest first.
local times = KEYS[1]
local most, per, spend = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1'
local now = time()

-- After a clock goes back, a time in the future must not stay forever.
local function drop(index, pop)
  while true do
    local text = redis.call('LINDEX', times, index)
    if not text then return end
    local at = number(text)
    if at and at <= now and now - at < per then return end
    redis.call(pop, times)
  end
end
drop(0, 'LPOP')
drop(-1, 'RPOP')

local taken = redis.call('LLEN', times)
local allowed = taken < most
if allowed and spend then
  redis.call('RPUSH', times, digits(now))
  redis.call('PEXPIRE', times, digits(math.ceil(per / 1000)))
  taken = taken + 1
end
local next = 0
if taken >= most then
  -- Of the requests in the window, only `most - 1` may be left.
  local at = number(redis.call('LINDEX', times, taken - most))
  next = at and per - (now - at) or per
end
return {allowed and 1 or 0, math.max(most - taken, 0), next}
