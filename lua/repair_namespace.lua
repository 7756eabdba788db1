-- Repairs derived data, for `check --repair`, after a script was interrupted or somebody wrote by hand. It derives the
-- ready sets, `ejected` and `names` from the hashes, and the sets of replicas, announced replicas and tombstones
-- too. It ends leases, inboxes and waiters of the given routers that are not in `routers`, and gives free slots to
-- waiters.
--
-- The caller has counted the leases. For each url come its wrong `in_flight` and the right number, both empty if it is
-- right. The number is not written if `in_flight` is another by now, so a repeated call changes nothing.
--
-- In a damaged hash, counters begin anew, an unknown status is found out by probes, and optional numbers that do not
-- parse are deleted. A weight or capacity that does not parse is left to the operator, and a key of another type too.
--
-- `routers` are separated by spaces. A call goes through the page of the queue at `cursor`, which is 0 for the first
-- page and empty for none. The reply has the cursor of the next page. If `first_event` is given, older events are
-- deleted.
-- If anything was wrong, the last event makes all mirrors read everything anew. Otherwise nothing is written.
--
-- KEYS    meta replicas removed announced departing routers names events queue settling ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered ejected probers replica_prefix leases_prefix
--         affinity_prefix several_prefix inbox_prefix
-- ARGV    router by first_event routers cursor … (url in_flight leases)
-- RETURNS repaired, how many things were wrong, cursor ('' after the last page)  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced departing names events queue ready_primary ready_secondary full
--         spare_primary spare_secondary spare_answered ejected probers replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix
-- COST    O(urls * log replicas + routers + 1000 * log waiters)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua
-- include lib/names.lua
-- include lib/ready.lua
-- include lib/tombstones.lua
-- include lib/peers.lua
-- include lib/queue.lua

local FIRST_URL = 6
local URL_WIDTH = 3
local REPAIRED_AT_ONCE = 1000

local router, by, first_event, routers, cursor = unpack(ARGV, 1, 5)

local refused = refusal({
  'replicas', 'removed', 'announced', 'departing', 'routers', 'events', 'queue', 'ready_primary', 'ready_secondary',
  'full', 'spare_primary', 'spare_secondary', 'spare_answered', 'ejected', 'probers', 'names',
})
if refused then
  return refused
end

local now_ms = server_now_ms()

local changes = 0

-- Adds the number of changes that a Redis command reports.
local function count(changed)
  changes = changes + changed
end

-- Deletes a key. The server frees a large one beside its commands, if the user may let it.
local function delete(key)
  local deleted = redis.pcall('UNLINK', key)
  count(type(deleted) == 'number' and deleted or redis.call('DEL', key))
end

local function is_number(text)
  return tonumber(text or '') ~= nil
end

local function repair_field(replica, field, value)
  if redis.call('HGET', replica, field) ~= value then
    redis.call('HSET', replica, field, value)
    count(1)
  end
end

-- What a hash has in place of a required field that is missing or not a number, if that says nothing wrong.
local BEGINNINGS = {
  consecutive_failures = '0', consecutive_successes = '0', revision = '0-0', name = '', source = 'explicit',
}
local COUNTERS = {consecutive_failures = true, consecutive_successes = true}
local STATUSES = {unknown = true, healthy = true, unhealthy = true}
local OPTIONAL_NUMBERS = {
  'registered_at_ms', 'status_since_ms', 'slow_start_ms', 'admin_since_ms', 'ejected_until_ms', 'ejections',
  'last_ok_at_ms', 'last_failure_at_ms', 'last_latency_ms', 'prober_until_ms', 'prober_report', 'suspected_at_ms',
  'suspected_until_ms', 'returned_at_ms', 'reported_at_ms', 'sessions_failing_since_ms', 'session_failures',
  'announced_at_ms', 'health_check_port', 'ttl_ms', 'missing_since_ms', 'last_heartbeat_at_ms', 'expired_at_ms',
  'withdrawn_at_ms',
}

-- Mends the fields of a registered replica's hash whose right value is known.
local function repair_fields(replica, url)
  for field, beginning in pairs(BEGINNINGS) do
    local value = redis.call('HGET', replica, field)
    if not value or (COUNTERS[field] and not is_number(value)) then
      repair_field(replica, field, beginning)
    end
  end
  if not redis.call('HGET', replica, 'url') then
    repair_field(replica, 'url', url)
  end
  if not STATUSES[redis.call('HGET', replica, 'status')] then
    repair_field(replica, 'status', 'unknown')
    redis.call('HSET', replica, 'status_since_ms', whole(now_ms))
  end
  local numbers = redis.call('HMGET', replica, unpack(OPTIONAL_NUMBERS))
  for i, field in ipairs(OPTIONAL_NUMBERS) do
    if numbers[i] and not is_number(numbers[i]) then
      count(redis.call('HDEL', replica, field))
    end
  end
end

-- Makes `announced` and `departing` agree with the hash. Where nothing says when the replica is to be looked at, it has
-- one time to live.
local function repair_announcement(url, is_announced, is_in_service, is_departed, ttl_ms)
  local is_listed = redis.call('ZSCORE', keys.announced, url)
  local is_departing = redis.call('ZSCORE', keys.departing, url)
  if not is_announced then
    count(redis.call('ZREM', keys.announced, url))
    count(redis.call('ZREM', keys.departing, url))
  elseif is_in_service and not is_listed and not is_departing then
    count(redis.call('ZADD', keys.announced, whole(now_ms + (tonumber(ttl_ms or '') or 0)), url))
  elseif not is_in_service and is_departed and not is_departing and not is_listed then
    count(redis.call('ZADD', keys.departing, whole(now_ms), url))
  end
end

-- Makes `replicas` and `removed` agree with the hash, which never expires.
local function repair_membership(replica, url)
  local state = redis.call('HMGET', replica, 'admin', 'order', 'source', 'ttl_ms', 'expired_at_ms', 'withdrawn_at_ms')
  local is_gone_by_itself = state[3] == 'announced' and (state[5] or state[6])
  repair_announcement(url, state[3] == 'announced', state[1] ~= 'removed' and not state[5], is_gone_by_itself, state[4])
  if state[1] and state[1] ~= 'removed' then
    local order = is_number(state[2]) and state[2] or redis.call('ZSCORE', keys.replicas, url) or '0'
    repair_field(replica, 'order', order)
    count(redis.call('ZADD', keys.replicas, 'CH', order, url))
    count(redis.call('ZREM', keys.removed, url))
    count(redis.call('PERSIST', replica))
    count(claim_name(redis.call('HGET', replica, 'name'), url) and 1 or 0)
    return
  end
  count(redis.call('ZREM', keys.replicas, url))
  if is_gone_by_itself then
    count(redis.call('ZREM', keys.removed, url))
  elseif state[1] then
    count(redis.call('ZADD', keys.removed, 'NX', whole(now_ms), url))
    count(redis.call('PERSIST', replica))
  end
end

-- Returns the scores of a url in the ready and spare sets, and whether it is in `full`, as one text.
local function ready_state(url)
  local found = {whole(redis.call('SISMEMBER', keys.full, url))}
  for _, name in ipairs({
    'ready_primary', 'ready_secondary', 'spare_primary', 'spare_secondary', 'spare_answered',
  }) do
    found[#found + 1] = redis.call('ZSCORE', keys[name], url) or '-'
  end
  return table.concat(found, ' ')
end

local function repair_ready(replica, url)
  local until_ms = redis.call('HGET', replica, 'ejected_until_ms')
  if is_number(until_ms) then
    count(redis.call('ZADD', keys.ejected, 'CH', until_ms, url))
  end
  local before = ready_state(url)
  refresh_ready(replica, url)
  if ready_state(url) ~= before then
    count(1)
  end
end

-- Takes a url out of the sets to which only a sound replica belongs.
local function leave_sets(url)
  for _, name in ipairs({'ready_primary', 'ready_secondary', 'spare_primary', 'spare_secondary', 'spare_answered'}) do
    count(redis.call('ZREM', keys[name], url))
  end
  count(redis.call('SREM', keys.full, url))
end

local function repair_replica(url, load, leases)
  local replica = keys.replica_prefix .. url
  local admin = redis.pcall('HGET', replica, 'admin')
  if type(admin) == 'table' or (not admin and redis.call('EXISTS', replica) == 1) then
    leave_sets(url)
    return
  end
  if admin and admin ~= 'removed' then
    repair_fields(replica, url)
  end
  if admin and leases ~= '' and (redis.call('HGET', replica, 'in_flight') or '') == load then
    repair_field(replica, 'in_flight', leases)
  end
  local state = redis.call('HMGET', replica, unpack(STATE_FIELDS))
  repair_membership(replica, url)
  if admin == 'removed' or not admin or is_sound(state) then
    repair_ready(replica, url)
  else
    leave_sets(url)
  end
end

local is_gone = {}
for name in string.gmatch(routers, '%S+') do
  if not redis.call('ZSCORE', keys.routers, name) then
    is_gone[name] = true
    local own = {keys.leases_prefix .. name, 'hash', keys.inbox_prefix .. name, 'stream'}
    for at = 1, #own, 2 do
      if not type_refusal({own[at], own[at + 1]}) then
        delete(own[at])
      end
    end
  end
end
for i = FIRST_URL, #ARGV, URL_WIDTH do
  repair_replica(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
for _, member in ipairs(redis.call('ZRANGE', keys.probers, 0, -1)) do
  if not parse_prober(member) then
    count(redis.call('ZREM', keys.probers, member))
    redis.call('HINCRBY', keys.meta, 'probers_version', 1)
  end
end

-- Takes the waiters of routers that are gone out of the page. Returns the cursor of the next page.
local function drop_waiters()
  if cursor == '' then
    return ''
  end
  local after, page = unpack(redis.call('ZSCAN', keys.queue, cursor, 'COUNT', REPAIRED_AT_ONCE))
  for i = 1, #page, 2 do
    if is_gone[string.match(page[i], '^(.-)/') or ''] then
      count(redis.call('ZREM', keys.queue, page[i]))
    end
  end
  return after == '0' and '' or after
end

local next_cursor = drop_waiters()
local _, granted = serve_queue(now_ms)
count(granted)
if first_event ~= '' then
  count(redis.call('XTRIM', keys.events, 'MINID', first_event))
end
local revision = redis.call('HGET', keys.meta, 'revision')
local last = redis.call('XREVRANGE', keys.events, '+', '-', 'COUNT', 1)[1]
if last and revision ~= last[1] then
  redis.call('HSET', keys.meta, 'revision', last[1])
  count(1)
elseif not last and revision then
  count(1) -- The event stream was lost. The event below leads to the revision again.
end
if changes > 0 then
  emit(now_ms, {'kind', 'namespace_repaired', 'router', router, 'by', by})
end
return {'repaired', whole(changes), next_cursor}
