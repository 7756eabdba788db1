-- Ends the leases of a router that has not beaten for longer than its expiry, some at a time, and removes it with the
-- last of them. Checks each time: it may be back.
--
-- KEYS    meta replicas removed routers router leases ready_primary ready_secondary full events replica_prefix
--         affinity_prefix
-- ARGV    key by affinity_ms
-- RETURNS reaped|alive|not_found  |  partial, leases left  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed routers router leases ready_primary ready_secondary full events replica_prefix
--         affinity_prefix
-- COST    O(250 * log replicas)

-- include lib/partings.lua

local meta, replicas, removed, routers, router, leases, ready_primary, ready_secondary, full, events, replica_prefix,
  affinity_prefix = unpack(KEYS)
local key, by, affinity_ms = unpack(ARGV)

local refused = refusal(meta, {
  replicas, 'zset', removed, 'zset', routers, 'zset', router, 'hash', leases, 'hash', ready_primary, 'zset',
  ready_secondary, 'zset', full, 'set', events, 'stream',
})
if refused then
  return refused
end
local expires_at_ms = redis.call('ZSCORE', routers, key)
if not expires_at_ms then
  return {'not_found'}
end
local now_ms = server_now_ms()
local reap_after_ms = tonumber(redis.call('HGET', meta, 'reap_after_ms') or whole(now_ms + 1))
if tonumber(expires_at_ms) > now_ms or now_ms < reap_after_ms then
  return {'alive'}
end

local keys = {
  meta = meta, events = events, replicas = replicas, removed = removed, router = router, leases = leases,
  primary = ready_primary, secondary = ready_secondary, full = full, replica_prefix = replica_prefix,
  affinity_prefix = affinity_prefix,
}
local leases_left
refused, leases_left = end_some(keys, now_ms, by, affinity_ms, {})
if refused then
  return refused
end
if leases_left > 0 then
  return {'partial', whole(leases_left)}
end
redis.call('ZREM', routers, key)
redis.call('DEL', router)
emit(keys, now_ms, {'kind', 'router_expired', 'router', key, 'by', by})
return {'reaped'}
