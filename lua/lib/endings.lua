-- What the end of a lease leaves behind: the count on its replica, and the session's way back.

-- include lib/values.lua
-- include lib/sessions.lua
-- include lib/ready.lua

-- Seven days, for which the hash of a removed replica stays after the last session on it has ended.
local TOMBSTONE_MS = 604800000

-- Takes sessions off a replica of that state, removed or not; returns how many are left.
local function count_off(url, state, count)
  if not state[IN_FLIGHT] then
    return nil
  end
  local replica, was_in = keys.replica_prefix .. url, place_of(state)
  local left = math.max(tonumber(state[IN_FLIGHT]) - count, 0)
  state[IN_FLIGHT] = whole(left)
  redis.call('HSET', replica, 'in_flight', state[IN_FLIGHT])
  if left == 0 and state[ADMIN] == 'removed' then
    redis.call('PEXPIRE', replica, whole(TOMBSTONE_MS))
  end
  keep_in_place(was_in, url, state)
  return left
end

-- Lets a session find its replica again for some time after its lease has ended, unless it has gone elsewhere since.
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
