-- Verdicts by several routers. Before a healthy replica turns unhealthy, up to three peers of its prober are asked. If
-- one of them reaches the replica, it stays healthy. If the same prober is wrong about it again, that peer becomes its
-- prober. Nothing keeps a timer in Redis: the next failing result decides. Without peers, results count at once.

-- include lib/doubt.lua
-- include lib/ejection.lua
-- include lib/events.lua
-- include lib/health.lua
-- include lib/peers.lua
-- include lib/ready.lua
-- include lib/status_changes.lua

-- An answer takes a timeout and some tenths of a second. With a whole second, the third failure of a replica that dies
-- silently would come at the very end of the silence (interval 1 s), and jitter would decide about it.
local SILENCE_MS = 750
local URLS_AN_EVENT = 25
-- A script that applies many results stops after so much work, so that it blocks the server for some milliseconds only:
-- a change of status that is told with others is one piece of work, a question too, an event about one replica three.
-- While sessions wait, a call also serves the queue, so it has to apply less.
local WORK_AT_ONCE, NEWS_AT_ONCE_BESIDE_A_QUEUE = 36, 6

local STATE_READ = {
  'incarnation', 'admin', 'status', 'consecutive_failures', 'consecutive_successes', 'weight', 'capacity',
  'status_since_ms', 'failing_witness', 'suspicion', 'suspected_by', 'suspected_at_ms', 'suspected_until_ms', 'asked',
  'unreached_by', 'reached_by', 'refuted_prober', 'prober', 'prober_until_ms', 'prober_report', 'ejected_until_ms',
}
local FIRST_DOUBT = 9 -- from here on, a replica that is well and undoubted has none of them
-- Those that must be numbers, and those that must be if they are there.
local NUMBERS = {'consecutive_failures', 'consecutive_successes', 'weight', 'capacity'}
local OPTIONAL_NUMBERS = {
  'suspected_at_ms', 'suspected_until_ms', 'prober_until_ms', 'prober_report', 'status_since_ms', 'ejected_until_ms',
}

-- Returns thresholds and times of probes, which arrive as text, as numbers.
local function limits_of(failure, recovery, interval_ms, timeout_ms)
  return {
    failure = tonumber(failure), recovery = tonumber(recovery), interval_ms = tonumber(interval_ms),
    timeout_ms = tonumber(timeout_ms),
  }
end

local function is_intact(state)
  for _, name in ipairs(NUMBERS) do
    if not tonumber(state[name] or '') then
      return false
    end
  end
  for _, name in ipairs(OPTIONAL_NUMBERS) do
    if not tonumber(state[name] or '0') then
      return false
    end
  end
  return tonumber(state.weight) > 0 and state.status ~= false and state.admin ~= false
end

-- Returns the fields of STATE_READ in their order; absent ones are false. Returns nil if the replica is removed or of
-- another incarnation, or its key is of another type: that must not stop what is said about others.
local function read_values(replica_key, incarnation)
  local values = redis.pcall('HMGET', replica_key, unpack(STATE_READ))
  if values.err or values[1] ~= incarnation or values[2] == 'removed' then
    return nil
  end
  return values
end

-- Returns the fields of a replica that decide about its health, by name; absent ones are false. Returns nil if the
-- replica is removed or of another incarnation, or its key is damaged.
-- values: those of read_values, if they were read.
local function read_state(replica_key, incarnation, values)
  values = values or read_values(replica_key, incarnation)
  if not values then
    return nil
  end
  local state = {}
  for i, name in ipairs(STATE_READ) do
    state[name] = values[i]
  end
  if not is_intact(state) then
    return nil
  end
  state.failures, state.successes = tonumber(state.consecutive_failures), tonumber(state.consecutive_successes)
  return state
end

local function words_in(text)
  local words = {}
  for word in string.gmatch(text or '', '%S+') do
    words[#words + 1] = word
  end
  return words
end

-- Returns for how long the word of a router counts to which a replica was handed over.
local function word_ms(limits)
  return 2 * limits.interval_ms + limits.timeout_ms
end

-- Returns whether the word of the router counts that probes the replica in place of the leader. It does not if that
-- router is silent or dead. An end further away than a word lasts shows that the clock was set back.
local function is_prober_heard(state, limits, now_ms)
  local until_ms = tonumber(state.prober_until_ms or '0')
  return state.prober and now_ms < until_ms and until_ms <= now_ms + word_ms(limits) and is_probing(state.prober)
end

-- What is the same for all results of a script is read once.
local common = {}

local function is_anybody_waiting()
  if common.is_anybody_waiting == nil then
    common.is_anybody_waiting = redis.call('ZCARD', keys.queue) > 0
  end
  return common.is_anybody_waiting
end

-- Returns how long a replica ramps up that turns healthy; false if it does not.
local function ramp_ms()
  if common.ramp_ms == nil then
    common.ramp_ms = redis.call('HGET', keys.meta, 'slow_start_ms')
  end
  return common.ramp_ms
end

-- Returns whether routers disagree about a replica, or did lately.
local function is_doubted(state)
  return state.suspected_at_ms or state.suspicion or state.prober or state.unreached_by or state.reached_by
    or state.refuted_prober or state.asked or state.prober_until_ms
end

-- Writes health: a flat list of fields, and a new status unless it is nil. Status changes drop all doubt, and end an
-- ejection.
-- origin: router, by, reason, and has_no_ramp if a replica that turns healthy begins no slow start.
local function write_health(replica_key, url, state, update, status, origin, now_ms, reply)
  local slow_start_ms = status == 'healthy' and not origin.has_no_ramp and ramp_ms()
  local length = #update
  if status then
    update[length + 1], update[length + 2] = 'status', status
    update[length + 3], update[length + 4] = 'status_since_ms', whole(now_ms)
  end
  if slow_start_ms then
    update[length + 5], update[length + 6] = 'slow_start_ms', slow_start_ms
  end
  redis.call('HSET', replica_key, unpack(update))
  if state.failing_witness then
    redis.call('HDEL', replica_key, 'failing_witness')
  end
  if not status then
    return
  end
  if is_doubted(state) then
    forget_doubt(replica_key)
  end
  redis.call('HDEL', replica_key, slow_start_ms and 'failing_witness' or 'slow_start_ms', unpack(RUN_FIELDS))
  if state.ejected_until_ms then
    end_ejection(replica_key, now_ms)
  end
  if status == 'unhealthy' and state.unreached_by then
    redis.call('HSET', replica_key, 'unreached_by', state.unreached_by)
  end
  if origin.prober_until_ms then
    redis.call('HSET', replica_key, 'prober', origin.router, 'prober_until_ms', whole(origin.prober_until_ms),
      'prober_report', '0')
  end
  local primary, in_flight, last_ok_at_ms, revision, name = unpack(redis.call('HMGET', replica_key, 'primary',
    'in_flight', 'last_ok_at_ms', 'revision', 'name'))
  put_in_set(url, {
    [STATUS] = status, [ADMIN] = state.admin, [PRIMARY] = primary, [WEIGHT] = state.weight, [CAPACITY] = state.capacity,
    [IN_FLIGHT] = in_flight, [SLOW_START_MS] = slow_start_ms, [STATUS_SINCE_MS] = whole(now_ms),
    [LAST_OK_AT_MS] = last_ok_at_ms, [EJECTED_UNTIL_MS] = false,
  })
  note_change({
    key = replica_key, url = url, kind = 'replica_' .. status, router = origin.router, by = origin.by or '',
    reason = origin.reason, slow_start_ms = slow_start_ms or '', fields = update, revision = revision,
    name = name or '', unreached_by = status == 'unhealthy' and state.unreached_by or '',
    is_special = origin.prober_until_ms,
  }, now_ms, reply)
end

-- Emits that a replica is no longer in doubt. router: the one that reached it. by: the one that did not.
local function emit_cleared(replica_key, url, router, by, now_ms, reply)
  emit_replica(now_ms, replica_key, url, {'kind', 'replica_cleared', 'router', router, 'by', by, 'reason', ''}, reply)
end

local function success_fields(failures, successes, result, now_ms)
  return {
    'consecutive_failures', whole(failures), 'consecutive_successes', whole(successes), 'last_ok_at_ms', whole(now_ms),
    'last_latency_ms', result.latency,
  }
end

local function failure_fields(failures, result, now_ms)
  return {
    'consecutive_failures', whole(failures), 'consecutive_successes', '0', 'last_failure_at_ms', whole(now_ms),
    'last_error', result.reason,
  }
end

-- Ends a hand-over because its router is silent or dead. The event informs the leader, which then probes faster.
local function hand_back(replica_key, url, state, router, now_ms, reply)
  redis.call('HDEL', replica_key, 'prober', 'prober_until_ms', 'prober_report')
  emit_replica(now_ms, replica_key, url,
    {'kind', 'replica_handed_back', 'router', router, 'by', state.prober, 'reason', ''}, reply)
  state.prober = false
end

local suspected = {}

-- Asks peers whether they reach a replica; a hand-over ends. Returns false if the last question is too recent.
-- result: url, incarnation, address. ends_by_silence: whether no answer counts as agreement after some time.
local function suspect(replica_key, result, state, router, limits, ends_by_silence, now_ms)
  local last = tonumber(state.suspected_at_ms or '')
  if last and last <= now_ms and now_ms - last < limits.interval_ms then
    return false
  end
  local id = table.concat({whole(now_ms), router}, '-')
  local refuter = state.refuted_prober == router and state.reached_by
  local asked = table.concat(peers_to_ask(router, result.url .. id, refuter), ' ')
  redis.call('HDEL', replica_key, 'suspected_until_ms', 'suspected_address', 'unreached_by', 'reached_by', 'prober',
    'prober_until_ms', 'prober_report')
  redis.call('HSET', replica_key, 'suspicion', id, 'suspected_by', router, 'suspected_at_ms', whole(now_ms),
    'asked', asked)
  local until_ms = ends_by_silence and whole(now_ms + limits.timeout_ms + SILENCE_MS) or '-'
  if ends_by_silence then
    redis.call('HSET', replica_key, 'suspected_until_ms', until_ms)
  end
  local has_address = result.address and result.address ~= ''
  if has_address then
    redis.call('HSET', replica_key, 'suspected_address', result.address)
  end
  local parts = {result.url, result.incarnation, id, until_ms, has_address and result.address or '-', asked}
  suspected[#suspected + 1] = {key = replica_key, id = id, question = table.concat(parts, ' ')}
  return true
end

-- Returns whether a script has changed so much that the other results belong in its next call.
local function is_enough(reply)
  local events, changes = reply.events or 0, untold_changes()
  if #suspected >= URLS_AN_EVENT or 3 * events + changes + #suspected >= WORK_AT_ONCE then
    return true
  end
  return events + changes >= NEWS_AT_ONCE_BESIDE_A_QUEUE and is_anybody_waiting()
end

-- Emits what this script has found out and not told yet: changes of status, and its questions, up to 25 an event. An
-- event for each would block the server for long if many replicas fail at once. A script that may change a status, or
-- ask, calls this at its end, and before it serves the queue.
local function emit_findings(router, now_ms, reply)
  emit_changes(now_ms, reply)
  local open = {}
  for _, one in ipairs(suspected) do
    if redis.call('HGET', one.key, 'suspicion') == one.id then
      open[#open + 1] = one
    end
  end
  for first = 1, #open, URLS_AN_EVENT do
    local last, questions = math.min(first + URLS_AN_EVENT - 1, #open), {}
    for i = first, last do
      questions[#questions + 1] = open[i].question
    end
    local id, entry = emit(now_ms, {'kind', 'replica_suspected', 'router', router,
      'questions', table.concat(questions, '\n')})
    for i = first, last do
      redis.call('HSET', open[i].key, 'revision', id)
    end
    append_event(reply, id, entry)
  end
end

-- Returns whether a question was asked before the end of the last outage of all heartbeats, or in the future. Its
-- answers may be lost, and silence says nothing. A report may reach Redis before the first heartbeat after an outage.
local function is_outdated(state, now_ms)
  local since = tonumber(state.suspected_at_ms or '0')
  local times = redis.call('HMGET', keys.meta, 'heartbeats_resumed_at_ms', 'reap_until_ms')
  return since > now_ms or stored_number(times[1], 0) > since or now_ms > stored_number(times[2], 0)
end

-- Applies a success of the replica's prober or, with has_no_ramp, of a router that speaks for an unhealthy replica.
-- A hand-over goes on only by a report of its router. If that router probes the replica
-- anyway by now, as the leader or by the plan, the hand-over has ended.
local function apply_success(replica_key, result, state, limits, now_ms, origin, reply)
  local status, failures, successes = next_health(state.status, state.failures, state.successes, true, limits)
  write_health(replica_key, result.url, state, success_fields(failures, successes, result, now_ms), status, origin,
    now_ms, reply)
  if status then
    return
  end
  if state.status ~= 'healthy' or state.ejected_until_ms then
    -- It may have become a replica that answered within the last hour, and the spare sets have its last answer.
    refresh_ready(replica_key, result.url)
  end
  local keeps_prober = state.prober == origin.router and not origin.is_regular
  local is_known_to_others = state.suspicion or (state.prober and not keeps_prober)
  if is_known_to_others or state.refuted_prober or state.unreached_by then
    if keeps_prober then
      redis.call('HDEL', replica_key, 'suspicion', 'suspected_by', 'suspected_until_ms', 'suspected_address', 'asked',
        'unreached_by')
    else
      redis.call('HDEL', replica_key, unpack(DOUBT_FIELDS))
    end
  end
  if is_known_to_others then
    emit_cleared(replica_key, result.url, origin.router, '', now_ms, reply)
  end
end

-- Applies a success that says nothing new: of a healthy replica without failures that nobody doubts. Most successes are
-- like that. Returns false if this one may say more, and has written nothing then.
local function apply_usual_success(replica_key, values, result, now_ms)
  local successes, weight = tonumber(values[5] or ''), tonumber(values[6] or '')
  local is_well = values[2] and values[3] == 'healthy' and values[4] == '0'
  local has_numbers = successes and weight and weight > 0 and tonumber(values[7] or '') and tonumber(values[8] or '0')
  if not is_well or not has_numbers then
    return false
  end
  for i = FIRST_DOUBT, #STATE_READ do
    if values[i] then
      return false
    end
  end
  redis.call('HSET', replica_key, 'consecutive_successes', whole(successes + 1), 'last_ok_at_ms', whole(now_ms),
    'last_latency_ms', result.latency)
  return true
end

-- Applies a failure of a healthy replica's prober that has peers.
local function weigh_failure(replica_key, result, state, limits, now_ms, origin, reply)
  local failures, status = state.failures + 1, nil
  local until_ms = tonumber(state.suspected_until_ms or '')
  local is_open = state.suspicion and not is_outdated(state, now_ms)
  if is_open and failures >= limits.failure and (state.unreached_by or (until_ms and now_ms >= until_ms)) then
    status = 'unhealthy'
  elseif is_open and until_ms then
    status = nil
  elseif failures >= math.max(1, limits.failure - 1) then
    suspect(replica_key, result, state, origin.router, limits, true, now_ms)
  end
  write_health(replica_key, result.url, state, failure_fields(failures, result, now_ms), status, origin, now_ms, reply)
end

-- Applies one result of a prober. Returns whether it counts: it is dropped if the replica is removed or of another
-- incarnation.
-- result: url, incarnation, outcome ('ok', 'failed', 'unsure'), latency, reason, address (empty if it is not known).
-- origin: router, by, is_regular (the router probes the replica anyway: as the leader, or by the plan).
-- limits: failure, recovery, interval_ms, timeout_ms.
local function apply_probe(replica_key, result, limits, now_ms, origin, reply)
  emit_changes(now_ms, reply, replica_key)
  local values = read_values(replica_key, result.incarnation)
  if not values then
    return false
  end
  if result.outcome == 'ok' and apply_usual_success(replica_key, values, result, now_ms) then
    return true
  end
  local state = read_state(replica_key, result.incarnation, values)
  if not state then
    return false
  end
  origin.reason = result.reason
  if result.outcome == 'ok' then
    apply_success(replica_key, result, state, limits, now_ms, origin, reply)
    return true
  end
  if state.prober and state.prober ~= origin.router then
    if is_prober_heard(state, limits, now_ms) then
      return true
    end
    hand_back(replica_key, result.url, state, origin.router, now_ms, reply)
  end
  local is_weighed = state.status == 'healthy' and has_peers(origin.router)
  if result.outcome == 'unsure' then
    local is_decided_by_silence = state.suspicion and state.suspected_until_ms
    if is_weighed and (not is_decided_by_silence or is_outdated(state, now_ms)) then
      suspect(replica_key, result, state, origin.router, limits, false, now_ms)
    end
    return true
  end
  if is_weighed then
    weigh_failure(replica_key, result, state, limits, now_ms, origin, reply)
    return true
  end
  local status, failures = next_health(state.status, state.failures, state.successes, false, limits)
  write_health(replica_key, result.url, state, failure_fields(failures, result, now_ms), status, origin, now_ms, reply)
  return true
end
