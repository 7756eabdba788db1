-- Sets the operator's word on a replica: active, draining or disabled. Health never overrides it. Active calls off a
-- removal that waits for the last session.
--
-- KEYS    meta replica ready_primary ready_secondary full events
-- ARGV    replica_url state router by reason
-- RETURNS set, event  |  unchanged|not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta replica ready_primary ready_secondary full events
-- COST    O(log replicas)

-- include lib/refusal.lua
-- include lib/events.lua
-- include lib/ready.lua

local meta, replica, ready_primary, ready_secondary, full, events = unpack(KEYS)
local replica_url, state, router, by, reason = unpack(ARGV)

local refused = refusal(meta, {
  replica, 'hash', ready_primary, 'zset', ready_secondary, 'zset', full, 'set', events, 'stream',
})
if refused then
  return refused
end
local stored = redis.call('HMGET', replica, 'admin', 'admin_reason')
if not stored[1] or stored[1] == 'removed' then
  return {'not_found'}
end
if stored[1] == state and stored[2] == reason then
  return {'unchanged'}
end

local now_ms = server_now_ms()
redis.call('HDEL', replica, 'restored_from')
if state == 'active' then
  redis.call('HDEL', replica, 'removes_when_drained')
end
redis.call('HSET', replica, 'admin', state, 'admin_reason', reason)
if stored[1] ~= state then
  redis.call('HSET', replica, 'admin_since_ms', whole(now_ms))
end
refresh_ready({primary = ready_primary, secondary = ready_secondary, full = full}, replica, replica_url)
local reply = {'set'}
emit_replica({meta = meta, events = events}, now_ms, replica, replica_url,
  {'kind', 'replica_admin', 'router', router, 'by', by, 'reason', reason}, reply)
return reply
