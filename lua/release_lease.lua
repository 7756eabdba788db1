-- Ends a lease, since the session on it has ended, or a place in the waiting line. Again, or for an id that never was,
-- it does nothing. The slot goes to who waits longest.
--
-- The count goes down on the replica that the lease names, also where that was removed meanwhile.
--
-- KEYS    meta replicas removed routers events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- ARGV    router lease_id affinity_ms
-- RETURNS released, event…  |  abandoned|not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- COST    O(log replicas + served * (log replicas + log waiters))

-- include lib/line.lua

local meta, replicas, removed, routers, events, queue, ready_primary, ready_secondary, full, replica_prefix,
  leases_prefix, affinity_prefix, inbox_prefix = unpack(KEYS)
local router, lease_id, affinity_ms = unpack(ARGV)

local leases = leases_prefix .. router
local refused = refusal(meta, {
  replicas, 'zset', removed, 'zset', routers, 'zset', leases, 'hash', events, 'stream', queue, 'zset',
  ready_primary, 'zset', ready_secondary, 'zset', full, 'set',
})
if refused then
  return refused
end
local url = redis.call('HGET', leases, lease_id)
if not url then
  local was_waiting = redis.call('ZREM', queue, router .. '/' .. lease_id) == 1
  return {was_waiting and 'abandoned' or 'not_found'}
end
local keys = {
  meta = meta, replicas = replicas, removed = removed, routers = routers, events = events, queue = queue,
  primary = ready_primary, secondary = ready_secondary, full = full, replica_prefix = replica_prefix,
  leases_prefix = leases_prefix, affinity_prefix = affinity_prefix, inbox_prefix = inbox_prefix,
}
refused = lease_refusal(keys, lease_id, url)
if refused then
  return refused
end

redis.call('HDEL', leases, lease_id)
local now_ms = server_now_ms()
local reply = {'released'}
unload(keys, url, 1, now_ms, router, reply)
keep_affinity(keys, lease_id, url, affinity_ms)
serve_queue(keys, now_ms)
return reply
