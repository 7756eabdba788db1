-- Counts one outcome of a router. What it changes depends on who is there to judge.
--
-- If this router is the only one, the outcome counts like a probe. While any other router is alive: an outcome on
-- purpose (`is_passive` 0) counts like a probe of a prober with peers; without routers that probe, a failure makes a
-- replica unhealthy only if no router has recorded a success within an interval, a timeout and a second. The outcome of
-- a session (`is_passive` 1) changes no status while routers probe. A failure then makes the replica's prober probe at
-- once: the event is emitted at most once an interval. Failures of several machines or clients may eject the replica;
-- see lib/ejecting.lua. Without routers that probe, the outcome of connecting is weighed; see lib/health.lua.
--
-- `connected` is empty for the outcome of connecting. For a session that was connected before it is how many sessions
-- in a row failed on this router, 0 after a success, and `client` names their client, or is `*` for several.
-- `failed_ago_ms` is how long ago a session could not connect, if a probe of this router has reached the replica since
-- then. It is empty if not: the failure then makes the prober probe, but does not count towards an ejection. With
-- `max_ejection_percent` 0 no replica is ejected.
--
-- This is the only script that is not safe to repeat, because two equal outcomes may both be real. It is never retried.
--
-- KEYS    meta routers router_prefix probers events queue settling ready_primary ready_secondary full spare_primary
--         spare_secondary spare_answered ejected replica_prefix leases_prefix affinity_prefix several_prefix
--         inbox_prefix
-- ARGV    replica_url incarnation ok latency_ms reason failure_threshold recovery_threshold interval_ms timeout_ms
--         router by is_passive connected client failed_ago_ms max_ejection_percent base_ejection_ms
--         ejection_failures
-- RETURNS applied, event…  |  not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta events queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered ejected
--         replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(log replicas + log routers + probers + 120 + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/verdicts.lua
-- include lib/ejecting.lua
-- include lib/queue.lua

local RECENT_MS = 1000
-- In a large fleet the prober tells of a settled replica's successes less often: together about 100 a second, and of
-- each replica within a minute (leader/sampling.py). It tells of every failure at once.
local SILENCE_A_REPLICA_MS, LONGEST_SILENCE_MS = 10, 60000

local replica_url, incarnation, ok, latency_ms, reason, failure_threshold, recovery_threshold, interval_ms, timeout_ms,
  router, by, is_passive, connected, client, failed_ago_ms, max_ejection_percent, base_ejection_ms,
  ejection_failures = unpack(ARGV)

local replica = keys.replica_prefix .. replica_url
local refused = refusal({
  'routers', 'probers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered', 'ejected',
}, {replica, 'hash'})
if refused then
  return refused
end
local limits = limits_of(failure_threshold, recovery_threshold, interval_ms, timeout_ms)
local result = {
  url = replica_url, incarnation = incarnation, outcome = ok == '1' and 'ok' or 'failed', ok = ok == '1',
  latency = latency_ms, reason = reason,
}
local now_ms = server_now_ms()
local state = read_state(replica, incarnation)
if not state then
  return {'not_found'}
end
local is_alone = redis.call('ZCOUNT', keys.routers, '(' .. whole(now_ms), '+inf') <= 1
local origin = {router = router, by = by, reason = reason}
local reply = {'applied'}

local is_connected = connected ~= ''

-- Returns whether the failures of sessions lately, with this one, have ejected the replica.
local function has_ejected()
  local max_percent = tonumber(max_ejection_percent)
  if not is_connected and failed_ago_ms == '' then
    return false
  end
  if max_percent == 0 or state.status ~= 'healthy' or state.admin ~= 'active' or state.ejected_until_ms then
    return false
  end
  local failed = {
    router = router, client = client, is_connected = is_connected, count = tonumber(connected) or 0,
    at_ms = now_ms - (tonumber(failed_ago_ms) or 0),
  }
  local why, from_ms = note_failure(replica, failed, limits.interval_ms, tonumber(ejection_failures), now_ms)
  return why
    and eject(replica, replica_url, why, from_ms, max_percent, tonumber(base_ejection_ms), now_ms, origin, reply)
end

-- Ejects the replica, or lets the prober probe at once, at most once an interval. Changes no status.
local function report_failure()
  if has_ejected() then
    return
  end
  local last = tonumber(redis.call('HGET', replica, 'reported_at_ms') or '')
  if not last or last > now_ms or now_ms - last >= limits.interval_ms then
    redis.call('HSET', replica, 'reported_at_ms', whole(now_ms))
    if tonumber(max_ejection_percent) > 0 then
      note_announcement(replica, now_ms)
    end
    local id, entry = emit(now_ms, {'kind', 'replica_reported', 'router', router, 'by', by, 'reason', reason,
      'reported', replica_url})
    append_event(reply, id, entry)
  end
end

local function weigh_session()
  local status, failures, successes, witness = weigh_passive(state.status, state.failures, state.successes,
    state.failing_witness, result, limits, router)
  local update = {'consecutive_failures', whole(failures), 'consecutive_successes', whole(successes)}
  if not result.ok then
    update = failure_fields(failures, result, now_ms)
  end
  write_health(replica, replica_url, state, update, status, origin, now_ms, reply)
  if witness then
    redis.call('HSET', replica, 'failing_witness', witness)
  end
end

-- Returns for how long the prober may have told nothing of a replica that it reaches.
local function silence_ms()
  if #read_probers() == 0 then
    return 0
  end
  local ready = redis.call('ZCARD', keys.ready_primary) + redis.call('ZCARD', keys.ready_secondary)
  local silence = math.min(SILENCE_A_REPLICA_MS * (ready + redis.call('SCARD', keys.full)), LONGEST_SILENCE_MS)
  return silence > limits.interval_ms and silence + limits.interval_ms or 0
end

local function was_reached_lately()
  local last_ok = tonumber(redis.call('HGET', replica, 'last_ok_at_ms') or '')
  return limits.interval_ms > 0 and last_ok and last_ok <= now_ms
    and now_ms - last_ok <= limits.interval_ms + limits.timeout_ms + RECENT_MS + silence_ms()
end

local function count_failure()
  local status, failures = next_health(state.status, state.failures, state.successes, false, limits)
  if status and not is_alone and was_reached_lately() then
    status = nil
  end
  write_health(replica, replica_url, state, failure_fields(failures, result, now_ms), status, origin, now_ms, reply)
end

local is_session = is_passive == '1' and not is_alone

local function judge()
  if is_session then
    weigh_session()
  elseif result.ok then
    apply_success(replica, result, state, limits, now_ms, origin, reply)
  elseif state.status == 'healthy' and has_peers(router) then
    weigh_failure(replica, result, state, limits, now_ms, origin, reply)
  else
    count_failure()
  end
end

if is_session and #read_probers() > 0 then
  if not result.ok then
    report_failure()
  elseif is_connected then
    redis.call('HDEL', replica, unpack(RUN_FIELDS))
  else
    redis.call('HDEL', replica, 'unreached_from')
  end
elseif not is_connected then -- without probes, nothing shows that a replica on which connected sessions fail is reached
  judge()
end
emit_findings(router, now_ms, reply)
serve_queue(now_ms)
return reply
