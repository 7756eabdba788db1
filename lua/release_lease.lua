-- Ends a lease when its session has ended, or takes a waiter out of the queue. A repeated call does nothing, and
-- neither does a call with an unknown id. The freed slot goes to the waiter that has waited longest.
--
-- The in_flight count of the lease's replica is lowered even if the replica has been removed.
--
-- KEYS    meta replicas removed routers events queue settling ready_primary ready_secondary full spare_primary
--         spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- ARGV    router lease_id affinity_ms
-- RETURNS released, event…  |  abandoned|not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed events queue ready_primary ready_secondary full spare_primary spare_secondary
--         spare_answered replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(log replicas + served * (log replicas + log waiters))

-- include lib/usual.lua

local router, lease_id, affinity_ms = unpack(ARGV)

-- Ends the lease. Returns whether that is usual.
local function release_usual()
  local leases = namespace .. 'leases:' .. router
  local url = redis.pcall('HGET', leases, lease_id)
  if type(url) ~= 'string' then
    return false
  end
  local count, most, weight, tier = read_usual(url)
  if not count then
    return false
  end
  count = count - 1
  local was_full = most > 0 and count + 1 >= most
  if count < 0 or (was_full and (count >= most or not may_write_full()))
    or type(redis.pcall('ZADD', namespace .. tier, count / weight, url)) ~= 'number' then
    return false
  end
  if was_full then
    redis.call('SREM', namespace .. 'full', url)
  end
  redis.call('HDEL', leases, lease_id)
  redis.call('HSET', namespace .. 'replica:' .. url, 'in_flight', count)
  return true
end

if may_be_usual(lease_id) and release_usual() then
  return {'released'}
end

-- include lib/keys.lua
-- include lib/endings.lua

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
-- In the usual case the queue is empty, and this is not the last session on a replica that takes no new ones. Then
-- nothing more is written than this lease and its count, and a replica that had a free slot stays in its ready set.
local is_mere_release = depth == 0
  and (state[ADMIN] == 'active' and state[REMOVES_WHEN_DRAINED] ~= '1' or tonumber(state[IN_FLIGHT] or '') ~= 1)
local place = set_of(state)
if is_mere_release and place and place ~= keys.full then
  refused = type_refusal({place, 'zset'})
else
  refused = ready_refusal() or ((not is_mere_release or not place) and spare_refusal())
end
if refused then
  return refused
end
if is_mere_release then
  redis.call('HDEL', leases, lease_id)
  count_off(url, state, 1)
  end_affinity(lease_id, url, affinity_ms)
  return {'released'}
end

-- These includes are not at the top because Lua builds every function that it reaches anew in each run.
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
end_affinity(lease_id, url, affinity_ms)
serve_queue(now_ms)
return reply
