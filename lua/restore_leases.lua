-- Puts back leases that a living router holds and Redis lost, or gave away while the router was paused.
--
-- A lease that Redis has on another replica is moved: the router knows where its session runs. It may take a replica
-- over its capacity; such replicas are named, also when it is repeated, and take nothing new before they are below it
-- again. Leases on replicas that are not there at all are skipped, and these named too: nothing is ever counted where
-- there is no hash. Who holds a lease does not wait for it any more.
--
-- KEYS    meta replicas removed routers events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- ARGV    router … (lease_id url)
-- RETURNS restored, how many, how many urls are over capacity, these, urls that are not there  |  not_registered
--         |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed events queue ready_primary ready_secondary full replica_prefix leases_prefix
--         affinity_prefix inbox_prefix
-- COST    O(leases * log replicas + served * (log replicas + log waiters))

-- include lib/leases.lua
-- include lib/line.lua

local LEASE_WIDTH = 2

local meta, replicas, removed, routers, events, queue, ready_primary, ready_secondary, full, replica_prefix,
  leases_prefix, affinity_prefix, inbox_prefix = unpack(KEYS)
local router = unpack(ARGV, 1, 1)

local leases = leases_prefix .. router
local refused = refusal(meta, {
  replicas, 'zset', removed, 'zset', routers, 'zset', leases, 'hash', events, 'stream', queue, 'zset',
  ready_primary, 'zset', ready_secondary, 'zset', full, 'set',
})
local keys = {
  meta = meta, replicas = replicas, removed = removed, routers = routers, events = events, queue = queue,
  primary = ready_primary, secondary = ready_secondary, full = full, replica_prefix = replica_prefix,
  leases_prefix = leases_prefix, affinity_prefix = affinity_prefix, inbox_prefix = inbox_prefix,
}
for i = 2, #ARGV, LEASE_WIDTH do
  local elsewhere = not refused and redis.call('HGET', leases, ARGV[i])
  refused = refused or lease_refusal(keys, ARGV[i], ARGV[i + 1])
    or (elsewhere and type_refusal({replica_prefix .. elsewhere, 'hash'}))
end
if refused then
  return refused
end
if not redis.call('ZSCORE', routers, router) then
  return {'not_registered'}
end

local now_ms = server_now_ms()
local restored = 0
local named, skipped = {}, {}
for i = 2, #ARGV, LEASE_WIDTH do
  local lease_id, url = ARGV[i], ARGV[i + 1]
  local replica = replica_prefix .. url
  local elsewhere = redis.call('HGET', leases, lease_id)
  local is_there = redis.call('HEXISTS', replica, 'in_flight') == 1
  local is_named = is_there and named or skipped
  is_named[url] = true
  if is_there and elsewhere ~= url then
    redis.call('HSET', leases, lease_id, url)
    redis.call('HINCRBY', replica, 'in_flight', 1)
    redis.call('PERSIST', replica)
    if elsewhere then
      unload(keys, elsewhere, 1, now_ms, router, {})
    end
    local session = session_of(lease_id)
    if session then
      redis.call('SET', affinity_prefix .. session, url)
    end
    restored = restored + 1
  end
  redis.call('ZREM', queue, router .. '/' .. lease_id)
end
local reply = {'restored', whole(restored), ''}
for url in pairs(named) do
  local state = redis.call('HMGET', replica_prefix .. url, 'in_flight', 'capacity')
  refresh_ready(keys, replica_prefix .. url, url)
  if tonumber(state[2]) > 0 and tonumber(state[1]) > tonumber(state[2]) then
    reply[#reply + 1] = url
  end
end
reply[3] = whole(#reply - 3)
for url in pairs(skipped) do
  reply[#reply + 1] = url
end
serve_queue(keys, now_ms)
return reply
