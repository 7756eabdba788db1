-- Ends a lease: the session on it has ended. Again, or for an id that never was, it does nothing.
--
-- The count goes down on the replica that the lease names, also where that was removed meanwhile.
--
-- KEYS    meta replicas removed leases ready_primary ready_secondary full events replica_prefix affinity_prefix
-- ARGV    router lease_id affinity_ms
-- RETURNS released, event…  |  not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed leases ready_primary ready_secondary full events replica_prefix affinity_prefix
-- COST    O(log replicas)

-- include lib/leases.lua

local meta, replicas, removed, leases, ready_primary, ready_secondary, full, events, replica_prefix, affinity_prefix =
  unpack(KEYS)
local router, lease_id, affinity_ms = unpack(ARGV)

local refused = refusal(meta, {
  replicas, 'zset', removed, 'zset', leases, 'hash', ready_primary, 'zset', ready_secondary, 'zset', full, 'set',
  events, 'stream',
})
if refused then
  return refused
end
local url = redis.call('HGET', leases, lease_id)
if not url then
  return {'not_found'}
end
local keys = {
  meta = meta, events = events, replicas = replicas, removed = removed, primary = ready_primary,
  secondary = ready_secondary, full = full, replica_prefix = replica_prefix, affinity_prefix = affinity_prefix,
}
refused = lease_refusal(keys, lease_id, url)
if refused then
  return refused
end

redis.call('HDEL', leases, lease_id)
local reply = {'released'}
unload(keys, url, 1, server_now_ms(), router, reply)
keep_affinity(keys, lease_id, url, affinity_ms)
return reply
