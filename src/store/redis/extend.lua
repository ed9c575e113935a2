local lease = KEYS[1]
if redis.call('GET', lease) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', lease, ARGV[2])
