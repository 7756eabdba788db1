-- Takes an announced replica out of service, for the instance that holds it, and removes it. Its url may be announced
-- by another instance at once. An operator's admin state is kept for the next replica of the same name.
-- With `when_drained` 1 and sessions on it, the replica drains; the call that ends its last session removes it.
--
-- KEYS    meta replicas removed announced departing admin_by_name names replica_prefix ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered events
-- ARGV    replica_url instance router by reason when_drained
-- RETURNS removed|draining, event  |  not_found|taken, owner  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced departing admin_by_name replica_prefix ready_primary ready_secondary full
--         spare_primary spare_secondary spare_answered events
-- COST    O(log replicas)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/announced.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/tombstones.lua

local replica_url, instance, router, by, reason, when_drained = unpack(ARGV)

local replica = keys.replica_prefix .. replica_url
local refused = refusal({
  'replicas', 'removed', 'announced', 'departing', 'admin_by_name', 'ready_primary', 'ready_secondary', 'full',
  'spare_primary', 'spare_secondary', 'spare_answered', 'events',
}, {replica, 'hash'})
if refused then
  return refused
end
local stored = redis.call('HMGET', replica, 'source', 'instance', 'admin', 'in_flight', 'withdrawn_at_ms', 'owner')
if stored[1] ~= 'announced' or stored[3] == 'removed' then
  return {'not_found'}
end
if stored[2] ~= instance then
  return {'taken', stored[6] or ''}
end

local now_ms = server_now_ms()
local is_drained = when_drained ~= '1' or tonumber(stored[4]) == 0
if not is_drained and stored[5] then
  return {'draining'}
end
redis.call('ZREM', keys.departing, replica_url) -- a deletion comes first, so that this works while memory is short
keep_admin_of(replica, replica_url)
local at = whole(now_ms)
redis.call('HSET', replica, 'withdrawn_at_ms', at)
if is_drained then
  redis.call('ZREM', keys.announced, replica_url)
  write_tombstone(replica, replica_url, now_ms, reason)
  redis.call('ZREM', keys.removed, replica_url)
  redis.call('HSET', replica, 'removed_by', by)
  redis.call('ZADD', keys.departing, at, replica_url)
else
  redis.call('HDEL', replica, 'restored_from')
  redis.call('HSET', replica, 'admin', 'draining', 'admin_since_ms', at, 'admin_reason', reason, 'admin_by', by,
    'admin_by_at_ms', at, 'removes_when_drained', '1', 'removed_by', by)
end
refresh_ready(replica, replica_url)
local reply = {is_drained and 'removed' or 'draining'}
local kind = is_drained and 'replica_deregistered' or 'replica_admin'
emit_replica(now_ms, replica, replica_url, {'kind', kind, 'router', router, 'by', by, 'reason', reason}, reply)
return reply
