-- The ready sets and `full`, derived from a replica's hash; the only code that writes them.

-- A replica's state is what HMGET answers for these: what decides where it belongs, and what else a lease needs, so
-- that one read does for that.
local STATE_FIELDS = {
  'status', 'admin', 'primary', 'weight', 'capacity', 'in_flight', 'revision', 'removes_when_drained',
}
local STATUS, ADMIN, PRIMARY, WEIGHT, CAPACITY, IN_FLIGHT, REVISION, REMOVES_WHEN_DRAINED = 1, 2, 3, 4, 5, 6, 7, 8

-- Returns the set where a replica of that state belongs, if any, and its score there, if that has scores.
local function place_of(sets, state)
  if state[STATUS] ~= 'healthy' or state[ADMIN] ~= 'active' then
    return nil
  end
  local capacity, in_flight = tonumber(state[CAPACITY]), tonumber(state[IN_FLIGHT])
  if capacity > 0 and in_flight >= capacity then
    return sets.full
  end
  return state[PRIMARY] == '1' and sets.primary or sets.secondary,
    string.format('%.17g', in_flight / tonumber(state[WEIGHT]))
end

-- Puts url where its state says that it belongs.
-- sets: keys primary, secondary, full.
local function put_in_place(sets, url, state)
  local place, score = place_of(sets, state)
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

-- Puts url where its hash says that it belongs. Ends every script that touches status, admin, weight, capacity,
-- primary or in_flight.
local function refresh_ready(sets, replica_key, url)
  put_in_place(sets, url, redis.call('HMGET', replica_key, unpack(STATE_FIELDS)))
end
