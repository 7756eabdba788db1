-- Time and numbers.

-- Milliseconds since the epoch on the server's clock; call it once per script.
local function server_now_ms()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end

-- A whole number as decimal text: `..` turns numbers past 14 digits into 1e+14.
local function whole(number)
  return string.format('%.0f', number)
end
