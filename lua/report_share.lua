-- Applies a batch of probe results of a router with a share of the plan, if the batch is new.
--
-- A batch carries the number of the plan under which its probes began. It counts under the present plan and, for an
-- interval after a change, under the plan before, for the replicas in the router's buckets. Other results are dropped.
-- Each participant numbers its own batches, and sends one at a time. Everything else is as in report_probes. See
-- lib/plan.lua for the plan and lib/verdicts.lua for what a result does.
--
-- KEYS    meta plan routers router_prefix probers events queue settling ready_primary ready_secondary full
--         spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix several_prefix
--         inbox_prefix
-- ARGV    router number batch failure_threshold recovery_threshold interval_ms timeout_ms
--         … (url incarnation outcome latency_ms error address)
-- RETURNS applied, done, dropped, event…  |  duplicate, done  |  fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta plan events queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered
--         replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(results * log replicas + probers + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/plan.lua
-- include lib/reports.lua

local FIRST_RESULT = 8

local router, number, batch, failure_threshold, recovery_threshold, interval_ms, timeout_ms = unpack(ARGV, 1, 7)

local refused = refusal({
  'plan', 'routers', 'probers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered',
})
if refused then
  return refused
end
local limits = limits_of(failure_threshold, recovery_threshold, interval_ms, timeout_ms)
local share = share_of(router, number, limits.interval_ms, server_now_ms())
if not share then
  return {'fenced'}
end
local last = redis.call('HMGET', keys.plan, 'batch:' .. router, 'batch_done:' .. router)
if tonumber(batch) <= stored_number(last[1], 0) then
  return {'duplicate', whole(stored_number(last[2], 0))}
end
local results = parse_results(FIRST_RESULT)

local function is_covered(url)
  return string.find(share, bucket_of(url), 1, true) ~= nil
end

local function store_done(done)
  redis.call('HSET', keys.plan, 'batch:' .. router, batch, 'batch_done:' .. router, done)
end

local reply = {'applied', '', ''}
apply_results(results, router, limits, is_covered, store_done, reply)
return reply
