-- Decides whether a replica is ejected because sessions fail on it. See lib/ejection.lua for the fields.
--
-- A healthy, active replica is ejected if its prober's probes have succeeded since the prober was called, and either
-- sessions from two machines could not connect within two intervals (three seconds at least), each to a replica that a
-- probe of the same router reached afterwards, or a number of connected
-- sessions in a row failed, of several clients, on whatever routers. A success ends the run of failures. It is reported
-- by routers that have read an event `replica_reported`; so a run of connected sessions counts a second after the
-- first such event of the run at the earliest.
--
-- No more than `max_percent` of the active replicas that answered within the last hour are ejected at once, but one may
-- be in any case, and never the last one that is ready.

-- include lib/ejection.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/values.lua

local OBJECTION_MS = 1000
-- The least time within which two machines count together: a router reports a replica at most once a second.
local LEAST_WINDOW_MS = 3000
-- How long a failure is remembered if no session succeeds. Routers that have joined since do not report successes.
local RUN_MS = 300000
-- The longest ejection, as a multiple of the first.
local LONGEST_EJECTION = 10
-- How many of the replicas in `ejected` are looked at in one call.
local EJECTED_AT_ONCE = 120

-- Returns the machines whose sessions did not reach the replica since then, with this one, their number, and the time
-- of the first of these sessions.
local function unreached_machines(text, machine, failed_ms, since_ms, now_ms)
  local seen, count, first_ms = {table.concat({machine, whole(failed_ms)}, '@')}, 1, failed_ms
  for other, at in string.gmatch(text or '', '(%S+)@(%d+)') do
    local at_ms = tonumber(at)
    if other ~= machine and at_ms >= since_ms and at_ms <= now_ms then
      seen[#seen + 1] = table.concat({other, at}, '@')
      count, first_ms = count + 1, math.min(first_ms, at_ms)
    end
  end
  return table.concat(seen, ' '), count, first_ms
end

-- Records a failed session. failed: router, client, is_connected, count (of failures in a row on that router), at_ms.
-- Returns why the replica should be ejected, or nil, and the earliest time at which a probe counts.
local function note_failure(replica_key, failed, interval_ms, least_failures, now_ms)
  local run = redis.call('HMGET', replica_key, 'sessions_failing_since_ms', 'session_failures', 'failing_client',
    'unreached_from', 'announced_at_ms')
  local since_ms = tonumber(run[1] or '')
  if not since_ms or since_ms > now_ms or now_ms - since_ms > RUN_MS then
    since_ms, run[2], run[3], run[5] = now_ms, false, false, false
    redis.call('HDEL', replica_key, 'announced_at_ms')
  end
  local announced_ms = tonumber(run[5] or '')
  local update = {'sessions_failing_since_ms', whole(since_ms)}
  local why, from_ms
  if failed.is_connected then
    local count = (tonumber(run[2] or '') or 0) + failed.count
    local client = failed.client == '' and failed.router or failed.client
    client = (not run[3] or run[3] == client) and client or '*'
    for _, text in ipairs({'session_failures', whole(count), 'failing_client', client}) do
      update[#update + 1] = text
    end
    local is_announced = announced_ms and now_ms - announced_ms >= OBJECTION_MS
    if count >= least_failures and client == '*' and is_announced then
      why, from_ms = string.format('%d sessions in a row failed', count), announced_ms
    end
  else
    local machine = router_field(failed.router, 'machine') or failed.router
    local text, count, first_ms = unreached_machines(run[4], machine, failed.at_ms,
      now_ms - math.max(2 * interval_ms, LEAST_WINDOW_MS), now_ms)
    update[#update + 1] = 'unreached_from'
    update[#update + 1] = text
    if count >= 2 then
      why = string.format('sessions of %d machines could not connect', count)
      from_ms = math.max(announced_ms or 0, first_ms)
    end
  end
  redis.call('HSET', replica_key, unpack(update))
  return why, from_ms
end

-- Records that routers are told of the failures, unless they were told of an earlier one of the same run.
local function note_announcement(replica_key, now_ms)
  redis.call('HSETNX', replica_key, 'announced_at_ms', whole(now_ms))
end

-- Returns whether one more replica may be ejected. If that depends on it, it takes the replicas out of `ejected` whose
-- ejection has ended otherwise. A limited number is looked at; beyond them, a replica in `ejected` counts as ejected.
local function may_eject_one(max_percent, now_ms)
  local ready = redis.call('ZCARD', keys.ready_primary) + redis.call('ZCARD', keys.ready_secondary)
    + redis.call('SCARD', keys.full)
  if ready < 2 then
    return false
  end
  local others = redis.call('ZCOUNT', keys.spare_answered, whole(now_ms - ANSWERED_MS), '+inf')
  local most = math.max(1, math.floor((ready + others) * max_percent / 100))
  local after = '(' .. whole(now_ms)
  local ejected = redis.call('ZCOUNT', keys.ejected, after, '+inf')
  if ejected < most then
    return true
  end
  for _, url in ipairs(redis.call('ZRANGEBYSCORE', keys.ejected, after, '+inf', 'LIMIT', 0, EJECTED_AT_ONCE)) do
    local state = redis.pcall('HMGET', keys.replica_prefix .. url, 'ejected_until_ms', 'admin')
    if not state[1] and not state.err then
      redis.call('ZREM', keys.ejected, url)
    end
    if not state[1] or state[2] ~= 'active' then
      ejected = ejected - 1
    end
  end
  return ejected < most
end

-- Ejects a replica for `base_ms` times how often. That number falls by one for each `base_ms` without an ejection.
-- Returns whether its probes and the limits let it be ejected. origin: router, by, reason.
local function eject(replica_key, url, why, from_ms, max_percent, base_ms, now_ms, origin, reply)
  local state = redis.call('HMGET', replica_key, 'consecutive_failures', 'last_ok_at_ms', 'ejections',
    'returned_at_ms')
  local last_ok_ms = tonumber(state[2] or '')
  if tonumber(state[1]) > 0 or not last_ok_ms or last_ok_ms < from_ms or not may_eject_one(max_percent, now_ms) then
    return false
  end
  local rested = math.floor(math.max(0, now_ms - (tonumber(state[4] or '') or now_ms)) / base_ms)
  local times = math.max(0, (tonumber(state[3] or '') or 0) - rested) + 1
  local until_ms = whole(now_ms + base_ms * math.min(times, LONGEST_EJECTION))
  redis.call('HDEL', replica_key, unpack(RUN_FIELDS))
  redis.call('HSET', replica_key, 'ejected_until_ms', until_ms, 'ejections', whole(math.min(times, LONGEST_EJECTION)))
  redis.call('ZADD', keys.ejected, until_ms, url)
  refresh_ready(replica_key, url)
  local reason = origin.reason == '' and why or table.concat({why, origin.reason}, ': ')
  emit_replica(now_ms, replica_key, url,
    {'kind', 'replica_ejected', 'router', origin.router, 'by', origin.by, 'reason', reason}, reply)
  return true
end
