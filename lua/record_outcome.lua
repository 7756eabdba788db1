-- Counts one outcome of a router, by the same rules as a probe. If the outcome is passive evidence and other routers
-- are alive, it is weighed instead; see lib/health.lua.
--
-- This is the only script that is not safe to repeat, because two equal outcomes may both be real. It is never retried.
--
-- KEYS    meta routers events queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered
--         replica_prefix leases_prefix affinity_prefix inbox_prefix
-- ARGV    replica_url incarnation ok latency_ms reason failure_threshold recovery_threshold router by
--         is_passive
-- RETURNS applied, event…  |  not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta events queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered
--         replica_prefix leases_prefix affinity_prefix inbox_prefix
-- COST    O(log replicas + log routers + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/health.lua
-- include lib/queue.lua

local replica_url, incarnation, ok, latency_ms, reason, failure_threshold, recovery_threshold, router, by, is_passive =
  unpack(ARGV)

local replica = keys.replica_prefix .. replica_url
local refused = refusal({
  'routers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary', 'spare_secondary',
  'spare_answered',
}, {replica, 'hash'})
if refused then
  return refused
end
local thresholds = {failure = tonumber(failure_threshold), recovery = tonumber(recovery_threshold)}
local result = {url = replica_url, incarnation = incarnation, ok = ok == '1', latency = latency_ms, reason = reason}
local now_ms = server_now_ms()
local live = redis.call('ZCOUNT', keys.routers, '(' .. whole(now_ms), '+inf')
local origin = {router = router, by = by, is_passive = is_passive == '1' and live > 1}
local reply = {'applied'}
if not apply_result(replica, result, thresholds, now_ms, origin, reply) then
  return {'not_found'}
end
serve_queue(now_ms)
return reply
