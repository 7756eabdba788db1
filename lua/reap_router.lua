-- Reaps a router that has sent no heartbeat for longer than its expiry. Each call ends some of its waiters and leases;
-- the call that ends the last lease removes the router. Each call first checks whether the router is alive again.
--
-- With `moves` 1, leases that may move go to the router that calls, if it is one, instead of ending (lib/moving.lua).
--
-- KEYS    meta replicas removed routers moved router_prefix probers events queue settling ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix sequence_prefix
-- ARGV    key by affinity_ms moves
-- RETURNS reaped, leases ended  |  alive|not_found  |  partial, leases left, leases ended
--         |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed routers moved router_prefix probers events queue settling ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix sequence_prefix
-- COST    O(60 * log replicas + 1000 * log waiters)

-- include lib/keys.lua
-- include lib/departures.lua

local key, by, affinity_ms, moves = unpack(ARGV)

local record, leases, inbox = keys.router_prefix .. key, keys.leases_prefix .. key, keys.inbox_prefix .. key
local refused = refusal({
  'replicas', 'removed', 'routers', 'moved', 'probers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full',
  'spare_primary', 'spare_secondary', 'spare_answered',
}, {record, 'hash', leases, 'hash', inbox, 'stream'})
if refused then
  return refused
end
local expires_at_ms = redis.call('ZSCORE', keys.routers, key)
if not expires_at_ms then
  return {'not_found'}
end
local now_ms = server_now_ms()
local reap_after_ms = stored_number(redis.call('HGET', keys.meta, 'reap_after_ms'), now_ms + 1)
if tonumber(expires_at_ms) > now_ms or now_ms < reap_after_ms then
  return {'alive'}
end

local heir = moves == '1' and by ~= key and redis.call('ZSCORE', keys.routers, by) and by or nil
local leases_left, ended = end_some(key, now_ms, by, affinity_ms, heir)
if leases_left then
  return {'partial', whole(leases_left), whole(ended)}
end
emit(now_ms, {'kind', 'router_expired', 'router', key, 'by', by})
return {'reaped', whole(ended)}
