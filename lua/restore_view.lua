-- After a loss of history: puts back what one router's view still knew, as far as nobody knows better.
--
-- Every hash put back says from which view: its revision and the history that it showed. A later view replaces what an
-- earlier one put back, and what config files seeded; what was written on purpose since is left alone. Of two healths
-- the one probed later stays, unless the view knows that the replica was registered anew after that. An entry is a
-- replica; `removed`, known to be so; or `absent`, which a view that is complete says of a replica that it does not
-- know. Only views of one history can tell from their age that a replica is gone, since another history may have ended
-- before all was put back into it: `absent` removes what an earlier view of the same history put back, and once a
-- complete view is in, earlier ones of its history are superseded.
--
-- KEYS    meta replicas removed routers events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- ARGV    birth router view_birth view_revision is_complete … (kind url, and 21 fields; see FIELDS)
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
-- include lib/line.lua

local FIELDS = {
  'url', 'name', 'primary', 'weight', 'capacity', 'order', 'source', 'incarnation', 'registered_at_ms',
  'admin_since_ms', 'admin', 'admin_reason', 'removes_when_drained',
  'status', 'status_since_ms', 'consecutive_failures', 'consecutive_successes', 'last_ok_at_ms', 'last_failure_at_ms',
  'last_latency_ms', 'last_error',
}
local FIRST_HEALTH_FIELD = 14
local ENTRY_WIDTH = 2 + #FIELDS
-- The hash of a replica of which only the removal is known: as much as its event must carry.
local NAMELESS = {
  'name', '', 'primary', '0', 'weight', '1.0', 'capacity', '0', 'order', '0', 'source', 'explicit', 'incarnation', '',
  'status', 'unknown', 'consecutive_failures', '0', 'consecutive_successes', '0', 'in_flight', '0',
}

local birth, router, view_birth, view_revision, is_complete = unpack(ARGV, 1, 5)

local refused = refusal({
  'replicas', 'removed', 'routers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full',
})
for i = 6, #ARGV, ENTRY_WIDTH do
  refused = refused or type_refusal({keys.replica_prefix .. ARGV[i + 1], 'hash'})
end
if refused then
  return refused
end
local completed = 'restored:' .. view_birth
local newest = redis.call('HGET', keys.meta, completed)
if newest and is_later(newest, view_revision) then
  return {'superseded'}
end

local now_ms = server_now_ms()
local origin = view_revision .. ' ' .. view_birth

-- Whether this view may write what it says of a replica.
local function may_write(kind, replica)
  local stored = redis.call('HMGET', replica, 'admin', 'restored_from')
  local admin, restored_from = stored[1], stored[2]
  if not admin then
    return kind ~= 'absent'
  end
  local from_revision, from_birth = string.match(restored_from or '', '^(%S+) ?(%S*)$')
  if not from_revision or not is_later(view_revision, from_revision) then
    return false
  end
  return kind ~= 'absent' or (from_birth == view_birth and admin ~= 'removed')
end

local function probed_at(ok_ms, failure_ms)
  return math.max(tonumber(ok_ms or '') or 0, tonumber(failure_ms or '') or 0)
end

local function put_back(replica, url, at)
  local stored = redis.call('HMGET', replica, 'last_ok_at_ms', 'last_failure_at_ms', 'status')
  local known = {}
  for i = 1, #FIELDS do
    known[FIELDS[i]] = ARGV[at + 1 + i]
  end
  local last = #FIELDS
  local known_at = math.max(probed_at(known.last_ok_at_ms, known.last_failure_at_ms),
    tonumber(known.registered_at_ms) or 0)
  if stored[3] and probed_at(stored[1], stored[2]) > known_at then
    last = FIRST_HEALTH_FIELD - 1
  else
    -- Who saw the failures that the view has is not known any more.
    redis.call('HDEL', replica, 'failing_witness')
  end
  for i = 1, last do
    if known[FIELDS[i]] == '' and i >= FIRST_HEALTH_FIELD then
      redis.call('HDEL', replica, FIELDS[i])
    else
      redis.call('HSET', replica, FIELDS[i], known[FIELDS[i]])
    end
  end
  redis.call('PERSIST', replica)
  redis.call('HSETNX', replica, 'in_flight', '0')
  redis.call('ZREM', keys.removed, url)
  redis.call('ZADD', keys.replicas, known.order, url)
  local next_order = tonumber(redis.call('HGET', keys.meta, 'next_order') or '0')
  redis.call('HSET', keys.meta, 'next_order', whole(math.max(next_order, tonumber(known.order) + 1)))
end

-- The other routers hear of it, so that the removal outlives the one that knew.
local function bury_again(replica, url)
  if redis.call('HEXISTS', replica, 'admin') == 0 then
    redis.call('HSET', replica, 'url', url, unpack(NAMELESS))
  end
  bury(replica, url, now_ms, 'removed in an earlier history')
end

begin_history(birth)
local reply = {'restored'}
for at = 6, #ARGV, ENTRY_WIDTH do
  local kind, url = ARGV[at], ARGV[at + 1]
  local replica = keys.replica_prefix .. url
  if may_write(kind, replica) then
    if kind == 'replica' then
      put_back(replica, url, at)
    else
      bury_again(replica, url)
    end
    redis.call('HSET', replica, 'restored_from', origin)
    refresh_ready(replica, url)
    emit_replica(now_ms, replica, url,
      {'kind', 'view_restored', 'router', router, 'by', view_birth, 'reason', view_revision}, reply)
  end
end
if is_complete == '1' then
  redis.call('HSET', keys.meta, completed, view_revision)
end
serve_queue(now_ms)
return reply
