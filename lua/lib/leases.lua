-- Ends leases, for the router that holds them or for the router that reaps it.

-- include lib/endings.lua
-- include lib/draining.lua

-- Returns nil, or the reply for a replica's key that has another type than the registry's.
local function replica_refusal(url)
  return type_refusal({keys.replica_prefix .. url, 'hash'})
end

-- Lowers the count of sessions of a replica, removed or not. If the last session has ended on a replica that takes no
-- new ones, it removes the replica if that was to happen then, or reports that the replica is empty.
-- reply: the list to which events are appended.
local function unload(url, count, now_ms, router, reply)
  local replica = keys.replica_prefix .. url
  local state = redis.call('HMGET', replica, unpack(STATE_FIELDS))
  local left = count_off(url, state, count)
  if left ~= 0 or not state[ADMIN] then
    return
  end
  if state[ADMIN] ~= 'removed' and state[REMOVES_WHEN_DRAINED] == '1' then
    remove_drained(url, now_ms, router, reply)
  elseif state[ADMIN] ~= 'active' then
    report_empty(url, now_ms, router, reply)
  end
end
