-- Numbers are microseconds since the Unix epoch, which Lua holds exactly up to 2^53. Anything else that somebody wrote counts as
-- nothing.
local function number(text)
  local value = tonumber(text or '')
  if value and value >= 0 and value < 9e15 then return math.floor(value) end
end

local function time()
  local now = redis.call('TIME')
  return now[1] * 1000000 + now[2]
end

local function digits(value)
  return string.format('%.0f', value)
end
