-- Removes a router that stops cleanly. Each call ends some of its waiters and leases; the call that ends the last lease
-- takes the router out of `routers`.
--
-- With `moves` 1, leases that may move go to another live router, if there is one, instead of ending (lib/moving.lua).
--
-- KEYS    meta replicas removed routers moved router_prefix probers events queue settling ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix sequence_prefix
-- ARGV    key affinity_ms moves
-- RETURNS left|not_found  |  partial, leases left  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed routers moved router_prefix probers events queue settling ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix sequence_prefix
-- COST    O(60 * log replicas + 1000 * log waiters)

-- include lib/keys.lua
-- include lib/departures.lua

local key, affinity_ms, moves = unpack(ARGV)

local record, leases, inbox = keys.router_prefix .. key, keys.leases_prefix .. key, keys.inbox_prefix .. key
local refused = refusal({
  'replicas', 'removed', 'routers', 'moved', 'probers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full',
  'spare_primary', 'spare_secondary', 'spare_answered',
}, {record, 'hash', leases, 'hash', inbox, 'stream'})
if refused then
  return refused
end
if not redis.call('ZSCORE', keys.routers, key) then
  return {'not_found'}
end

local now_ms = server_now_ms()
local heir = moves == '1' and find_heir(now_ms, key) or nil
local leases_left = end_some(key, now_ms, key, affinity_ms, heir)
if leases_left then
  return {'partial', whole(leases_left)}
end
emit(now_ms, {'kind', 'router_left', 'router', key})
return {'left'}
