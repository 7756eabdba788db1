-- Removes one incarnation of a replica. Its hash stays as a tombstone, so that a seed does not register it again and
-- late results are dropped. The tombstone stays until an operator registers the replica again.
-- With `when_drained` 1 and sessions on it, the replica drains; the call that ends its last session removes it.
--
-- KEYS    meta replicas removed announced replica_prefix ready_primary ready_secondary full spare_primary
--         spare_secondary spare_answered events
-- ARGV    replica_url incarnation router by reason when_drained
-- RETURNS removed|draining, event  |  not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced replica_prefix ready_primary ready_secondary full spare_primary
--         spare_secondary spare_answered events
-- COST    O(log replicas)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/discovered.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/tombstones.lua

local replica_url, incarnation, router, by, reason, when_drained = unpack(ARGV)

local replica = keys.replica_prefix .. replica_url
local refused = refusal({
  'replicas', 'removed', 'announced', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered', 'events',
}, {replica, 'hash'})
if refused then
  return refused
end
local stored = redis.call('HMGET', replica, 'incarnation', 'admin', 'in_flight', 'removes_when_drained',
  'withdrawn_at_ms', 'source', 'instance')
if stored[1] ~= incarnation or stored[2] == 'removed' then
  return {'not_found'}
end

local now_ms = server_now_ms()
local is_drained = when_drained ~= '1' or tonumber(stored[3]) == 0
local is_withdrawn_by_source = stored[5] and is_discovered(stored[6])
if not is_drained and stored[4] == '1' and not is_withdrawn_by_source then
  return {'draining'}
end
if is_withdrawn_by_source then
  -- What an operator removes stays removed, although its source of discovery does not have it either.
  redis.call('HDEL', replica, 'withdrawn_at_ms')
end
if stored[6] == 'announced' then
  if is_drained then
    redis.call('ZREM', keys.announced, replica_url) -- otherwise it would count among those that are silent
  end
  redis.call('HSET', replica, 'removed_instance', stored[7] or '')
end
if is_drained then
  -- Of an announced replica: what an operator removes is not gone by itself.
  redis.call('HDEL', replica, 'expired_at_ms', 'withdrawn_at_ms')
  write_tombstone(replica, replica_url, now_ms, reason)
  redis.call('HSET', replica, 'removed_by', by)
else
  redis.call('HDEL', replica, 'restored_from')
  local at = whole(now_ms)
  redis.call('HSET', replica, 'admin', 'draining', 'admin_since_ms', at, 'admin_reason', reason, 'admin_by', by,
    'admin_by_at_ms', at, 'removes_when_drained', '1', 'removed_by', by)
end
refresh_ready(replica, replica_url)
local reply = {is_drained and 'removed' or 'draining'}
local kind = is_drained and 'replica_deregistered' or 'replica_admin'
emit_replica(now_ms, replica, replica_url,
  {'kind', kind, 'router', router, 'by', by, 'reason', reason}, reply)
return reply
