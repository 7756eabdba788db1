-- What ends leases, whoever ends them: the router that holds them, or another one where that has expired.

-- include lib/endings.lua
-- include lib/events.lua
-- include lib/tombstones.lua

-- Each of these returns nil, or the reply for a key behind a lease that holds another type than ours.
local function replica_refusal(url)
  return type_refusal({keys.replica_prefix .. url, 'hash'})
end

local function lease_refusal(id, url)
  return replica_refusal(url) or session_refusal(id)
end

-- Takes sessions off a replica, removed or not, and does what waited for the last one to end.
-- reply: takes events.
local function unload(url, count, now_ms, router, reply)
  local replica = keys.replica_prefix .. url
  local state = redis.call('HMGET', replica, unpack(STATE_FIELDS))
  local left = count_off(url, state, count)
  if left == 0 and state[ADMIN] ~= 'removed' and state[REMOVES_WHEN_DRAINED] == '1' then
    local reason = redis.call('HGET', replica, 'admin_reason')
    bury(replica, url, now_ms, reason)
    refresh_ready(replica, url)
    emit_replica(now_ms, replica, url,
      {'kind', 'replica_deregistered', 'router', router, 'by', 'last session ended', 'reason', reason}, reply)
  end
end
