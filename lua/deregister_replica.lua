-- Removes the replica of one incarnation. Its hash stays as a tombstone: a seed does not bring it back, and late
-- results find it removed. The tombstone goes seven days after the last session on it has ended.
--
-- KEYS    meta replicas removed replica ready_primary ready_secondary full events
-- ARGV    replica_url incarnation router by reason
-- RETURNS removed, event  |  not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed replica ready_primary ready_secondary full events
-- COST    O(log replicas)

-- include lib/refusal.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/tombstones.lua

local meta, replicas, removed, replica, ready_primary, ready_secondary, full, events = unpack(KEYS)
local replica_url, incarnation, router, by, reason = unpack(ARGV)

local refused = refusal(meta, {
  replicas, 'zset', removed, 'zset', replica, 'hash', ready_primary, 'zset', ready_secondary, 'zset', full, 'set',
  events, 'stream',
})
if refused then
  return refused
end
local stored = redis.call('HMGET', replica, 'incarnation', 'admin')
if stored[1] ~= incarnation or stored[2] == 'removed' then
  return {'not_found'}
end

local now_ms = server_now_ms()
bury({replicas = replicas, removed = removed}, replica, replica_url, now_ms, reason)
refresh_ready({primary = ready_primary, secondary = ready_secondary, full = full}, replica, replica_url)
local reply = {'removed'}
emit_replica({meta = meta, events = events}, now_ms, replica, replica_url,
  {'kind', 'replica_deregistered', 'router', router, 'by', by, 'reason', reason}, reply)
return reply
