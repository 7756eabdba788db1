-- Applies a batch of the leader's probe results, if the reporter is still the leader and the batch is new.
--
-- Token and epoch must both equal the stored ones. Batches are numbered from 1 within an epoch, and the leader sends
-- one at a time. A batch whose number was already applied changes nothing. A call stops after 50 changes of status, so
-- that it does not block the server for long; `done` says how many results it has applied. The others belong in the
-- next batch. A result for a removed replica or for another incarnation is dropped. The script never creates a
-- replica's hash. See lib/verdicts.lua for what a result does.
--
-- KEYS    meta leader routers router_prefix probers events queue ready_primary ready_secondary full spare_primary
--         spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix inbox_prefix
-- ARGV    token epoch batch failure_threshold recovery_threshold interval_ms timeout_ms
--         … (url incarnation outcome latency_ms error)
-- RETURNS applied, done, dropped, event…  |  duplicate, done  |  fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta leader events queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered
--         replica_prefix leases_prefix affinity_prefix inbox_prefix
-- COST    O(results * log replicas + probers + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/verdicts.lua
-- include lib/queue.lua

local FIRST_RESULT = 8
local RESULT_WIDTH = 5
local CHANGES_AT_ONCE = 50

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
if tonumber(batch) <= tonumber(holder[3]) then
  return {'duplicate', holder[5] or '0'}
end
for i = FIRST_RESULT, #ARGV, RESULT_WIDTH do
  refused = type_refusal({keys.replica_prefix .. ARGV[i], 'hash'})
  if refused then
    return refused
  end
end

local now_ms = server_now_ms()
local limits = limits_of(failure_threshold, recovery_threshold, interval_ms, timeout_ms)
local router = holder[4]
local done, dropped, changes = 0, 0, 0
local reply = {'applied', '', ''}
for i = FIRST_RESULT, #ARGV, RESULT_WIDTH do
  local result = {
    url = ARGV[i], incarnation = ARGV[i + 1], outcome = ARGV[i + 2], latency = ARGV[i + 3], reason = ARGV[i + 4],
  }
  local is_there, status =
    apply_probe(keys.replica_prefix .. result.url, result, limits, now_ms, {router = router, is_leader = true}, reply)
  done = done + 1
  dropped = dropped + (is_there and 0 or 1)
  changes = changes + (status and 1 or 0)
  if changes == CHANGES_AT_ONCE then
    break
  end
end
redis.call('HSET', keys.leader, 'batch', batch, 'batch_done', whole(done))
emit_suspected(router, now_ms, reply)
serve_queue(now_ms)
reply[2], reply[3] = whole(done), whole(dropped)
return reply
