-- Applies what a router that is not the leader knows about replicas from probes of its own. Repeating it is safe.
--
-- Each word has a kind. An `opinion` answers a question: `id` is that of the question. Of several answers, one success
-- refutes the prober, and if all that were asked have answered and none reached the replica, it turns unhealthy. A
-- `report` is the result of the router to which the replica was handed over: `id` numbers its reports. An `appeal` is a
-- success of a router that the prober of an unhealthy or unknown replica does not have: `id` counts its successes in a
-- row. Soon after the verdict one is enough, later it takes as many as for a recovery; the router then becomes the
-- prober. A word about another incarnation, an answered question or an earlier report is stale, and so is one about a
-- replica whose hash is damaged.
--
-- KEYS    meta leader routers router_prefix probers events queue settling ready_primary ready_secondary full
--         spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix several_prefix
--         inbox_prefix
-- ARGV    router failure_threshold recovery_threshold interval_ms timeout_ms
--         … (url incarnation kind id outcome latency_ms error address)
-- RETURNS applied, done, stale, event…  |  wrong_type …|wrong_schema …
-- WRITES  meta events queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered
--         replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(words * log replicas + probers + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/verdicts.lua
-- include lib/queue.lua

local FIRST_WORD = 6
local WORD_WIDTH = 8

local router, failure_threshold, recovery_threshold, interval_ms, timeout_ms = unpack(ARGV, 1, 5)

local refused = refusal({
  'leader', 'routers', 'probers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered',
})
if refused then
  return refused
end

local now_ms = server_now_ms()
local limits = limits_of(failure_threshold, recovery_threshold, interval_ms, timeout_ms)
local word_until_ms = now_ms + word_ms(limits)
local reply = {'applied', '', ''}

-- Returns the routers of a list without this one; nil if it was not among them.
local function without_self(list)
  local others, was_there = {}, false
  for _, other in ipairs(list) do
    if other == router then
      was_there = true
    else
      others[#others + 1] = other
    end
  end
  return was_there and others or nil
end

local function joined(list, name)
  return list and table.concat({list, name}, ' ') or name
end

local function hand_over(replica)
  redis.call('HSET', replica, 'prober', router, 'prober_until_ms', whole(word_until_ms), 'prober_report', '0')
end

-- Each `apply_` function applies one word. It returns whether the word is not stale.

local function apply_opinion(replica, result, state)
  local others = state.suspicion == result.id and without_self(words_in(state.asked))
  if not others then
    return false
  end
  if result.outcome == 'ok' then
    redis.call('HDEL', replica, 'suspicion', 'suspected_by', 'suspected_until_ms', 'suspected_address', 'asked',
      'unreached_by')
    redis.call('HSET', replica, 'reached_by', router, 'refuted_prober', state.suspected_by,
      unpack(success_fields(0, state.successes, result, now_ms)))
    if state.refuted_prober == state.suspected_by then
      hand_over(replica)
    end
    emit_cleared(replica, result.url, router, state.suspected_by, now_ms, reply)
    return true
  end
  if result.outcome == 'failed' then
    state.unreached_by = joined(state.unreached_by, router)
    redis.call('HSET', replica, 'unreached_by', state.unreached_by)
  end
  redis.call('HSET', replica, 'asked', table.concat(others, ' '))
  if #others == 0 and state.unreached_by then
    local failures = math.max(state.failures, limits.failure)
    local by, reason = router, result.reason
    if result.outcome ~= 'failed' then
      -- The last answer says nothing; those before it decide.
      by, reason = string.match(state.unreached_by, '%S+$'), redis.call('HGET', replica, 'last_error') or ''
    end
    write_health(replica, result.url, state, failure_fields(failures, {reason = reason}, now_ms), 'unhealthy',
      {router = state.suspected_by, by = by, reason = reason}, now_ms, reply)
    return true
  end
  return true
end

local function apply_report(replica, result, state)
  if state.prober ~= router or not is_prober_heard(state, limits, now_ms)
    or tonumber(result.id) <= tonumber(state.prober_report or '0') then
    return false
  end
  redis.call('HSET', replica, 'prober_report', result.id)
  if result.outcome ~= 'unsure' then
    redis.call('HSET', replica, 'prober_until_ms', whole(word_until_ms))
  end
  local origin = {router = router, reason = result.reason, prober_until_ms = word_until_ms}
  if result.outcome == 'ok' then
    apply_success(replica, result, state, limits, now_ms, origin, reply)
    return true
  end
  if result.outcome == 'failed' then
    weigh_failure(replica, result, state, limits, now_ms, origin, reply)
    return true
  end
  return true
end

-- Returns whether this router's probes have the settings of the leader's. Otherwise a router with a more lenient check
-- would take back what the leader finds unhealthy, again and again.
local function is_as_strict()
  local leader = redis.call('HGET', keys.leader, 'router')
  if not leader or leader == router then
    return true
  end
  return router_field(router, 'probe_print') == router_field(leader, 'probe_print')
end

local function apply_appeal(replica, result, state)
  if state.status == 'healthy' or state.admin ~= 'active' or result.outcome ~= 'ok' or not is_as_strict() then
    return false
  end
  local is_soon = state.status == 'unhealthy'
    and now_ms - tonumber(state.status_since_ms or '0') <= limits.interval_ms * limits.failure
  if state.status == 'unhealthy' and not is_soon and tonumber(result.id) < limits.recovery then
    return false
  end
  write_health(replica, result.url, state, success_fields(0, 0, result, now_ms), 'healthy',
    {router = router, reason = '', prober_until_ms = word_until_ms, has_no_ramp = is_soon}, now_ms, reply)
  return true
end

local apply = {opinion = apply_opinion, report = apply_report, appeal = apply_appeal}
local done, stale = 0, 0
for i = FIRST_WORD, #ARGV, WORD_WIDTH do
  local kind = ARGV[i + 2]
  local result = {
    url = ARGV[i], incarnation = ARGV[i + 1], id = ARGV[i + 3], outcome = ARGV[i + 4], latency = ARGV[i + 5],
    reason = ARGV[i + 6], address = ARGV[i + 7],
  }
  local replica = keys.replica_prefix .. result.url
  emit_changes(now_ms, reply, replica)
  local state = read_state(replica, result.incarnation)
  local is_applied = state and apply[kind] and apply[kind](replica, result, state)
  done = done + 1
  stale = stale + (is_applied and 0 or 1)
  if is_enough(reply) then
    break
  end
end
emit_findings(router, now_ms, reply)
serve_queue(now_ms)
reply[2], reply[3] = whole(done), whole(stale)
return reply
