-- A router's clean stop: ends its leases, some at a time, and takes it out of `routers` with the last of them.
--
-- KEYS    meta replicas removed routers router events queue ready_primary ready_secondary full replica_prefix
--         leases_prefix affinity_prefix inbox_prefix place_prefix
-- ARGV    key affinity_ms
-- RETURNS left|not_found  |  partial, leases left  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed routers router events queue ready_primary ready_secondary full replica_prefix
--         leases_prefix affinity_prefix inbox_prefix place_prefix
-- COST    O(250 * log replicas + 1000 * log waiters)

-- include lib/partings.lua

local meta, replicas, removed, routers, router, events, queue, ready_primary, ready_secondary, full, replica_prefix,
  leases_prefix, affinity_prefix, inbox_prefix, place_prefix = unpack(KEYS)
local key, affinity_ms = unpack(ARGV)

local leases, inbox = leases_prefix .. key, inbox_prefix .. key
local refused = refusal(meta, {
  replicas, 'zset', removed, 'zset', routers, 'zset', router, 'hash', leases, 'hash', inbox, 'stream',
  events, 'stream', queue, 'zset', ready_primary, 'zset', ready_secondary, 'zset', full, 'set',
})
if refused then
  return refused
end
if not redis.call('ZSCORE', routers, key) then
  return {'not_found'}
end

local now_ms = server_now_ms()
local keys = {
  meta = meta, replicas = replicas, removed = removed, routers = routers, router = router, leases = leases,
  events = events, queue = queue, primary = ready_primary, secondary = ready_secondary, full = full,
  replica_prefix = replica_prefix, leases_prefix = leases_prefix, affinity_prefix = affinity_prefix,
  inbox_prefix = inbox_prefix, place_prefix = place_prefix,
}
local leases_left
refused, leases_left = end_some(keys, key, now_ms, key, affinity_ms)
if refused then
  return refused
end
if leases_left then
  return {'partial', whole(leases_left)}
end
emit(keys, now_ms, {'kind', 'router_left', 'router', key})
return {'left'}
