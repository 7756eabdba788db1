-- The ready sets, `full` and the spare sets, which are derived from the replicas' hashes. No other code writes them.
--
-- The ready sets and `full` hold the replicas that are healthy, active and not ejected (lib/ejection.lua). The spare
-- sets are the same for active replicas that are not healthy or ejected, and have answered a probe within the last
-- hour: in a panic they take the sessions for which no healthy replica has a free slot; see lib/spares.lua.
-- `spare_answered` has the time of their last answer, and holds those at capacity too. No script runs when the hour has
-- passed: the next script that meets such a replica takes it out.

-- include lib/refusal.lua
-- include lib/values.lua

-- A replica's state is the reply of HMGET for these fields. They decide in which set it belongs. The others are fields
-- that a lease needs, so that one read is enough.
local STATE_FIELDS = {
  'status', 'admin', 'primary', 'weight', 'capacity', 'in_flight', 'revision', 'removes_when_drained', 'slow_start_ms',
  'status_since_ms', 'last_ok_at_ms', 'ejected_until_ms',
}
local STATUS, ADMIN, PRIMARY, WEIGHT, CAPACITY, IN_FLIGHT, REVISION, REMOVES_WHEN_DRAINED, SLOW_START_MS,
  STATUS_SINCE_MS, LAST_OK_AT_MS, EJECTED_UNTIL_MS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12
local LEAST_SHARE = 0.1
-- How long after its last answer to a probe a replica that is not healthy may still take sessions: one hour.
local ANSWERED_MS = 3600000

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

-- Returns the count of sessions, 0 if somebody has deleted the field by hand, nil if it is not a number: a script must
-- not fail half-way.
local function load_of(state)
  return tonumber(state[IN_FLIGHT] or '0')
end

-- Returns whether a replica may take sessions at any time, its capacity aside.
local function is_ready(state)
  return state[STATUS] == 'healthy' and state[ADMIN] == 'active' and not state[EJECTED_UNTIL_MS]
end

-- Returns the ready score, in_flight / weight. During a ramp it is (in_flight + 1) / (weight * share) - 1 / weight. So
-- a ramping replica comes after others with the same load, and its score reaches the plain one at the end of the ramp.
local function score_of(state)
  local in_flight, weight = load_of(state), tonumber(state[WEIGHT])
  local share = state[SLOW_START_MS] and is_ready(state) and ramp_share(state)
  return share and (in_flight + 1) / (weight * share) - 1 / weight or in_flight / weight
end

-- Returns whether a replica may take sessions in a panic, its capacity aside. The clock is not read for a ready one.
local function is_spare(state)
  if is_ready(state) or state[ADMIN] ~= 'active' then
    return false
  end
  local answered_at_ms = tonumber(state[LAST_OK_AT_MS] or '')
  return answered_at_ms ~= nil and server_now_ms() - answered_at_ms <= ANSWERED_MS
end

-- Returns whether the hash has the numbers that decide about sets. One that is damaged belongs in no set, so that no
-- session gets the replica and no script fails half-way.
local function is_sound(state)
  local weight, capacity = tonumber(state[WEIGHT] or ''), tonumber(state[CAPACITY] or '')
  return weight and weight > 0 and weight < math.huge and capacity and capacity >= 0 and load_of(state) ~= nil
end

-- Returns the key of the set in which a replica of that state belongs; nil if it belongs in none.
local function set_of(state)
  local may_serve = is_ready(state)
  if not is_sound(state) or not (may_serve or is_spare(state)) then
    return nil
  end
  local capacity = tonumber(state[CAPACITY])
  if capacity > 0 and load_of(state) >= capacity then
    return may_serve and keys.full or nil
  end
  if may_serve then
    return state[PRIMARY] == '1' and keys.ready_primary or keys.ready_secondary
  end
  return state[PRIMARY] == '1' and keys.spare_primary or keys.spare_secondary
end

local function add_to(place, url, state)
  if place == keys.full then
    redis.call('SADD', place, url)
  elseif place then
    redis.call('ZADD', place, string.format('%.17g', score_of(state)), url)
  end
end

-- Returns nil, or the reply for a set of healthy replicas that has another type than the registry's.
local function ready_refusal()
  return type_refusal({keys.ready_primary, 'zset', keys.ready_secondary, 'zset', keys.full, 'set'})
end

-- Does the same for the sets of replicas that are not healthy.
local function spare_refusal()
  return type_refusal({keys.spare_primary, 'zset', keys.spare_secondary, 'zset', keys.spare_answered, 'zset'})
end

-- Moves a url to the right one among the sets of healthy replicas. The url may be in any set, and in several if
-- somebody wrote by hand. It is not taken out of the set in which it belongs, because changing a score costs less than
-- removing and adding a member.
local function put_among_ready(place, url, state)
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

-- Puts a url into the set in which its state says that it belongs, and takes it out of the others.
local function put_in_set(url, state)
  local place = set_of(state)
  if place ~= keys.spare_primary then
    redis.call('ZREM', keys.spare_primary, url)
  end
  if place ~= keys.spare_secondary then
    redis.call('ZREM', keys.spare_secondary, url)
  end
  if is_sound(state) and is_spare(state) then
    redis.call('ZADD', keys.spare_answered, whole(tonumber(state[LAST_OK_AT_MS])), url)
  else
    redis.call('ZREM', keys.spare_answered, url)
  end
  put_among_ready(place, url, state)
end

-- Puts a url into the right set after its load has changed. If that is the set in which it was, it writes only there.
local function keep_in_set(was_in, url, state)
  local place = set_of(state)
  if place == was_in then
    if place ~= keys.full then
      add_to(place, url, state)
    end
  elseif is_ready(state) then
    put_among_ready(place, url, state)
  else
    put_in_set(url, state)
  end
end

-- Puts a url into the set in which its hash says that it belongs. Every script that changes status, admin, weight,
-- capacity, primary, in_flight or an ejection, or the last answer of a replica that is not ready, calls this,
-- `put_in_set` or `keep_in_set` afterwards.
local function refresh_ready(replica_key, url)
  put_in_set(url, redis.call('HMGET', replica_key, unpack(STATE_FIELDS)))
end
