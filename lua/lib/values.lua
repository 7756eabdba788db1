-- Time and numbers.

local asked_us

-- Returns microseconds since the Unix epoch on the server's clock, which is read once per script.
local function server_now_us()
  if not asked_us then
    local now = redis.call('TIME')
    asked_us = tonumber(now[1]) * 1000000 + tonumber(now[2])
  end
  return asked_us
end

local function server_now_ms()
  return math.floor(server_now_us() / 1000)
end

-- Returns a whole number as decimal text. Without it, `..` writes a number of more than 14 digits as 1e+14.
local function whole(number)
  return string.format('%.0f', number)
end

local LARGEST_EXACT = 9007199254740992 -- 2^53

-- Returns a whole number from a key or field; the default, or nil, if there is none that is exact, or something else
-- was written there.
local function stored_number(text, default)
  local number = type(text) == 'string' and string.match(text, '^%d+$') and tonumber(text)
  if number and number <= LARGEST_EXACT then
    return number
  end
  return default
end

-- Returns a number from 0 to 2^31 - 2 that spreads texts evenly. It is the same on every server and in Python.
local function hash_of(text)
  local hash = 0
  for i = 1, #text do
    hash = (hash * 31 + string.byte(text, i)) % 2147483647
  end
  return hash
end
