-- Time and numbers.

local asked_ms

-- Milliseconds since the epoch on the server's clock, which is asked once per script.
local function server_now_ms()
  if not asked_ms then
    local now = redis.call('TIME')
    asked_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
  end
  return asked_ms
end

-- A whole number as decimal text: `..` turns numbers past 14 digits into 1e+14.
local function whole(number)
  return string.format('%.0f', number)
end
