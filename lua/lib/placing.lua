-- Chooses a replica for a session and gives it a slot, both for a session that asks and for one that waits.
--
-- A url in a tier whose replica does not belong there (its hash is damaged or absent, or it has not answered for too
-- long) is put where it belongs, and the next one is chosen. So one bad key costs only its own replica.

-- include lib/values.lua
-- include lib/affinity.lua
-- include lib/ready.lua

local WRONG_AT_ONCE = 64

local wrong_left = WRONG_AT_ONCE

-- Returns a number from 0 to count - 1 that depends only on the lease id.
local function spread(lease_id, count)
  return tonumber(string.sub(lease_id, 1, 8), 16) % count
end

-- Returns the key of that one of two tiers which holds the url, or nothing if neither does.
local function tier_of(url, first, second)
  return redis.call('ZSCORE', first, url) and first or redis.call('ZSCORE', second, url) and second
end

-- Returns the least loaded replica of a tier. The lease id decides between equal loads.
local function least_loaded(tier, lease_id)
  local first = redis.call('ZRANGE', tier, 0, 0, 'WITHSCORES')
  if not first[1] then
    return nil
  end
  local place = spread(lease_id, redis.call('ZCOUNT', tier, '-inf', first[2]))
  return place == 0 and first[1] or redis.call('ZRANGE', tier, place, place)[1]
end

-- Returns the state of the replica of a url in a tier; nil if it does not belong there.
local function state_in(tier, url)
  local state = redis.pcall('HMGET', keys.replica_prefix .. url, unpack(STATE_FIELDS))
  if not state.err and set_of(state) == tier then
    return state
  end
  redis.call('ZREM', tier, url)
  if not state.err and not ready_refusal() and not spare_refusal() then
    put_in_set(url, state)
  end
  return nil
end

-- Returns the url that `find` finds, its tier and its state; nil if there is none. A limited number of urls that do not
-- belong in their tiers is met in each run.
local function find_right(find)
  while wrong_left > 0 do
    local url, tier = find()
    if not url then
      return nil
    end
    local state = state_in(tier, url)
    if state then
      return url, tier, state
    end
    wrong_left = wrong_left - 1
  end
  return nil
end

-- Chooses the replica where the session was before if that has a free slot, otherwise the least loaded replica of the
-- first tier that has one. The tiers are the ready sets or the spare sets. Returns its url, its tier and its state.
local function choose(lease_id, first, second)
  local session = session_of(lease_id)
  return find_right(function()
    local url = session and redis.call('GET', keys.affinity_prefix .. session)
    local tier = url and tier_of(url, first, second)
    if tier then
      return url, tier
    end
    url = least_loaded(first, lease_id)
    if url then
      return url, first
    end
    return least_loaded(second, lease_id), second
  end)
end

-- Records a lease on a replica of that tier and state, and counts it. Returns the replica's revision. If a ready set
-- has another type than the registry's, it writes nothing and returns nil and the reply that refuses.
local function grant(router, lease_id, url, tier, state)
  state[IN_FLIGHT] = whole(load_of(state) + 1)
  local refused = set_of(state) ~= tier and ready_refusal()
  if refused then
    return nil, refused
  end
  redis.call('HSET', keys.leases_prefix .. router, lease_id, url)
  redis.call('HSET', keys.replica_prefix .. url, 'in_flight', state[IN_FLIGHT])
  keep_in_set(tier, url, state)
  begin_affinity(lease_id, url)
  return state[REVISION] or '0-0'
end
