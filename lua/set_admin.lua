-- Sets the admin state of a replica: active, draining or disabled. Health never overrides it. `active` cancels a
-- removal that waits for the replica's last session, and ends an ejection.
--
-- An announced replica that is out of service stays so: the state is kept for its return; see lib/announced.lua.
--
-- KEYS    meta admin_by_name routers events queue settling ready_primary ready_secondary full spare_primary
--         spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- ARGV    replica_url state router by reason
-- RETURNS set, event  |  unchanged|not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta admin_by_name events queue ready_primary ready_secondary full spare_primary spare_secondary
--         spare_answered replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(log replicas + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/announced.lua
-- include lib/doubt.lua
-- include lib/ejection.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/queue.lua

local replica_url, state, router, by, reason = unpack(ARGV)

local replica = keys.replica_prefix .. replica_url
local refused = refusal({
  'admin_by_name', 'routers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered',
}, {replica, 'hash'})
if refused then
  return refused
end
local stored = redis.call('HMGET', replica, 'admin', 'admin_reason', 'restored_from', 'ejected_until_ms',
  'admin_since_ms', 'expired_at_ms', 'withdrawn_at_ms', 'name')
if not stored[1] or stored[1] == 'removed' then
  return {'not_found'}
end
-- What was only put back may be replaced by a view that knows more: said again on purpose, it stays.
local is_returned = state == 'active' and stored[4]
if stored[1] == state and stored[2] == reason and not stored[3] and not is_returned then
  return {'unchanged'}
end

local now_ms = server_now_ms()
if stored[6] or stored[7] then
  if is_admin_kept(stored[8], replica_url, state, reason) then
    return {'unchanged'}
  end
  keep_admin(stored[8], replica_url, state, whole(now_ms), by, reason)
  local kept = {'set'}
  emit_replica(now_ms, replica, replica_url,
    {'kind', 'replica_admin', 'router', router, 'by', by, 'reason', reason}, kept)
  return kept
end
redis.call('HDEL', replica, 'restored_from')
if state == 'disabled' then
  forget_doubt(replica)
end
if state ~= 'draining' then
  forget_ejections(replica)
end
if state == 'active' then
  redis.call('HDEL', replica, 'removes_when_drained')
end
local since_ms = stored[1] == state and stored[5] or whole(now_ms)
redis.call('HSET', replica, 'admin', state, 'admin_reason', reason, 'admin_since_ms', since_ms, 'admin_by', by,
  'admin_by_at_ms', since_ms)
refresh_ready(replica, replica_url)
local reply = {'set'}
emit_replica(now_ms, replica, replica_url,
  {'kind', 'replica_admin', 'router', router, 'by', by, 'reason', reason}, reply)
serve_queue(now_ms)
return reply
