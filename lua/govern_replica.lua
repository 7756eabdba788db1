-- Lets the leader do with a discovered replica what its source says: put it in service (`active`), drain it
-- (`draining`), or withdraw it (`gone`): it takes no session from then on, and is removed with its last one.
--
-- An operator's word wins: a replica that an operator has drained or disabled stays so, and one that is to be removed
-- with its last session is. Only what the source itself has drained or withdrawn comes back into service. Sessions that
-- wait get its slots with the next heartbeat of a router.
--
-- `missing` and `found` only note, for operators, since when the source does not have the replica, which stays until
-- that is confirmed. No event tells it.
--
-- KEYS    meta replicas removed admin_by_name names leader events ready_primary ready_secondary full spare_primary
--         spare_secondary spare_answered replica_prefix
-- ARGV    token epoch source replica_url state router reason
-- RETURNS set|draining|removed, event  |  unchanged|noted|not_found|fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed admin_by_name events ready_primary ready_secondary full spare_primary spare_secondary
--         spare_answered replica_prefix
-- COST    O(log replicas)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/discovered.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/tombstones.lua

local token, epoch, source, replica_url, state, router, reason = unpack(ARGV)

local replica = keys.replica_prefix .. replica_url
local refused = refusal({
  'replicas', 'removed', 'admin_by_name', 'leader', 'events', 'ready_primary', 'ready_secondary', 'full',
  'spare_primary', 'spare_secondary', 'spare_answered',
}, {replica, 'hash'})
if refused then
  return refused
end
if is_over(token, epoch) then
  return {'fenced'}
end
local stored = redis.call('HMGET', replica, 'source', 'admin', 'admin_by', 'removes_when_drained', 'withdrawn_at_ms',
  'in_flight', 'admin_reason')
local admin, is_own = stored[2], stored[3] == source
if stored[1] ~= source or not admin or admin == 'removed' then
  return {'not_found'}
end
local is_leaving, is_withdrawn = stored[4] == '1', stored[5]
local now_ms = server_now_ms()
local at = whole(now_ms)
if state == 'missing' or state == 'found' then
  local changed = state == 'missing' and redis.call('HSETNX', replica, 'missing_since_ms', at)
    or redis.call('HDEL', replica, 'missing_since_ms')
  return {changed == 1 and 'noted' or 'unchanged'}
end

-- Appends the event of the change to the reply.
local function tell(reply, kind)
  refresh_ready(replica, replica_url)
  emit_replica(now_ms, replica, replica_url,
    {'kind', kind, 'router', router, 'by', source, 'reason', reason}, reply)
end

if state == 'gone' then
  local is_drained = tonumber(stored[6] or '0') == 0
  if is_leaving and not is_withdrawn and not is_drained then
    return {'unchanged'} -- an operator removes it with its last session
  end
  if is_withdrawn and not is_drained then
    return {'unchanged'}
  end
  if not is_leaving then
    if not is_own then
      keep_admin_of(replica, replica_url)
    end
    redis.call('HSET', replica, 'withdrawn_at_ms', at, 'removed_by', source)
  end
  if is_drained then
    write_tombstone(replica, replica_url, now_ms, reason)
    local reply = {'removed'}
    tell(reply, 'replica_deregistered')
    forget_withdrawn(replica, replica_url)
    return reply
  end
  redis.call('HDEL', replica, 'restored_from')
  redis.call('HSET', replica, 'admin', 'draining', 'admin_since_ms', at, 'admin_reason', reason, 'admin_by', source,
    'admin_by_at_ms', at, 'removes_when_drained', '1')
  local reply = {'draining'}
  tell(reply, 'replica_admin')
  return reply
end

local has_returned = is_leaving and is_withdrawn
if has_returned then
  recall_admin(replica, replica_url, now_ms)
  local now = redis.call('HMGET', replica, 'admin', 'admin_by')
  admin, is_own = now[1], now[2] == source
end
local wanted = admin
if admin == 'active' and state == 'draining' or admin == 'draining' and is_own then
  wanted = state
end
if wanted ~= admin or (wanted == 'draining' and is_own and stored[7] ~= reason) then
  redis.call('HSET', replica, 'admin', wanted, 'admin_since_ms', at, 'admin_reason', reason, 'admin_by', source,
    'admin_by_at_ms', at)
elseif not has_returned then
  return {'unchanged'}
end
local reply = {'set'}
tell(reply, 'replica_admin')
return reply
