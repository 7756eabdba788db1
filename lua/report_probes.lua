-- Applies a batch of the leader's probe results, if the reporter is still the leader and the batch is new.
--
-- Token and epoch must both equal the stored ones. Batches are numbered from 1 within an epoch, and the leader sends
-- one at a time. A batch whose number was already applied changes nothing. A call stops after 12 events about
-- replicas, 6 while sessions wait, or 25 questions, so that it does not block the server for long; `done` says how many
-- results it has applied. The others belong in the next batch. A result for a removed replica, for another incarnation,
-- or for a replica whose hash is damaged is dropped. The script never creates a replica's hash. See lib/verdicts.lua
-- for what a result does.
--
-- KEYS    meta leader routers router_prefix probers events queue settling ready_primary ready_secondary full
--         spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix several_prefix
--         inbox_prefix
-- ARGV    token epoch batch failure_threshold recovery_threshold interval_ms timeout_ms
--         … (url incarnation outcome latency_ms error address)
-- RETURNS applied, done, dropped, event…  |  duplicate, done  |  fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta leader events queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered
--         replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(results * log replicas + probers + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/reports.lua

local FIRST_RESULT = 8

local token, epoch, batch, failure_threshold, recovery_threshold, interval_ms, timeout_ms = unpack(ARGV, 1, 7)

local refused = refusal({
  'leader', 'routers', 'probers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered',
})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'token', 'epoch', 'batch', 'router', 'batch_done')
if holder[1] ~= token or holder[2] ~= epoch then
  return {'fenced'}
end
if tonumber(batch) <= stored_number(holder[3], 0) then
  return {'duplicate', whole(stored_number(holder[5], 0))}
end
local results = parse_results(FIRST_RESULT)

local function covers_all()
  return true
end

local function store_done(done)
  redis.call('HSET', keys.leader, 'batch', batch, 'batch_done', done)
end

local limits = limits_of(failure_threshold, recovery_threshold, interval_ms, timeout_ms)
local reply = {'applied', '', ''}
apply_results(results, holder[4], limits, covers_all, store_done, reply)
return reply
