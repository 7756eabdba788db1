-- Counts one success or failure that a router saw itself, by the same rules as a probe.
--
-- The one script that is not safe to run twice, since the same outcome may rightly happen twice: it is never retried.
--
-- KEYS    meta replica ready_primary ready_secondary full events
-- ARGV    replica_url incarnation ok latency_ms reason failure_threshold recovery_threshold router by
-- RETURNS applied, event…  |  not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta replica ready_primary ready_secondary full events
-- COST    O(log replicas)

-- include lib/refusal.lua
-- include lib/health.lua

local meta, replica, ready_primary, ready_secondary, full, events = unpack(KEYS)
local replica_url, incarnation, ok, latency_ms, reason, failure_threshold, recovery_threshold, router, by = unpack(ARGV)

local refused = refusal(meta, {
  replica, 'hash', ready_primary, 'zset', ready_secondary, 'zset', full, 'set', events, 'stream',
})
if refused then
  return refused
end
local keys = {meta = meta, events = events, primary = ready_primary, secondary = ready_secondary, full = full}
local thresholds = {failure = tonumber(failure_threshold), recovery = tonumber(recovery_threshold)}
local result = {url = replica_url, incarnation = incarnation, ok = ok == '1', latency = latency_ms, reason = reason}
local reply = {'applied'}
if not apply_result(keys, replica, result, thresholds, server_now_ms(), {router = router, by = by}, reply) then
  return {'not_found'}
end
return reply
