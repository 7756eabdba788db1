-- What ends a lease, whoever ends it: the router that holds it, or another one where that has expired.
--
-- A lease id is random, followed by ':' and the digest of its session where one was named.

-- include lib/refusal.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/tombstones.lua

local function session_of(id)
  return string.match(id, ':(.+)$')
end

-- Each of these returns nil, or the reply for a key behind a lease that holds another type than ours.
local function replica_refusal(keys, url)
  return type_refusal({keys.replica_prefix .. url, 'hash'})
end

local function session_refusal(keys, id)
  local session = session_of(id)
  return session and type_refusal({keys.affinity_prefix .. session, 'string'})
end

local function lease_refusal(keys, id, url)
  return replica_refusal(keys, url) or session_refusal(keys, id)
end

-- Takes sessions off a replica, removed or not, and does what waited for the last one to end.
-- keys: meta, events, replicas, removed, primary, secondary, full, replica_prefix. reply: takes events.
local function unload(keys, url, count, now_ms, router, reply)
  local replica = keys.replica_prefix .. url
  local state = redis.call('HMGET', replica, 'in_flight', 'admin', 'removes_when_drained')
  if not state[1] then
    return
  end
  local left = math.max(tonumber(state[1]) - count, 0)
  redis.call('HSET', replica, 'in_flight', whole(left))
  if left == 0 and state[2] == 'removed' then
    redis.call('PEXPIRE', replica, whole(TOMBSTONE_MS))
  elseif left == 0 and state[3] == '1' then
    local reason = redis.call('HGET', replica, 'admin_reason')
    bury(keys, replica, url, now_ms, reason)
    emit_replica(keys, now_ms, replica, url,
      {'kind', 'replica_deregistered', 'router', router, 'by', 'last session ended', 'reason', reason}, reply)
  end
  refresh_ready(keys, replica, url)
end

-- Lets a session find its replica again for some time after its lease has ended, unless it has gone elsewhere since.
local function keep_affinity(keys, id, url, affinity_ms)
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
