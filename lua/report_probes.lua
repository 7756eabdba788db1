-- Applies a batch of the leader's probe results, if the reporter is still the leader and the batch is new.
--
-- Token and epoch must both equal the stored ones. Batches are numbered from 1 within an epoch, and the leader sends
-- one at a time. A batch whose number was already applied changes nothing. A result for a removed replica or for
-- another incarnation is dropped. The script never creates a replica's hash.
--
-- KEYS    meta leader routers events queue ready_primary ready_secondary full spare_primary spare_secondary
--         spare_answered replica_prefix leases_prefix affinity_prefix inbox_prefix
-- ARGV    token epoch batch failure_threshold recovery_threshold … (url incarnation ok latency_ms error)
-- RETURNS applied, dropped, event…  |  duplicate|fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta leader events queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered
--         replica_prefix leases_prefix affinity_prefix inbox_prefix
-- COST    O(results * log replicas + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/health.lua
-- include lib/queue.lua

local RESULT_WIDTH = 5

local token, epoch, batch, failure_threshold, recovery_threshold = unpack(ARGV, 1, 5)

local refused = refusal({
  'leader', 'routers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered',
})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'token', 'epoch', 'batch', 'router')
if holder[1] ~= token or holder[2] ~= epoch then
  return {'fenced'}
end
if tonumber(batch) <= tonumber(holder[3]) then
  return {'duplicate'}
end
for i = 6, #ARGV, RESULT_WIDTH do
  refused = type_refusal({keys.replica_prefix .. ARGV[i], 'hash'})
  if refused then
    return refused
  end
end

local now_ms = server_now_ms()
local thresholds = {failure = tonumber(failure_threshold), recovery = tonumber(recovery_threshold)}
local origin = {router = holder[4], by = ''}
local dropped = 0
local reply = {'applied', ''}
redis.call('HSET', keys.leader, 'batch', batch)
for i = 6, #ARGV, RESULT_WIDTH do
  local result = {
    url = ARGV[i], incarnation = ARGV[i + 1], ok = ARGV[i + 2] == '1', latency = ARGV[i + 3], reason = ARGV[i + 4],
  }
  if not apply_result(keys.replica_prefix .. result.url, result, thresholds, now_ms, origin, reply) then
    dropped = dropped + 1
  end
end
serve_queue(now_ms)
reply[2] = whole(dropped)
return reply
