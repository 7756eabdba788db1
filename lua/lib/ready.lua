-- The ready sets and `full`, derived from a replica's hash; the only code that writes them.

-- include lib/refusal.lua
-- include lib/values.lua

-- A replica's state is what HMGET answers for these: what decides where it belongs, and what else a lease needs, so
-- that one read does for that.
local STATE_FIELDS = {
  'status', 'admin', 'primary', 'weight', 'capacity', 'in_flight', 'revision', 'removes_when_drained', 'slow_start_ms',
  'status_since_ms',
}
local STATUS, ADMIN, PRIMARY, WEIGHT, CAPACITY, IN_FLIGHT, REVISION, REMOVES_WHEN_DRAINED, SLOW_START_MS,
  STATUS_SINCE_MS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local LEAST_SHARE = 0.1

-- Returns the part of its weight that a replica of that state has by now, which turned healthy not long ago; nil once
-- it has all.
local function ramp_share(state)
  local length, since = tonumber(state[SLOW_START_MS] or ''), tonumber(state[STATUS_SINCE_MS] or '')
  if not length or length <= 0 or not since then
    return nil
  end
  local share = (server_now_ms() - since) / length
  -- Before its beginning: the clock was set back. Better no ramp than one without an end.
  if share >= 0 and share < 1 then
    return math.max(share, LEAST_SHARE)
  end
  return nil
end

-- The count of sessions, also where somebody has deleted it by hand: a script that fails half-way would be worse.
local function load_of(state)
  return tonumber(state[IN_FLIGHT] or '0')
end

-- Returns the load per weight; of a replica that ramps up the one that it would have with a session more, less that of
-- a single one. So it comes after replicas that are as idle, and at the end of the ramp has its plain score.
local function score_of(state)
  local in_flight, weight = load_of(state), tonumber(state[WEIGHT])
  local share = state[SLOW_START_MS] and ramp_share(state)
  return share and (in_flight + 1) / (weight * share) - 1 / weight or in_flight / weight
end

-- Returns the set where a replica of that state belongs, if any.
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

-- Returns nil, or the reply for a set of another type than ours.
local function ready_refusal()
  return type_refusal({keys.ready_primary, 'zset', keys.ready_secondary, 'zset', keys.full, 'set'})
end

-- Puts url where its state says that it belongs.
local function put_in_place(url, state)
  local place = place_of(state)
  -- It may be anywhere, and several times where somebody wrote by hand; but where it belongs it is not taken out first:
  -- to change a score costs less than to put in anew.
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

-- Puts url where it belongs since its load has changed. While that is where it was, no other set is looked at.
local function keep_in_place(was_in, url, state)
  if place_of(state) ~= was_in then
    put_in_place(url, state)
  elseif was_in ~= keys.full then
    add_to(was_in, url, state)
  end
end

-- Puts url where its hash says that it belongs. Ends every script that touches status, admin, weight, capacity,
-- primary or in_flight.
local function refresh_ready(replica_key, url)
  put_in_place(url, redis.call('HMGET', replica_key, unpack(STATE_FIELDS)))
end
