-- Keeps a router alive in `routers`. The reply carries the history id, the revision and the number of its leases, so
-- that the router can detect a loss, and names expired routers that it may reap.
--
-- Only this script adds a router to `routers`. If the last heartbeat of any router is missing, lies in the future or is
-- older than half an expiry, there was an outage or the clock jumped. Then no router is reaped for one expiry. If the
-- clock was set back, a router may expire later than it asked for; its expiry is shortened to what it asked for.
--
-- A namespace may belong to a cluster, a name that the first router gives it. A router of another cluster is refused,
-- unless it is among the routers already.
--
-- A router that can probe is also listed in `probers`; see lib/peers.lua. The reply carries that list only if it has
-- changed since the version that the router knows.
--
-- A router that cannot connect to replicas for reasons of its own says so in `trouble`; an event tells when that begins
-- and ends.
--
-- The ages that a router measures of itself are stored for operators, and decide nothing.
--
-- It also returns replicas whose ejection is over, so that an ejection ends while any router lives, and whoever
-- leads; see lib/ejection.lua.
--
-- It also removes those of the named replicas that drain in order to be removed and have no session. Usually the end of
-- the last session does that. After a loss of data the session may have ended before the replica was back. Nothing is
-- removed within one expiry of an outage, because routers may still have to put back leases.
--
-- It also puts announced replicas out of service whose heartbeats have ended; see lib/expiry.lua.
--
-- It also serves the queue, so that a missed grant leaves no waiter waiting for long while a slot is free. `is_partial`
-- is 1 if another heartbeat at once may serve more, or return more replicas. It also stores the router's
-- `panic_percent`, which all routers should have in common; see lib/spares.lua.
--
-- A router whose last heartbeat was for another history brings its leases and waiters back, and so may the others.
-- Until they have, no new session gets a slot; see lib/settling.lua. `settling` in the reply asks the router to repeat
-- this word as `settled` once it has nothing left; `peers` are the routers that it knew to live before.
--
-- KEYS    meta replicas removed announced departing admin_by_name names routers probers leader events router_prefix
--         queue settling ready_primary ready_secondary full spare_primary spare_secondary spare_answered ejected
--         replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- ARGV    key expiry_ms history_id host pid version started_at_ms url config_fingerprint machine probe_print
--         probers_version panic_percent trouble probing known_history settled peers cluster view_age_ms probe_age_ms
--         probe_lag_ms … (url)
-- RETURNS alive, history_id, revision, joined (0|1), leases held, is_partial (0|1), settling, milliseconds to the next
--         expiry of an announced replica ('' if none is), probers_version, milliseconds that the leader's lease has
--         left ('' if there is no leader), `mark` of meta, probers that follow, prober…, expired router…
--         |  wrong_cluster, of the namespace, of the router  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced departing admin_by_name routers probers events router_prefix queue settling
--         ready_primary ready_secondary full spare_primary spare_secondary spare_answered ejected replica_prefix
--         leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(log routers + probers + log announced + (urls + served) * (log replicas + log waiters))

-- include lib/leader_lease.lua
-- include lib/many_leases.lua
-- include lib/schema.lua
-- include lib/values.lua

do -- a script has 200 local names at most
-- include lib/usual_heartbeat.lua

  local usual = send_usual()
  if usual then
    return usual
  end
end

-- include lib/keys.lua
-- include lib/draining.lua
-- include lib/expiry.lua
-- include lib/ejection.lua
-- include lib/history.lua
-- include lib/mending.lua
-- include lib/peers.lua
-- include lib/queue.lua
-- include lib/settling.lua

local EXPIRED_LIMIT = 16
local FORGOTTEN_MS = 3600000
local RETURNED_AT_ONCE = 5
local FIRST_URL = 23
local COMPARED = 64

local key, expiry_ms, history_id, host, pid, version, started_at_ms, url, config_fingerprint, machine, probe_print,
  probers_version, panic_percent, trouble, probing, known_history, settled, peers, cluster, view_age_ms, probe_age_ms,
  probe_lag_ms = unpack(ARGV, 1, 22)

local router, leases = keys.router_prefix .. key, keys.leases_prefix .. key
local refused = refusal({
  'replicas', 'removed', 'announced', 'departing', 'admin_by_name', 'routers', 'probers', 'events', 'queue',
  'ready_primary', 'ready_secondary', 'full', 'spare_primary', 'spare_secondary', 'spare_answered', 'ejected',
}, {router, 'hash', leases, 'hash'})
if refused then
  return refused
end

local now_ms = server_now_ms()
local expiry = tonumber(expiry_ms)
local expires_at_ms = redis.call('ZSCORE', keys.routers, key)
local of_namespace = redis.call('HGET', keys.meta, 'cluster')
if cluster ~= '' and of_namespace and of_namespace ~= cluster and not expires_at_ms then
  return {'wrong_cluster', of_namespace, cluster}
end
local far_ahead = redis.call('ZRANGEBYSCORE', keys.routers, '(' .. whole(now_ms + expiry), '+inf')

begin_history(history_id)
mend_meta()
local heartbeats = redis.call('HMGET', keys.meta, 'heartbeat_at_ms', 'reap_after_ms', 'returns_all',
  'announcements_resumed_at_ms')
local last_heartbeat, reap_after = stored_number(heartbeats[1]), stored_number(heartbeats[2], 0)
local announcements_resumed = math.min(stored_number(heartbeats[4], 0), now_ms)
if (not last_heartbeat or is_outage(last_heartbeat, now_ms))
  and redis.call('ZCARD', keys.announced) > 0 then
  announcements_resumed = now_ms
  redis.call('HSET', keys.meta, 'announcements_resumed_at_ms', whole(now_ms))
end
if not last_heartbeat or last_heartbeat > now_ms or now_ms - last_heartbeat > expiry / 2 then
  reap_after = now_ms + expiry
  redis.call('HSET', keys.meta, 'heartbeats_resumed_at_ms', whole(now_ms))
end
-- If the clock was set back, reaping must not be put off by as much as the clock was ahead.
reap_after = math.min(reap_after, now_ms + expiry)
redis.call('HSET', keys.meta, 'heartbeat_at_ms', whole(now_ms), 'checked_at_ms', whole(now_ms),
  'reap_after_ms', whole(reap_after), 'reap_until_ms', whole(now_ms + math.floor(expiry / 2)),
  'panic_percent', panic_percent)

for _, far in ipairs(far_ahead) do
  local found = redis.pcall('HGET', keys.router_prefix .. far, 'expiry_ms')
  -- A damaged record, or one without this field, must not stop the heartbeats of the others.
  local own = type(found) == 'string' and tonumber(found) or expiry
  if tonumber(redis.call('ZSCORE', keys.routers, far)) > now_ms + own then
    redis.call('ZADD', keys.routers, whole(now_ms + own), far)
  end
end

-- Appends an event if the settings of this router differ from those of another live one. Looks at some of them.
local function tell_of_differing_settings()
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', keys.routers, whole(now_ms), '+inf', 'LIMIT', 0, COMPARED)) do
    local settings = redis.pcall('HGET', keys.router_prefix .. other, 'config_fingerprint')
    if type(settings) == 'string' and settings ~= '' and settings ~= config_fingerprint then
      emit(now_ms, {'kind', 'settings_differ', 'router', key, 'by', other, 'reason',
        table.concat({config_fingerprint, settings}, ' and ')})
      return
    end
  end
end

local joined = not expires_at_ms
if joined or tonumber(expires_at_ms) <= now_ms then
  look_from_the_front()
end
redis.call('ZADD', keys.routers, whole(now_ms + expiry), key)
local known_as = redis.call('HMGET', router, 'probe_print', 'machine', 'trouble')
if known_as[1] ~= probe_print or known_as[2] ~= machine then
  strike_prober(key)
end
redis.call('HSET', router, 'host', host, 'pid', pid, 'version', version, 'started_at_ms', started_at_ms,
  'url', url, 'config_fingerprint', config_fingerprint, 'expiry_ms', expiry_ms, 'machine', machine,
  'probe_print', probe_print, 'probing', probing, 'schemas', table.concat({OLDEST_SCHEMA, SCHEMA}, '-'),
  'view_age_ms', view_age_ms, 'probe_age_ms', probe_age_ms, 'probe_lag_ms', probe_lag_ms)
redis.call('HDEL', router, 'reap_cursor', 'queue_cursor', 'trouble')
if cluster ~= '' then
  redis.call('HSETNX', keys.meta, 'cluster', cluster)
  redis.call('HSET', router, 'cluster', cluster)
end
local was_in_trouble, is_in_trouble = known_as[3] ~= false, trouble ~= ''
if is_in_trouble then
  redis.call('HSET', router, 'trouble', trouble)
end
if probe_print ~= ''
  and redis.call('ZADD', keys.probers, whole(now_ms + expiry), make_prober(probe_print, machine, key)) == 1 then
  redis.call('HINCRBY', keys.meta, 'probers_version', 1)
end
if joined then
  redis.call('ZREMRANGEBYSCORE', keys.probers, '-inf', whole(now_ms - FORGOTTEN_MS))
  emit(now_ms, {'kind', 'router_joined', 'router', key})
  tell_of_differing_settings()
end
if is_in_trouble ~= was_in_trouble then
  emit(now_ms, {'kind', is_in_trouble and 'router_in_trouble' or 'router_recovered', 'router', key, 'reason', trouble})
end

-- Puts replicas whose ejection ends by `last_ms` back into the ready sets. `ejected` may name replicas whose ejection
-- has ended otherwise. Returns whether there may be more.
local function return_ejected(last_ms)
  local ended = redis.call('ZRANGEBYSCORE', keys.ejected, '-inf', last_ms, 'LIMIT', 0, RETURNED_AT_ONCE)
  for _, over in ipairs(ended) do
    redis.call('ZREM', keys.ejected, over)
    local replica = table.concat({keys.replica_prefix, over})
    local is_ejected = redis.pcall('HEXISTS', replica, 'ejected_until_ms') == 1
    if is_ejected then
      end_ejection(replica, now_ms)
      refresh_ready(replica, over)
      emit_replica(now_ms, replica, over, {'kind', 'replica_returned', 'router', key, 'by', '', 'reason', ''}, {})
    end
  end
  return #ended == RETURNED_AT_ONCE
end

local history_now = redis.call('HGET', keys.meta, 'history_id')
-- Soon after a loss of all data, the other routers may not be in `routers` yet.
local is_soon = reap_after > now_ms
if known_history ~= '' and known_history ~= history_now then
  if is_settling() then
    wait_for(key)
  else
    begin_settling(now_ms, key, whole(is_soon and reap_after - now_ms or expiry), 'data was lost')
  end
elseif settled ~= '' and settled == settling_of(key) then
  redis.call('ZADD', keys.settling, 0, key)
  for peer in string.gmatch(is_soon and peers or '', '%S+') do
    wait_for(peer)
  end
end
end_settling(now_ms, key)

-- If the clock was set back, the ends of ejections lie too far in the future: all are returned, by several heartbeats.
local returns_all = heartbeats[3] or (last_heartbeat and last_heartbeat > now_ms)
local are_more_ejected = return_ejected(returns_all and '+inf' or whole(now_ms))
if returns_all and are_more_ejected then
  redis.call('HSET', keys.meta, 'returns_all', '1')
elseif heartbeats[3] then
  redis.call('HDEL', keys.meta, 'returns_all')
end
for i = FIRST_URL, now_ms >= reap_after and #ARGV or 0 do
  local state = redis.pcall('HMGET', table.concat({keys.replica_prefix, ARGV[i]}), unpack(STATE_FIELDS))
  if state[ADMIN] == 'draining' and state[REMOVES_WHEN_DRAINED] == '1' and load_of(state) == 0 then
    remove_drained(ARGV[i], now_ms, key, {})
  end
end
local are_more_silent, next_expiry_ms = expire_announced(now_ms, key, announcements_resumed)
local _, _, _, is_partial = serve_queue(now_ms)

local held = redis.call('HLEN', leases)
spread_leases(leases, held)

local history = redis.call('HMGET', keys.meta, 'history_id', 'revision', 'probers_version', 'mark')
local reply = {'alive', history[1], history[2] or '0-0', joined and '1' or '0', whole(held),
  (is_partial or are_more_ejected or are_more_silent) and '1' or '0',
  settling_of(key), next_expiry_ms and whole(math.max(next_expiry_ms, 0)) or '',
  table.concat({history[1], history[3] or '0'}, '-'), leader_lease_ms(keys.leader), history[4] or '', '0'}
if reply[9] ~= probers_version then
  local probers = redis.call('ZRANGE', keys.probers, 0, -1)
  reply[#reply] = whole(#probers)
  for _, prober in ipairs(probers) do
    reply[#reply + 1] = prober
  end
end
if now_ms >= reap_after then
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', keys.routers, '-inf', whole(now_ms), 'LIMIT', 0, EXPIRED_LIMIT)) do
    reply[#reply + 1] = gone
  end
end
return reply
