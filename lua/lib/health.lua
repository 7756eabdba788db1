-- The health state machine: pure rules for one success or failure.
--
-- Success: failures = 0, successes + 1; unknown becomes healthy at once, unhealthy after `recovery` successes in a
-- row; on becoming healthy successes = 0. Failure: successes = 0, failures + 1; anything but unhealthy becomes
-- unhealthy at `failure` failures in a row.

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

-- Weighs passive evidence: the outcome of a session that one router reports while others are alive and none probes.
-- One router alone brings a replica only to one failure below the threshold. Its success only cancels failures that it
-- alone reported.
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
