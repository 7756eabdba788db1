-- The ready sets and `full`, derived from a replica's hash; the only code that writes them.

-- include lib/values.lua

local LEAST_SHARE = 0.1

-- Returns the part of its weight that a replica has by now, which turned healthy not long ago; nil once it has all.
local function ramp_share(replica_key)
  local state = redis.call('HMGET', replica_key, 'slow_start_ms', 'status_since_ms')
  local length, since = tonumber(state[1] or ''), tonumber(state[2] or '')
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

-- What a replica is ordered by that ramps up: the load per weight that it would have with a session more, less that of
-- a single one. So it comes after replicas that are as idle, and at the end of the ramp has its plain score.
local function ramp_score(replica_key, in_flight, weight)
  local share = ramp_share(replica_key)
  return share and (in_flight + 1) / (weight * share) - 1 / weight or in_flight / weight
end

-- Puts url where its hash says that it belongs. Ends every script that touches status, admin, weight, capacity,
-- primary or in_flight.
-- sets: keys primary, secondary, full.
local function refresh_ready(sets, replica_key, url)
  local state = redis.call('HMGET', replica_key, 'status', 'admin', 'primary', 'weight', 'capacity', 'in_flight',
    'slow_start_ms')
  local place, score
  if state[1] == 'healthy' and state[2] == 'active' then
    local capacity, in_flight = tonumber(state[5]), tonumber(state[6])
    if capacity > 0 and in_flight >= capacity then
      place = sets.full
    else
      place = state[3] == '1' and sets.primary or sets.secondary
      local weight = tonumber(state[4])
      score = string.format('%.17g', state[7] and ramp_score(replica_key, in_flight, weight) or in_flight / weight)
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
