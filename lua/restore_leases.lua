-- Restores leases that a live router holds and that Redis lost, or ended while the router was paused.
--
-- A lease that Redis has on another replica is moved, because the router knows where its session runs. Restored leases
-- may take a replica over its capacity. The reply names such replicas, in a repeated call too; they get no new session
-- until they are below capacity. A lease on a replica whose hash is absent or damaged is skipped, because nothing could
-- count it, and the reply names that replica too. A restored lease id that still waits is taken out of the queue.
--
-- A lease that has moved to another router is not restored, and the reply names it: its session is there now, or has
-- ended there.
--
-- With `is_lost` Redis had these leases and has lost them. So leases of other routers may be lost too, and no new
-- session gets a slot until they are back; see lib/settling.lua.
--
-- KEYS    meta replicas removed routers moved router_prefix events queue settling ready_primary ready_secondary full
--         spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix several_prefix
--         inbox_prefix
-- ARGV    router is_lost … (lease_id url)
-- RETURNS restored, how many, how many urls are over capacity, how many leases have moved, these urls, these leases,
--         urls without a hash  |  not_registered
--         |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed events queue settling ready_primary ready_secondary full spare_primary spare_secondary
--         spare_answered replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(leases * (routers + log replicas) + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/leases.lua
-- include lib/moving.lua
-- include lib/queue.lua
-- include lib/settling.lua

local LEASE_WIDTH = 2
local FIRST_LEASE_ID = 3

local router, is_lost = unpack(ARGV, 1, 2)

local leases = keys.leases_prefix .. router
local refused = refusal({
  'replicas', 'removed', 'routers', 'moved', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full',
  'spare_primary', 'spare_secondary', 'spare_answered',
}, {leases, 'hash'})
if refused then
  return refused
end
if not redis.call('ZSCORE', keys.routers, router) then
  return {'not_registered'}
end

local now_ms = server_now_ms()
local restored = 0
local named, skipped, moved = {}, {}, {}
for i = FIRST_LEASE_ID, #ARGV, LEASE_WIDTH do
  local lease_id, url = ARGV[i], ARGV[i + 1]
  local replica = keys.replica_prefix .. url
  local elsewhere = redis.call('HGET', leases, lease_id)
  local load = redis.pcall('HGET', replica, 'in_flight')
  local is_there = type(load) == 'string' and tonumber(load) ~= nil
  local has_moved = may_move(lease_id) and not elsewhere
    and (has_left(router, lease_id) or holder_of(lease_id, router))
  if has_moved then
    moved[#moved + 1] = lease_id
  elseif is_there then
    named[url] = true
  else
    skipped[url] = true
  end
  if is_there and not has_moved and elsewhere ~= url then
    redis.call('HSET', leases, lease_id, url)
    redis.call('HSET', replica, 'in_flight', whole(tonumber(load) + 1))
    redis.call('PERSIST', replica)
    local keeps_affinity = not session_refusal(lease_id)
    if keeps_affinity then
      begin_affinity(lease_id, url)
    end
    if elsewhere and not replica_refusal(elsewhere) then
      unload(elsewhere, 1, now_ms, router, {})
    end
    if elsewhere and keeps_affinity then
      end_affinity(lease_id, elsewhere, '0')
    end
    restored = restored + 1
  end
  redis.call('ZREM', keys.queue, router .. '/' .. lease_id)
end
if is_lost == '1' and restored > 0 and not is_settling() then
  local expires_at_ms = tonumber(redis.call('ZSCORE', keys.routers, router))
  -- If the clock was set back and no heartbeat has come since, the router seems to expire much later.
  local own = redis.pcall('HGET', keys.router_prefix .. router, 'expiry_ms')
  local expiry = type(own) == 'string' and tonumber(own) or math.huge
  begin_settling(now_ms, router, whole(math.min(expires_at_ms - now_ms, expiry)), 'leases were lost')
end
local reply = {'restored', whole(restored), '', whole(#moved)}
for url in pairs(named) do
  local state = redis.call('HMGET', keys.replica_prefix .. url, 'in_flight', 'capacity')
  refresh_ready(keys.replica_prefix .. url, url)
  local most = tonumber(state[2] or '') or 0
  if most > 0 and tonumber(state[1]) > most then
    reply[#reply + 1] = url
  end
end
reply[3] = whole(#reply - 4)
for _, lease_id in ipairs(moved) do
  reply[#reply + 1] = lease_id
end
for url in pairs(skipped) do
  reply[#reply + 1] = url
end
serve_queue(now_ms)
return reply
