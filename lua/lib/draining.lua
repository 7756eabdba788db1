-- The removal of a replica that drains in order to be removed.

-- include lib/discovered.lua
-- include lib/events.lua
-- include lib/tombstones.lua

-- Removes a replica because its last session has ended.
-- reply: the list to which the event is appended.
local function remove_drained(url, now_ms, router, reply)
  local replica = keys.replica_prefix .. url
  local reason = redis.call('HGET', replica, 'admin_reason')
  write_tombstone(replica, url, now_ms, reason)
  refresh_ready(replica, url)
  emit_replica(now_ms, replica, url,
    {'kind', 'replica_deregistered', 'router', router, 'by', 'last session ended', 'reason', reason}, reply)
  forget_withdrawn(replica, url)
end
