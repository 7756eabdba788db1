-- The ready sets and `full`, which are derived from the replicas' hashes. No other code writes them.

-- include lib/refusal.lua
-- include lib/values.lua

-- A replica's state is the reply of HMGET for these fields. They decide in which set it belongs. The others are fields
-- that a lease needs, so that one read is enough.
local STATE_FIELDS = {
  'status', 'admin', 'primary', 'weight', 'capacity', 'in_flight', 'revision', 'removes_when_drained', 'slow_start_ms',
  'status_since_ms',
}
local STATUS, ADMIN, PRIMARY, WEIGHT, CAPACITY, IN_FLIGHT, REVISION, REMOVES_WHEN_DRAINED, SLOW_START_MS,
  STATUS_SINCE_MS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local LEAST_SHARE = 0.1

-- Returns the share of its weight that a replica has while it ramps up; nil if it does not ramp or its ramp is over.
local function ramp_share(state)
  local length, since = tonumber(state[SLOW_START_MS] or ''), tonumber(state[STATUS_SINCE_MS] or '')
  if not length or length <= 0 or not since then
    return nil
  end
  local share = (server_now_ms() - since) / length
  -- A negative share means that the clock was set back. Then there is no ramp, so that none can last without end.
  if share >= 0 and share < 1 then
    return math.max(share, LEAST_SHARE)
  end
  return nil
end

-- Returns the count of sessions, 0 if somebody has deleted the field by hand: a script must not fail half-way.
local function load_of(state)
  return tonumber(state[IN_FLIGHT] or '0')
end

-- Returns the ready score, in_flight / weight. During a ramp it is (in_flight + 1) / (weight * share) - 1 / weight. So
-- a ramping replica comes after others with the same load, and its score reaches the plain one at the end of the ramp.
local function score_of(state)
  local in_flight, weight = load_of(state), tonumber(state[WEIGHT])
  local share = state[SLOW_START_MS] and ramp_share(state)
  return share and (in_flight + 1) / (weight * share) - 1 / weight or in_flight / weight
end

-- Returns the key of the set in which a replica of that state belongs; nil if it belongs in none.
local function place_of(state)
  if state[STATUS] ~= 'healthy' or state[ADMIN] ~= 'active' then
    return nil
  end
  local capacity = tonumber(state[CAPACITY])
  if capacity > 0 and load_of(state) >= capacity then
    return keys.full
  end
  return state[PRIMARY] == '1' and keys.ready_primary or keys.ready_secondary
end

local function add_to(place, url, state)
  if place == keys.full then
    redis.call('SADD', place, url)
  elseif place then
    redis.call('ZADD', place, string.format('%.17g', score_of(state)), url)
  end
end

-- Returns nil, or the reply for a set that has another type than the registry's.
local function ready_refusal()
  return type_refusal({keys.ready_primary, 'zset', keys.ready_secondary, 'zset', keys.full, 'set'})
end

-- Puts a url into the set in which its state says that it belongs, and takes it out of the others.
local function put_in_place(url, state)
  local place = place_of(state)
  -- The url may be in any set, and in several if somebody wrote by hand. It is not taken out of the set in which it
  -- belongs, because changing a score costs less than removing and adding a member.
  if place ~= keys.ready_primary then
    redis.call('ZREM', keys.ready_primary, url)
  end
  if place ~= keys.ready_secondary then
    redis.call('ZREM', keys.ready_secondary, url)
  end
  if place ~= keys.full then
    redis.call('SREM', keys.full, url)
  end
  add_to(place, url, state)
end

-- Puts a url into the right set after its load has changed. If that is the set in which it was, it writes only there.
local function keep_in_place(was_in, url, state)
  if place_of(state) ~= was_in then
    put_in_place(url, state)
  elseif was_in ~= keys.full then
    add_to(was_in, url, state)
  end
end

-- Puts a url into the set in which its hash says that it belongs. Every script that changes status, admin, weight,
-- capacity, primary or in_flight calls this, `put_in_place` or `keep_in_place` afterwards.
local function refresh_ready(replica_key, url)
  put_in_place(url, redis.call('HMGET', replica_key, unpack(STATE_FIELDS)))
end
