-- Keeps a router alive in `routers`. The reply carries the history id, the revision and the number of its leases, so
-- that the router can detect a loss, and names expired routers that it may reap.
--
-- Only this script adds a router to `routers`. If the last heartbeat of any router is missing, lies in the future or is
-- older than half an expiry, there was an outage or the clock jumped. Then no router is reaped for one expiry. If the
-- clock was set back, a router may expire later than it asked for; its expiry is shortened to what it asked for.
--
-- It also serves the queue, so that a missed grant leaves no waiter waiting for long while a slot is free, and stores
-- the router's `panic_percent`, which all routers should have in common; see lib/spares.lua.
--
-- KEYS    meta routers events router_prefix queue ready_primary ready_secondary full spare_primary spare_secondary
--         spare_answered replica_prefix leases_prefix affinity_prefix inbox_prefix
-- ARGV    key expiry_ms history_id host pid version started_at_ms url config_fingerprint panic_percent
-- RETURNS alive, history_id, revision, joined (0|1), leases held, expired router…  |  wrong_type …|wrong_schema …
-- WRITES  meta routers events router_prefix queue ready_primary ready_secondary full spare_primary spare_secondary
--         spare_answered replica_prefix leases_prefix affinity_prefix inbox_prefix
-- COST    O(log routers + served * (log replicas + log waiters))

-- include lib/keys.lua
-- include lib/history.lua
-- include lib/events.lua
-- include lib/queue.lua

local EXPIRED_LIMIT = 16

local key, expiry_ms, history_id, host, pid, version, started_at_ms, url, config_fingerprint, panic_percent =
  unpack(ARGV)

local router, leases = keys.router_prefix .. key, keys.leases_prefix .. key
local refused = refusal({
  'routers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered',
}, {router, 'hash', leases, 'hash'})
if refused then
  return refused
end

local now_ms = server_now_ms()
local expiry = tonumber(expiry_ms)
local far_ahead = redis.call('ZRANGEBYSCORE', keys.routers, '(' .. whole(now_ms + expiry), '+inf')
for _, far in ipairs(far_ahead) do
  refused = type_refusal({keys.router_prefix .. far, 'hash'})
  if refused then
    return refused
  end
end

begin_history(history_id)
local heartbeats = redis.call('HMGET', keys.meta, 'heartbeat_at_ms', 'reap_after_ms')
local last_heartbeat, reap_after = tonumber(heartbeats[1] or ''), tonumber(heartbeats[2] or '0')
if not last_heartbeat or last_heartbeat > now_ms or now_ms - last_heartbeat > expiry / 2 then
  reap_after = now_ms + expiry
end
-- If the clock was set back, reaping must not be put off by as much as the clock was ahead.
reap_after = math.min(reap_after, now_ms + expiry)
redis.call('HSET', keys.meta, 'heartbeat_at_ms', whole(now_ms), 'reap_after_ms', whole(reap_after),
  'reap_until_ms', whole(now_ms + math.floor(expiry / 2)), 'panic_percent', panic_percent)

for _, far in ipairs(far_ahead) do
  local own = tonumber(redis.call('HGET', keys.router_prefix .. far, 'expiry_ms') or expiry_ms)
  if tonumber(redis.call('ZSCORE', keys.routers, far)) > now_ms + own then
    redis.call('ZADD', keys.routers, whole(now_ms + own), far)
  end
end

local joined = redis.call('ZSCORE', keys.routers, key) == false
redis.call('ZADD', keys.routers, whole(now_ms + expiry), key)
redis.call('HSET', router, 'host', host, 'pid', pid, 'version', version, 'started_at_ms', started_at_ms,
  'url', url, 'config_fingerprint', config_fingerprint, 'expiry_ms', expiry_ms)
redis.call('HDEL', router, 'reap_cursor', 'queue_cursor')
if joined then
  emit(now_ms, {'kind', 'router_joined', 'router', key})
end

serve_queue(now_ms)

local history = redis.call('HMGET', keys.meta, 'history_id', 'revision')
local reply = {'alive', history[1], history[2] or '0-0', joined and '1' or '0',
  whole(redis.call('HLEN', leases))}
if now_ms >= reap_after then
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', keys.routers, '-inf', whole(now_ms), 'LIMIT', 0, EXPIRED_LIMIT)) do
    reply[#reply + 1] = gone
  end
end
return reply
