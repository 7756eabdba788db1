-- The ready sets and `full`, derived from a replica's hash; the only code that writes them.

-- Puts url where its hash says that it belongs. Ends every script that touches status, admin, weight, capacity,
-- primary or in_flight.
-- sets: keys primary, secondary, full.
local function refresh_ready(sets, replica_key, url)
  local state = redis.call('HMGET', replica_key, 'status', 'admin', 'primary', 'weight', 'capacity', 'in_flight')
  redis.call('ZREM', sets.primary, url)
  redis.call('ZREM', sets.secondary, url)
  redis.call('SREM', sets.full, url)
  if state[1] ~= 'healthy' or state[2] ~= 'active' then
    return
  end
  local capacity, in_flight = tonumber(state[5]), tonumber(state[6])
  if capacity > 0 and in_flight >= capacity then
    redis.call('SADD', sets.full, url)
    return
  end
  local tier = state[3] == '1' and sets.primary or sets.secondary
  redis.call('ZADD', tier, string.format('%.17g', in_flight / tonumber(state[4])), url)
end
