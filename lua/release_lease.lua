-- Ends a lease, since the session on it has ended, or a place in the waiting line. Again, or for an id that never was,
-- it does nothing. The slot goes to who waits longest.
--
-- The count goes down on the replica that the lease names, also where that was removed meanwhile.
--
-- KEYS    meta replicas removed routers events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- ARGV    router lease_id affinity_ms
-- RETURNS released, event…  |  abandoned|not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- COST    O(log replicas + served * (log replicas + log waiters))

-- include lib/endings.lua

local meta, replicas, removed, routers, events, queue, ready_primary, ready_secondary, full, replica_prefix,
  leases_prefix, affinity_prefix, inbox_prefix = unpack(KEYS)
local router, lease_id, affinity_ms = unpack(ARGV)

local leases = leases_prefix .. router
local schema, url = redis.pcall('HGET', meta, 'schema'), redis.pcall('HGET', leases, lease_id)
local depth = redis.pcall('ZCARD', queue)
local refused = read_refusal(schema, meta, 'hash') or read_refusal(url, leases, 'hash')
  or read_refusal(depth, queue, 'zset')
  or schema_refusal(schema)
if refused then
  return refused
end
if not url then
  local was_waiting = redis.call('ZREM', queue, router .. '/' .. lease_id) == 1
  return {was_waiting and 'abandoned' or 'not_found'}
end
local keys = {
  meta = meta, replicas = replicas, removed = removed, routers = routers, events = events, queue = queue,
  primary = ready_primary, secondary = ready_secondary, full = full, replica_prefix = replica_prefix,
  leases_prefix = leases_prefix, affinity_prefix = affinity_prefix, inbox_prefix = inbox_prefix,
}
local replica = replica_prefix .. url
local state = redis.pcall('HMGET', replica, unpack(STATE_FIELDS))
refused = read_refusal(state, replica, 'hash') or session_refusal(keys, lease_id)
if refused then
  return refused
end
-- Mostly nobody waits, nor does the replica for its last session to be removed: then this is all. One that had room
-- stays where it is.
local is_mere_release, place = depth == 0 and state[REMOVES_WHEN_DRAINED] ~= '1', place_of(keys, state)
if is_mere_release and place and place ~= full then
  refused = type_refusal({place, 'zset'})
else
  refused = ready_refusal(keys)
end
if refused then
  return refused
end
if is_mere_release then
  redis.call('HDEL', leases, lease_id)
  count_off(keys, url, state, 1)
  keep_affinity(keys, lease_id, url, affinity_ms)
  return {'released'}
end

-- Included here, and not above: Lua builds the functions that it comes across anew in every run.
-- include lib/leases.lua
-- include lib/line.lua

refused = type_refusal({replicas, 'zset', removed, 'zset', routers, 'zset', events, 'stream'})
if refused then
  return refused
end
redis.call('HDEL', leases, lease_id)
local now_ms = server_now_ms()
local reply = {'released'}
unload(keys, url, 1, now_ms, router, reply)
keep_affinity(keys, lease_id, url, affinity_ms)
serve_queue(keys, now_ms)
return reply
