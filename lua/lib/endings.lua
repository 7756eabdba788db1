-- The end of a lease: lowers the count of its replica, and keeps the session's affinity.

-- include lib/values.lua
-- include lib/sessions.lua
-- include lib/ready.lua

-- Lowers the count of sessions of a replica, removed or not, whose state was read before. Returns how many sessions
-- are left, or nil if the replica has no count.
local function count_off(url, state, count)
  if not tonumber(state[IN_FLIGHT] or '') then
    return nil
  end
  local replica, was_in = keys.replica_prefix .. url, set_of(state)
  local left = math.max(tonumber(state[IN_FLIGHT]) - count, 0)
  state[IN_FLIGHT] = whole(left)
  redis.call('HSET', replica, 'in_flight', state[IN_FLIGHT])
  keep_in_set(was_in, url, state)
  return left
end

-- Keeps the affinity of a session to its replica for some time after its lease has ended, unless the session has moved
-- to another replica since.
local function keep_affinity(id, url, affinity_ms)
  local session = session_of(id)
  if not session then
    return
  end
  local affinity = keys.affinity_prefix .. session
  local bound = redis.call('GET', affinity)
  if bound and bound ~= url then
    return
  end
  if affinity_ms == '0' then
    redis.call('DEL', affinity)
  else
    redis.call('SET', affinity, url, 'PX', affinity_ms)
  end
end
