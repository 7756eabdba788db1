-- Ends a lease, since the session on it has ended, or a place in the queue. Again, or for an id that never was,
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

-- include lib/keys.lua
-- include lib/endings.lua

local router, lease_id, affinity_ms = unpack(ARGV)

local leases = keys.leases_prefix .. router
local schema, url = redis.pcall('HGET', keys.meta, 'schema'), redis.pcall('HGET', leases, lease_id)
local depth = redis.pcall('ZCARD', keys.queue)
local refused = read_refusal(schema, keys.meta, 'hash') or read_refusal(url, leases, 'hash')
  or read_refusal(depth, keys.queue, 'zset')
  or schema_refusal(schema)
if refused then
  return refused
end
if not url then
  local was_waiting = redis.call('ZREM', keys.queue, router .. '/' .. lease_id) == 1
  return {was_waiting and 'abandoned' or 'not_found'}
end
local replica = keys.replica_prefix .. url
local state = redis.pcall('HMGET', replica, unpack(STATE_FIELDS))
refused = read_refusal(state, replica, 'hash') or session_refusal(lease_id)
if refused then
  return refused
end
-- Mostly nobody waits, nor does the replica for its last session to be removed: then this is all. One that had room
-- stays where it is.
local is_mere_release, place = depth == 0 and state[REMOVES_WHEN_DRAINED] ~= '1', place_of(state)
if is_mere_release and place and place ~= keys.full then
  refused = type_refusal({place, 'zset'})
else
  refused = ready_refusal()
end
if refused then
  return refused
end
if is_mere_release then
  redis.call('HDEL', leases, lease_id)
  count_off(url, state, 1)
  keep_affinity(lease_id, url, affinity_ms)
  return {'released'}
end

-- Included here, and not above: Lua builds the functions that it comes across anew in every run.
-- include lib/leases.lua
-- include lib/queue.lua

refused = type_refusal({keys.replicas, 'zset', keys.removed, 'zset', keys.routers, 'zset', keys.events, 'stream'})
if refused then
  return refused
end
redis.call('HDEL', leases, lease_id)
local now_ms = server_now_ms()
local reply = {'released'}
unload(url, 1, now_ms, router, reply)
keep_affinity(lease_id, url, affinity_ms)
serve_queue(now_ms)
return reply
