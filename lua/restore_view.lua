-- Restores the replicas of one router's view after a loss of history, unless Redis has later information.
--
-- Every restored hash gets a `restored_from`. It names the revision, and the history of that revision, as of which the
-- replica is known. Usually these are the view's. If the view itself had the replica from an earlier history or from a
-- config file (0-0), that older origin stays, and the view's revision and history follow it. So restoring a replica
-- does not make it look newer. Information as of a later revision replaces earlier information. If both are as of the
-- same revision, the later view wins. Data that was written on purpose after the loss is never changed. Of two health
-- records, the one with the later probe stays, unless the view has a registration of the replica after that probe.
--
-- The kind of an entry is `replica`, `removed` (the view has a removal) or `absent` (a complete view does not have the
-- replica). Ages are only compared between views of one history, because another history may have ended before all of
-- it was restored. So `absent` removes only a replica that an earlier view of the same history restored. After a
-- complete view, earlier views of its history are superseded. What comes and goes is not removed by that: it leaves by
-- itself if its instance sends no heartbeat, or if its source does not have it.
--
-- A name that another replica was given after the loss stays with that one: the restored replica has no name then.
--
-- An entry ends with the known fields of the replica's hash: their count, then name and value of each. For a removed or
-- absent replica these are the fields that every event must carry.
--
-- An announced replica gets one time to live in which its instance may send a heartbeat. What an operator said of a
-- replica that comes and goes belongs to its name, or to its url if it has none. So it passes on to another instance
-- that has that since the loss, unless an operator said something later. The instance that an operator removed stays
-- known where another one has its url.
--
-- KEYS    meta replicas removed announced departing routers names events queue settling ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix several_prefix
--         inbox_prefix
-- ARGV    history_id router view_history_id view_revision is_complete health_fields
--         … (kind url restored_from count, fields)
-- RETURNS restored, event…  |  superseded  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced departing names events queue ready_primary ready_secondary full
--         spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix several_prefix
--         inbox_prefix
-- COST    O(entries * log replicas + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/announced.lua
-- include lib/discovered.lua
-- include lib/doubt.lua
-- include lib/ejection.lua
-- include lib/history.lua
-- include lib/events.lua
-- include lib/names.lua
-- include lib/ready.lua
-- include lib/revisions.lua
-- include lib/tombstones.lua
-- include lib/queue.lua

local FIRST_ENTRY, HEAD_WIDTH = 7, 4

local history_id, router, view_history_id, view_revision, is_complete, health_fields = unpack(ARGV, 1, 6)

-- Returns the entry that begins at that index of ARGV, and the index of the next entry.
-- fields: flat list of name, value. known: the same values by name.
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
  'replicas', 'removed', 'announced', 'departing', 'routers', 'names', 'events', 'queue', 'ready_primary',
  'ready_secondary', 'full', 'spare_primary', 'spare_secondary', 'spare_answered',
})
if refused then
  return refused
end
local completed = 'restored:' .. view_history_id
local newest = redis.call('HGET', keys.meta, completed)
if newest and is_later(newest, view_revision) then
  return {'superseded'}
end

local now_ms = server_now_ms()

-- Parses a `restored_from`. Returns the revision and history of the origin, and the revision and history of the view
-- that restored the replica last; nil for an empty text.
local function parse_origin(text)
  local revision, history, via, via_history = string.match(text, '^(%S+) ?(%S*) ?(%S*) ?(%S*)$')
  if not revision or via ~= '' then
    return revision, history, via, via_history
  end
  return revision, history, revision, history
end

-- Returns whether replicas of this source come and go by themselves.
local function comes_and_goes(source)
  return source == 'announced' or is_discovered(source)
end

-- Returns whether this view may write its entry for a replica that it knows as of the revision `known`.
-- fields: the known fields of the replica.
local function may_write(kind, replica, known, fields)
  local stored = redis.call('HMGET', replica, 'admin', 'restored_from', 'instance', 'source')
  local admin, restored_from, source = stored[1], stored[2], stored[4]
  local is_other = stored[3] and fields.instance and stored[3] ~= fields.instance
  if admin and admin ~= 'removed' and is_other and stored[3] ~= fields.removed_instance then
    return false -- the view has an earlier instance at this url, or one that an operator did not remove
  end
  if kind == 'removed' and admin and admin ~= 'removed' and source == 'announced'
    and stored[3] ~= fields.removed_instance then
    return false -- nobody has removed this instance
  end
  if not admin then
    return kind ~= 'absent'
  end
  local revision, _, via, via_history = parse_origin(restored_from or '')
  if not revision then
    return false
  end
  if kind == 'absent' then
    return via_history == view_history_id and admin ~= 'removed' and not comes_and_goes(source)
      and is_later(view_revision, via)
  end
  return is_later(known, revision) or (known == revision and is_later(view_revision, via))
end

-- Returns the fields of a hash by name.
local function read_fields(key)
  local flat, fields = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end

local function probed_at(ok_ms, failure_ms)
  return math.max(tonumber(ok_ms or '') or 0, tonumber(failure_ms or '') or 0)
end

local health_names, is_health = {}, {}
for name in string.gmatch(health_fields, '%S+') do
  health_names[#health_names + 1] = name
  is_health[name] = true
end

-- Returns a flat list of fields without the health fields.
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

-- Returns whether a config file or an operator gave the replica its name.
local function is_given(known)
  return (known.source == 'seed' or known.source == 'explicit') and known.name and known.name ~= ''
end

local function put_back(replica, url, entry)
  local stored = redis.call('HMGET', replica, 'last_ok_at_ms', 'last_failure_at_ms', 'status')
  local known, fields = entry.known, entry.fields
  local known_at = math.max(probed_at(known.last_ok_at_ms, known.last_failure_at_ms),
    tonumber(known.registered_at_ms or '') or 0)
  if stored[3] and probed_at(stored[1], stored[2]) > known_at then
    fields = without_health(fields)
  else
    -- A view does not record which router saw the failures.
    redis.call('HDEL', replica, 'failing_witness', unpack(health_names))
  end
  forget_doubt(replica)
  forget_ejections(replica)
  -- The view may know none of these.
  redis.call('HDEL', replica, 'health_check_path', 'health_check_port', 'admin_by', 'admin_by_at_ms')
  forget_announcement(replica, url)
  redis.call('HSET', replica, unpack(fields))
  if is_given(known) and name_holder(known.name, url) then
    redis.call('HSET', replica, 'name', '')
  else
    claim_name(known.name, url)
  end
  if known.source == 'announced' and tonumber(known.ttl_ms or '') then
    note_heartbeat(replica, url, now_ms, known.ttl_ms)
  end
  redis.call('PERSIST', replica)
  redis.call('HSETNX', replica, 'in_flight', '0')
  redis.call('ZREM', keys.removed, url)
  redis.call('ZADD', keys.replicas, known.order, url)
  local next_order = stored_number(redis.call('HGET', keys.meta, 'next_order'), 0)
  redis.call('HSET', keys.meta, 'next_order', whole(math.max(next_order, tonumber(known.order) + 1)))
end

-- Returns when an operator gave a replica in service its admin state; nil if none did.
local function said_at(fields)
  local is_leaving = fields.expired_at_ms or fields.withdrawn_at_ms or fields.removes_when_drained == '1'
  if is_leaving or fields.admin == 'removed' or fields.admin_by == fields.source then
    return nil
  end
  return tonumber(fields.admin_by_at_ms or '')
end

-- Returns the url, key and fields of the replica that has the name of this one, or its url if it has no name, and came
-- in the same way since the loss; nil if there is none in service.
local function successor(known, url)
  local name = known.name or ''
  url = name ~= '' and redis.call('HGET', keys.names, name) or url
  local replica = keys.replica_prefix .. url
  if type_refusal({replica, 'hash'}) then
    return nil
  end
  local fields = read_fields(replica)
  local is_same = fields.source == known.source and fields.name == name and fields.incarnation ~= known.incarnation
  local is_in_service = fields.admin and fields.admin ~= 'removed' and not fields.expired_at_ms
    and not fields.withdrawn_at_ms and fields.removes_when_drained ~= '1'
  if is_same and is_in_service then
    return url, replica, fields
  end
end

-- Gives what an operator said of a replica to its successor.
local function pass_on_admin(entry, reply)
  local known, known_at = entry.known, said_at(entry.known)
  if entry.kind ~= 'replica' or not known_at or not comes_and_goes(known.source) then
    return
  end
  local url, replica, fields = successor(known, entry.url)
  if not url or (said_at(fields) or 0) >= known_at then
    return
  end
  redis.call('HSET', replica, 'admin', known.admin, 'admin_reason', known.admin_reason or '', 'admin_since_ms',
    known.admin_since_ms, 'admin_by', known.admin_by or '', 'admin_by_at_ms', known.admin_by_at_ms)
  if known.admin == 'disabled' then
    forget_doubt(replica)
  end
  refresh_ready(replica, url)
  emit_replica(now_ms, replica, url,
    {'kind', 'view_restored', 'router', router, 'by', view_history_id, 'reason', view_revision}, reply)
end

-- Writes a tombstone. Its event informs the other routers, so that the removal is known even if this router stops.
local function restore_tombstone(replica, url, entry)
  if redis.call('HEXISTS', replica, 'admin') == 0 then
    redis.call('HSET', replica, 'in_flight', '0', unpack(entry.fields))
  end
  local removed_instance = entry.known.removed_instance
  if removed_instance then
    redis.call('ZREM', keys.announced, url)
    redis.call('HSET', replica, 'removed_instance', removed_instance)
  end
  write_tombstone(replica, url, now_ms, 'removed in an earlier history')
end

-- Keeps which instance an operator removed, where another one has announced the url since the loss.
local function pass_on_removal(replica, url, known, reply)
  local removed_instance = known.removed_instance or ''
  local stored = redis.call('HMGET', replica, 'source', 'instance', 'removed_instance')
  if removed_instance ~= '' and stored[1] == 'announced' and stored[2] ~= removed_instance and not stored[3] then
    redis.call('HSET', replica, 'removed_instance', removed_instance)
    emit_replica(now_ms, replica, url,
      {'kind', 'view_restored', 'router', router, 'by', view_history_id, 'reason', view_revision}, reply)
  end
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
  local is_usable = not type_refusal({replica, 'hash'})
  if is_usable and may_write(kind, replica, revision or view_revision, entry.known) then
    if kind == 'replica' then
      put_back(replica, url, entry)
    else
      restore_tombstone(replica, url, entry)
    end
    redis.call('HSET', replica, 'restored_from', table.concat(origin, ' '))
    refresh_ready(replica, url)
    emit_replica(now_ms, replica, url,
      {'kind', 'view_restored', 'router', router, 'by', view_history_id, 'reason', view_revision}, reply)
  elseif is_usable then
    pass_on_removal(replica, url, entry.known, reply)
  end
  pass_on_admin(entry, reply)
end
if is_complete == '1' then
  redis.call('HSET', keys.meta, completed, view_revision)
end
serve_queue(now_ms)
return reply
