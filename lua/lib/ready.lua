-- The ready sets and `full`, derived from a replica's hash; the only code that writes them.

-- Puts url where its hash says that it belongs. Ends every script that touches status, admin, weight, capacity,
-- primary or in_flight.
-- sets: keys primary, secondary, full.
local function refresh_ready(sets, replica_key, url)
  local state = redis.call('HMGET', replica_key, 'status', 'admin', 'primary', 'weight', 'capacity', 'in_flight')
  local place, score
  if state[1] == 'healthy' and state[2] == 'active' then
    local capacity, in_flight = tonumber(state[5]), tonumber(state[6])
    if capacity > 0 and in_flight >= capacity then
      place = sets.full
    else
      place = state[3] == '1' and sets.primary or sets.secondary
      score = string.format('%.17g', in_flight / tonumber(state[4]))
    end
  end
  -- It may be anywhere, and several times where somebody wrote by hand; but where it belongs it is not taken out first:
  -- to change a score costs less than to put in anew.
  if place ~= sets.primary then
    redis.call('ZREM', sets.primary, url)
  end
  if place ~= sets.secondary then
    redis.call('ZREM', sets.secondary, url)
  end
  if place ~= sets.full then
    redis.call('SREM', sets.full, url)
  end
  if score then
    redis.call('ZADD', place, score, url)
  elseif place then
    redis.call('SADD', place, url)
  end
end
