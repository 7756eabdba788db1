-- A router's clean stop: ends its leases, some at a time, and takes it out of `routers` with the last of them.
--
-- KEYS    meta replicas removed routers router leases ready_primary ready_secondary full events replica_prefix
--         affinity_prefix
-- ARGV    key affinity_ms
-- RETURNS left|not_found  |  partial, leases left  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed routers router leases ready_primary ready_secondary full events replica_prefix
--         affinity_prefix
-- COST    O(250 * log replicas)

-- include lib/partings.lua

local meta, replicas, removed, routers, router, leases, ready_primary, ready_secondary, full, events, replica_prefix,
  affinity_prefix = unpack(KEYS)
local key, affinity_ms = unpack(ARGV)

local refused = refusal(meta, {
  replicas, 'zset', removed, 'zset', routers, 'zset', router, 'hash', leases, 'hash', ready_primary, 'zset',
  ready_secondary, 'zset', full, 'set', events, 'stream',
})
if refused then
  return refused
end
if not redis.call('ZSCORE', routers, key) then
  return {'not_found'}
end

local now_ms = server_now_ms()
local keys = {
  meta = meta, events = events, replicas = replicas, removed = removed, router = router, leases = leases,
  primary = ready_primary, secondary = ready_secondary, full = full, replica_prefix = replica_prefix,
  affinity_prefix = affinity_prefix,
}
local leases_left
refused, leases_left = end_some(keys, now_ms, key, affinity_ms, {})
if refused then
  return refused
end
if leases_left > 0 then
  return {'partial', whole(leases_left)}
end
redis.call('ZREM', routers, key)
redis.call('DEL', router)
emit(keys, now_ms, {'kind', 'router_left', 'router', key})
return {'left'}
