local token, lease = KEYS[1], KEYS[2]
local generation = number(redis.call('HGET', token, 'g')) or -1
local sealed = ARGV[1] == '1' and redis.call('HGET', token, 'v') or ''
return {generation, sealed, redis.call('PTTL', token), redis.call('PTTL', lease)}
