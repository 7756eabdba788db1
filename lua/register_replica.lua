-- Registers a replica, or changes the spec of a registered one and keeps its health, admin state and load. A
-- registration on purpose ends an ejection.
--
-- A replica that announces itself (mode `announced`) belongs to the instance that the fields name; see
-- lib/announced.lua. While that instance is alive, no other can announce the same url. What came by announcement is
-- changed by announcement only, and the other way round.
--
-- The mode of a replica that the leader discovered is its source, and the token and epoch of the leader's term; see
-- lib/discovered.lua. What belongs to a source of discovery is changed by that source only, and it changes nothing
-- else.
--
-- A seed (from a config file) does not register a removed replica again and does not override an explicit spec. A
-- repeated request changes nothing, even after a removal, because its id is kept as `incarnation` or `spec_request`. A
-- repeated announcement is a heartbeat.
--
-- A name that another registered replica has is refused to a seed and to an operator; a replica that already has the
-- name keeps it. `indexing` means that names of earlier registrations are entered first, and that there are more: the
-- caller repeats the call.
--
-- The spec comes as names and values of hash fields. If `order` is empty, the script chooses it.
--
-- KEYS    meta replicas removed announced departing admin_by_name leader names routers events queue
--         settling ready_primary ready_secondary full spare_primary spare_secondary spare_answered replica_prefix
--         leases_prefix affinity_prefix several_prefix inbox_prefix
-- ARGV    mode request history_id router by replica_url order … (field value)
-- RETURNS created|updated, event  |  unchanged|tombstone|overridden|fenced|indexing  |  taken, owner
--         |  name_taken, url  |  claimed, source, owner  |  withdrawn  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced departing admin_by_name names events queue ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix
-- COST    O(log replicas + served * (log replicas + log waiters) + names entered)

-- include lib/keys.lua
-- include lib/announced.lua
-- include lib/discovered.lua
-- include lib/doubt.lua
-- include lib/ejection.lua
-- include lib/history.lua
-- include lib/events.lua
-- include lib/names.lua
-- include lib/restarts.lua
-- include lib/ready.lua
-- include lib/queue.lua

local FIELD_WIDTH = 2
-- Fields that the hash lacks if they are empty.
local OPTIONAL = {health_check_path = true, health_check_port = true}

local mode, request, history_id, router, by, replica_url, order = unpack(ARGV, 1, 7)
local token, epoch
mode, token, epoch = parse_mode(mode)

local replica = keys.replica_prefix .. replica_url
local refused = refusal({
  'replicas', 'removed', 'announced', 'departing', 'admin_by_name', 'leader', 'names', 'routers', 'events',
  'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary', 'spare_secondary', 'spare_answered',
}, {replica, 'hash'})
if refused then
  return refused
end

if token and is_over(token, epoch) then
  return {'fenced'}
end
local stored = redis.call('HMGET', replica, 'incarnation', 'spec_request', 'admin', 'source', 'instance', 'owner',
  'expired_at_ms', 'withdrawn_at_ms', 'ttl_ms', 'last_heartbeat_at_ms')
local incarnation, spec_request, admin, source, instance, owner, expired, withdrawn, ttl_ms, heard_ms =
  unpack(stored, 1, 10)
if mode ~= 'announced' and incarnation and (incarnation == request or spec_request == request) then
  return {'unchanged'}
end
local now_ms = server_now_ms()
local is_new = not incarnation or not admin or admin == 'removed'
local is_announced, was_announced = mode == 'announced', source == 'announced'
local given = {}
for i = 8, #ARGV, FIELD_WIDTH do
  given[ARGV[i]] = ARGV[i + 1]
end
if (mode == 'seed' or is_discovered(mode)) and admin == 'removed'
    and not (was_announced and (expired or withdrawn)) then
  return {'tombstone'}
end
if mode == 'seed' and not is_new and source == 'explicit' then
  return {'overridden'}
end
if mode == 'seed' and not is_new and is_discovered(source) then
  return {'overridden'}
end
if not is_new and (is_announced ~= was_announced
    or (source ~= mode and (is_discovered(mode) or is_discovered(source)))) then
  return {'claimed', source or '', owner or ''}
end
local is_same = is_announced and was_announced and instance == given.instance
if is_same and withdrawn then
  return {'withdrawn'}
end
if is_same and admin == 'removed' and not expired then
  return {'tombstone'} -- an operator has removed this instance
end
if is_announced and not is_new and not is_same then
  if is_held(expired, ttl_ms, heard_ms, now_ms) then
    return {'taken', owner or ''}
  end
  -- What another machine announces is another replica, of which nothing is known.
  keep_admin_of(replica, replica_url)
  is_new = true
end
local returns = is_same and not is_new and expired

local new_name = given.name or ''
if (mode == 'seed' or mode == 'explicit') and new_name ~= ''
    and (is_new or redis.call('HGET', replica, 'name') ~= new_name) then
  begin_history(history_id)
  if not enter_names() then
    return {'indexing'}
  end
  local holder = name_holder(new_name, replica_url)
  if holder then
    return {'name_taken', holder}
  end
end

local function position()
  if order ~= '' then
    return tonumber(order)
  end
  local current = redis.call('ZSCORE', keys.replicas, replica_url)
  if current then
    return tonumber(current)
  end
  local last = redis.call('ZREVRANGE', keys.replicas, 0, 0, 'WITHSCORES')
  return math.max(tonumber(redis.call('HGET', keys.meta, 'next_order') or '0'), last[2] and tonumber(last[2]) + 1 or 0)
end

local placed = position()
local spec, absent = {}, {}
for i = 8, #ARGV, FIELD_WIDTH do
  if OPTIONAL[ARGV[i]] and ARGV[i + 1] == '' then
    absent[#absent + 1] = ARGV[i]
  else
    spec[#spec + 1] = ARGV[i]
    spec[#spec + 1] = ARGV[i + 1]
  end
end
for _, text in ipairs({'order', whole(placed), 'source', mode}) do
  spec[#spec + 1] = text
end
local is_ejected = mode == 'explicit' and redis.call('HEXISTS', replica, 'ejected_until_ms') == 1
local changed = is_new or is_ejected or returns
local is_probed_otherwise = false
for i = 1, #spec, 2 do
  -- A missing field counts as empty: an earlier version that does not know the field may have written the hash.
  if not changed and (redis.call('HGET', replica, spec[i]) or '') ~= spec[i + 1] then
    changed = true
  end
end
for _, field in ipairs(absent) do
  changed = changed or redis.call('HEXISTS', replica, field) == 1
end
for i = 8, #ARGV, FIELD_WIDTH do
  -- All optional fields decide what a probe requests.
  if OPTIONAL[ARGV[i]] and (redis.call('HGET', replica, ARGV[i]) or '') ~= ARGV[i + 1] then
    is_probed_otherwise = true
  end
end
if is_announced then
  note_heartbeat(replica, replica_url, now_ms, given.ttl_ms)
end
if not changed then
  return {'unchanged'}
end

begin_history(history_id)
redis.call('HSET', keys.meta, 'next_order',
  whole(math.max(tonumber(redis.call('HGET', keys.meta, 'next_order') or '0'), placed + 1)))
redis.call('ZADD', keys.replicas, whole(placed), replica_url)
claim_name(new_name, replica_url)
redis.call('HSET', replica, 'spec_request', request, unpack(spec))
if #absent > 0 then
  redis.call('HDEL', replica, unpack(absent))
end
if mode == 'explicit' then
  redis.call('HDEL', replica, 'restored_from')
elseif is_new then
  -- After a loss of history, a router's view replaces what a config file says; see restore_view.
  redis.call('HSET', replica, 'restored_from', '0-0')
end
if is_probed_otherwise then
  forget_doubt(replica)
end
if is_ejected or is_new then
  forget_ejections(replica)
end
if is_new then
  local at = whole(now_ms)
  redis.call('PERSIST', replica)
  redis.call('ZREM', keys.removed, replica_url)
  redis.call('HDEL', replica, 'last_ok_at_ms', 'last_failure_at_ms', 'last_latency_ms', 'last_error', 'failing_witness',
    'reported_at_ms', 'missing_since_ms', 'removed_by', 'admin_by', 'admin_by_at_ms')
  forget_doubt(replica)
  local of_instance = is_announced and table.concat({given.instance, request}, '-') or request
  redis.call('HSET', replica, 'incarnation', of_instance, 'registered_at_ms', at, 'status', 'unknown',
    'status_since_ms', at, 'consecutive_failures', '0', 'consecutive_successes', '0', 'admin', 'active',
    'admin_since_ms', at, 'admin_reason', '')
  redis.call('HSETNX', replica, 'in_flight', '0')
end
if is_new and (is_announced or is_discovered(mode)) then
  take_over_name(new_name, replica_url, mode)
end
if is_announced and (is_new or returns) then
  redis.call('ZREM', keys.departing, replica_url)
  recall_admin(replica, replica_url, now_ms)
elseif is_new then
  forget_announcement(replica, replica_url)
  if is_discovered(mode) then
    recall_admin(replica, replica_url, now_ms)
  end
end
refresh_ready(replica, replica_url)
local reply = {is_new and 'created' or 'updated'}
emit_replica(now_ms, replica, replica_url,
  {'kind', is_new and 'replica_registered' or 'replica_updated', 'router', router, 'by', by, 'reason', ''}, reply)
serve_queue(now_ms)
return reply
