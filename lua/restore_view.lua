-- After a loss of history: puts back what one router's view still knew, as far as nobody knows better.
--
-- Every hash put back says in `restored_from` as of when it is known: a revision, and the history of that revision. It
-- is the view's, unless the view itself had the replica from an earlier history, or from a config file (0-0): then that
-- stays, and the view's own revision and history follow it. So a replica does not seem newer for having been put back.
-- What is known as of later replaces the rest; of what is known as of the same moment the later view has it. What was
-- written on purpose since is left alone. Of two healths the one probed later stays, unless the view knows that the
-- replica was registered anew after that.
--
-- An entry is a replica; `removed`, known to be so; or `absent`, which a view that is complete says of a replica that
-- it does not know. Only views of one history can tell from their age that a replica is gone, since another history may
-- have ended before all was put back into it: `absent` removes what an earlier view of the same history put back, and
-- once a complete view is in, earlier ones of its history are superseded.
--
-- An entry ends with the replica's hash, as far as it is known: how many fields, then name and value of each. Of a
-- removed or absent replica that is the least that an event must carry.
--
-- KEYS    meta replicas removed routers events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- ARGV    history_id router view_history_id view_revision is_complete health_fields
--         … (kind url restored_from count, fields)
-- RETURNS restored, event…  |  superseded  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- COST    O(entries * log replicas + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/history.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/revisions.lua
-- include lib/tombstones.lua
-- include lib/queue.lua

local FIRST_ENTRY, HEAD_WIDTH = 7, 4

local history_id, router, view_history_id, view_revision, is_complete, health_fields = unpack(ARGV, 1, 6)

-- Returns the entry that begins at that place in ARGV, and where the next one begins.
-- fields: flat list of name, value. known: the same by name.
local function entry_at(at)
  local entry = {kind = ARGV[at], url = ARGV[at + 1], restored_from = ARGV[at + 2], fields = {}, known = {}}
  local first = at + HEAD_WIDTH
  local after = first + 2 * tonumber(ARGV[at + 3])
  for i = first, after - 1, 2 do
    entry.fields[i - first + 1], entry.fields[i - first + 2] = ARGV[i], ARGV[i + 1]
    entry.known[ARGV[i]] = ARGV[i + 1]
  end
  return entry, after
end

local entries, next_at = {}, FIRST_ENTRY
while next_at <= #ARGV do
  entries[#entries + 1], next_at = entry_at(next_at)
end

local refused = refusal({
  'replicas', 'removed', 'routers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full',
})
for _, entry in ipairs(entries) do
  refused = refused or type_refusal({keys.replica_prefix .. entry.url, 'hash'})
end
if refused then
  return refused
end
local completed = 'restored:' .. view_history_id
local newest = redis.call('HGET', keys.meta, completed)
if newest and is_later(newest, view_revision) then
  return {'superseded'}
end

local now_ms = server_now_ms()

-- Returns as of which revision and history something is known, and by which view, from a `restored_from`; or nil.
local function parse_origin(text)
  local revision, history, via, via_history = string.match(text, '^(%S+) ?(%S*) ?(%S*) ?(%S*)$')
  if not revision or via ~= '' then
    return revision, history, via, via_history
  end
  return revision, history, revision, history
end

-- Whether this view may write what it says of a replica, which it knows as of that revision.
local function may_write(kind, replica, known)
  local stored = redis.call('HMGET', replica, 'admin', 'restored_from')
  local admin, restored_from = stored[1], stored[2]
  if not admin then
    return kind ~= 'absent'
  end
  local revision, _, via, via_history = parse_origin(restored_from or '')
  if not revision then
    return false
  end
  if kind == 'absent' then
    return via_history == view_history_id and admin ~= 'removed' and is_later(view_revision, via)
  end
  return is_later(known, revision) or (known == revision and is_later(view_revision, via))
end

local function probed_at(ok_ms, failure_ms)
  return math.max(tonumber(ok_ms or '') or 0, tonumber(failure_ms or '') or 0)
end

local health_names, is_health = {}, {}
for name in string.gmatch(health_fields, '%S+') do
  health_names[#health_names + 1] = name
  is_health[name] = true
end

-- Returns a flat list of fields without those that tell of health.
local function without_health(fields)
  local rest = {}
  for i = 1, #fields, 2 do
    if not is_health[fields[i]] then
      rest[#rest + 1] = fields[i]
      rest[#rest + 1] = fields[i + 1]
    end
  end
  return rest
end

local function put_back(replica, url, entry)
  local stored = redis.call('HMGET', replica, 'last_ok_at_ms', 'last_failure_at_ms', 'status')
  local known, fields = entry.known, entry.fields
  local known_at = math.max(probed_at(known.last_ok_at_ms, known.last_failure_at_ms),
    tonumber(known.registered_at_ms or '') or 0)
  if stored[3] and probed_at(stored[1], stored[2]) > known_at then
    fields = without_health(fields)
  else
    -- Who saw the failures that the view has is not known any more.
    redis.call('HDEL', replica, 'failing_witness', unpack(health_names))
  end
  redis.call('HSET', replica, unpack(fields))
  redis.call('PERSIST', replica)
  redis.call('HSETNX', replica, 'in_flight', '0')
  redis.call('ZREM', keys.removed, url)
  redis.call('ZADD', keys.replicas, known.order, url)
  local next_order = tonumber(redis.call('HGET', keys.meta, 'next_order') or '0')
  redis.call('HSET', keys.meta, 'next_order', whole(math.max(next_order, tonumber(known.order) + 1)))
end

-- The other routers hear of it, so that the removal outlives the one that knew.
local function bury_again(replica, url, entry)
  if redis.call('HEXISTS', replica, 'admin') == 0 then
    redis.call('HSET', replica, 'in_flight', '0', unpack(entry.fields))
  end
  bury(replica, url, now_ms, 'removed in an earlier history')
end

begin_history(history_id)
local reply = {'restored'}
for _, entry in ipairs(entries) do
  local kind, url = entry.kind, entry.url
  local revision, history = parse_origin(entry.restored_from)
  local origin = {view_revision, view_history_id}
  if revision then
    origin = {revision, history == '' and view_history_id or history, view_revision, view_history_id}
  end
  local replica = keys.replica_prefix .. url
  if may_write(kind, replica, revision or view_revision) then
    if kind == 'replica' then
      put_back(replica, url, entry)
    else
      bury_again(replica, url, entry)
    end
    redis.call('HSET', replica, 'restored_from', table.concat(origin, ' '))
    refresh_ready(replica, url)
    emit_replica(now_ms, replica, url,
      {'kind', 'view_restored', 'router', router, 'by', view_history_id, 'reason', view_revision}, reply)
  end
end
if is_complete == '1' then
  redis.call('HSET', keys.meta, completed, view_revision)
end
serve_queue(now_ms)
return reply
