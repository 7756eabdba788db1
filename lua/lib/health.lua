-- The health state machine: applies one success or failure to a replica's hash.
--
-- Success: failures = 0, successes + 1; unknown becomes healthy at once, unhealthy after `recovery` successes in a
-- row; on becoming healthy successes = 0. Failure: successes = 0, failures + 1; anything but unhealthy becomes
-- unhealthy at `failure` failures in a row.

-- include lib/events.lua
-- include lib/ready.lua

-- Returns the new status, or nil if it does not change, and the counters of failures and successes after this result.
local function next_health(status, failures, successes, ok, thresholds)
  if ok then
    successes = successes + 1
    if status == 'unknown' or (status == 'unhealthy' and successes >= thresholds.recovery) then
      return 'healthy', 0, 0
    end
    return nil, 0, successes
  end
  failures = failures + 1
  if status ~= 'unhealthy' and failures >= thresholds.failure then
    return 'unhealthy', failures, 0
  end
  return nil, failures, 0
end

-- Weighs passive evidence, which is an outcome that one router reports while other routers are alive. One router alone
-- brings a replica only to one failure below the threshold. Its success only cancels failures that it alone reported.
-- witness: the router that alone has seen all failures counted so far; false if several routers, or a probe, saw them.
-- Returns the status to write, or nil if it does not change, the counters, and the witness.
local function weigh_passive(status, failures, successes, witness, result, thresholds, router)
  local is_alone = witness == router or (failures == 0 and not witness)
  if result.ok then
    return nil, is_alone and 0 or failures, successes, not is_alone and witness
  end
  if is_alone and status ~= 'unhealthy' and failures + 1 >= thresholds.failure then
    return nil, math.max(failures, thresholds.failure - 1), 0, router
  end
  status, failures, successes = next_health(status, failures, successes, false, thresholds)
  return status, failures, successes, is_alone and router
end

-- Applies a result to the replica of that url. Drops it if the incarnation is another one or the replica is removed.
-- result: url, incarnation, ok, latency, reason. origin: router; by, empty for a probe; is_passive, true if the result
-- is passive evidence. Appends an event to reply if the status changed. Returns whether the result was applied.
local function apply_result(replica_key, result, thresholds, now_ms, origin, reply)
  local state = redis.call('HMGET', replica_key, 'incarnation', 'admin', 'status', 'consecutive_failures',
    'consecutive_successes', 'failing_witness')
  if state[1] ~= result.incarnation or state[2] == 'removed' then
    return false
  end
  local status, failures, successes = state[3], tonumber(state[4]), tonumber(state[5])
  local witness = state[6]
  if origin.is_passive then
    status, failures, successes, witness =
      weigh_passive(status, failures, successes, witness, result, thresholds, origin.router)
  else
    status, failures, successes = next_health(status, failures, successes, result.ok, thresholds)
    witness = false
  end
  local update = {'consecutive_failures', whole(failures), 'consecutive_successes', whole(successes)}
  local function set(field, value)
    update[#update + 1] = field
    update[#update + 1] = value
  end
  if result.ok and not origin.is_passive then
    set('last_ok_at_ms', whole(now_ms))
    set('last_latency_ms', result.latency)
  elseif not result.ok then
    set('last_failure_at_ms', whole(now_ms))
    set('last_error', result.reason)
  end
  local slow_start_ms = status == 'healthy' and redis.call('HGET', keys.meta, 'slow_start_ms')
  if status then
    set('status', status)
    set('status_since_ms', whole(now_ms))
  end
  if slow_start_ms then
    set('slow_start_ms', slow_start_ms)
  end
  if witness then
    set('failing_witness', witness)
  end
  redis.call('HSET', replica_key, unpack(update))
  if state[6] and not witness then
    redis.call('HDEL', replica_key, 'failing_witness')
  end
  if status and not slow_start_ms then
    redis.call('HDEL', replica_key, 'slow_start_ms')
  end
  if status then
    refresh_ready(replica_key, result.url)
    emit_replica(now_ms, replica_key, result.url,
      {'kind', 'replica_' .. status, 'router', origin.router, 'by', origin.by, 'reason', result.reason}, reply)
  elseif result.ok and state[3] ~= 'healthy' then
    -- It may have become a replica that answered within the last hour.
    refresh_ready(replica_key, result.url)
  end
  return true
end
