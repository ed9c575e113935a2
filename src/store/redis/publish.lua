local token, lease, fence = KEYS[1], KEYS[2], KEYS[3]
local ours, sealed, ends = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local last = number(redis.call('GET', fence))
if last and ours < last then return 0 end
-- Larger only if the store lost the lease.
redis.call('SET', fence, ARGV[1], 'PX', ARGV[4])
redis.call('DEL', lease)
if ends <= time() then return 0 end
redis.call('DEL', token)
redis.call('HSET', token, 'g', ARGV[1], 'v', sealed)
redis.call('PEXPIREAT', token, digits(math.floor(ends / 1000)))
return 1
