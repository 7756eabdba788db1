-- Replicas that announce themselves. Such a replica is held by an instance, one run of a program beside the replica,
-- which sends heartbeats. Other fields of the hash, `source` is `announced`:
--
-- owner                 the name by which people know the instance
-- instance              its id, a part of the incarnation
-- ttl_ms                how long the replica stays in service without a heartbeat
-- last_heartbeat_at_ms  when the last one came
-- expired_at_ms         when it was put out of service because none came; absent if it was not
-- withdrawn_at_ms       when its instance withdrew it; absent if it did not
-- removed_instance      the instance that an operator removed last; it does not come back, also after another one
--
-- `announced` has the time at which each is to be looked at unless a heartbeat comes before. `departing` has those that
-- are out of service, and then their tombstones, and the time at which they are to be looked at.
--
-- The admin state that an operator gives to such a replica belongs to its name, or to its url if it has no name. While
-- the replica is away, `admin_by_name` keeps it.

-- include lib/keys.lua
-- include lib/values.lua

local KEPT_AT_MOST = 1000

-- Returns whether the last heartbeat of any router, at that time, shows an outage or a jump of the clock.
local is_outage
do
  -- Routers send heartbeats every second while replicas are announced. A gap of this length is an outage for these.
  local ANNOUNCEMENTS_GAP_MS = 2500

  is_outage = function(last_heartbeat_ms, now_ms)
    return last_heartbeat_ms > now_ms or now_ms - last_heartbeat_ms > ANNOUNCEMENTS_GAP_MS
  end
end

-- Returns whether a replica with these values still belongs to the instance that announced it: it has not expired, and
-- a heartbeat came within its time to live, or Redis has not been back for so long after an outage. While the first
-- router's heartbeat after an outage has not come, nobody's time is over.
local function is_held(expired_at_ms, ttl_ms, last_heartbeat_at_ms, now_ms)
  local ttl, last = tonumber(ttl_ms or ''), tonumber(last_heartbeat_at_ms or '')
  if expired_at_ms or not ttl or not last then
    return false
  end
  local routers = redis.call('HMGET', keys.meta, 'announcements_resumed_at_ms', 'heartbeat_at_ms')
  return now_ms < math.max(last, stored_number(routers[1], 0)) + ttl
    or is_outage(stored_number(routers[2], now_ms), now_ms)
end

-- Deletes the oldest of the kept admin states.
local function forget_oldest_admin()
  local kept, oldest, least = redis.call('HGETALL', keys.admin_by_name), nil, nil
  for i = 1, #kept, 2 do
    local since = tonumber(string.match(kept[i + 1], '^%l+\n(%d+)\n') or '0')
    if not least or since < least then
      oldest, least = kept[i], since
    end
  end
  redis.call('HDEL', keys.admin_by_name, oldest)
end

-- Returns whether exactly this admin state is kept for the next replica of that name or url.
local function is_admin_kept(name, url, state, reason)
  local kept = redis.call('HGET', keys.admin_by_name, name and name ~= '' and name or url)
  if not kept then
    return state == 'active'
  end
  local kept_state, kept_reason = string.match(kept, '^([^\n]*)\n[^\n]*\n[^\n]*\n(.*)$')
  return kept_state == state and kept_reason == reason
end

-- Keeps an admin state for the next replica of that name or url; `active` deletes what is kept.
local function keep_admin(name, url, state, since_ms, by, reason)
  local known_as = name and name ~= '' and name or url
  if state == 'active' then
    redis.call('HDEL', keys.admin_by_name, known_as)
    return
  end
  redis.call('HSET', keys.admin_by_name, known_as,
    table.concat({state, since_ms or '0', by or '', reason or ''}, '\n'))
  if redis.call('HLEN', keys.admin_by_name) > KEPT_AT_MOST then
    forget_oldest_admin()
  end
end

-- Keeps the admin state that an operator has given to a replica in service, before the replica leaves it.
local function keep_admin_of(replica_key, url)
  local state = redis.call('HMGET', replica_key, 'name', 'admin', 'admin_since_ms', 'admin_by', 'admin_reason',
    'removes_when_drained', 'expired_at_ms', 'withdrawn_at_ms')
  local named = state[1] and state[1] ~= '' and redis.pcall('HGET', keys.names, state[1])
  if type(named) == 'string' and named ~= url then
    return -- the name has gone to another replica, with what an operator said of it
  end
  local is_set = state[2] == 'disabled' or (state[2] == 'draining' and state[6] ~= '1')
  if is_set and not state[7] and not state[8] then
    keep_admin(state[1], url, unpack(state, 2, 5))
  end
end

-- Gives a replica that comes into service the admin state that is kept for it; `active` if none is.
local function recall_admin(replica_key, url, now_ms)
  local name = redis.call('HGET', replica_key, 'name')
  local known_as = name and name ~= '' and name or url
  local kept = redis.call('HGET', keys.admin_by_name, known_as)
  local state, since_ms, by, reason = string.match(kept or '', '^(%l+)\n(%d+)\n([^\n]*)\n(.*)$')
  redis.call('HDEL', keys.admin_by_name, known_as)
  redis.call('HDEL', replica_key, 'expired_at_ms', 'withdrawn_at_ms', 'removes_when_drained', 'removed_by', 'admin_by',
    'admin_by_at_ms')
  redis.call('HSET', replica_key, 'admin', state or 'active', 'admin_since_ms', since_ms or whole(now_ms),
    'admin_reason', reason or '')
  if state then
    redis.call('HSET', replica_key, 'admin_by', by, 'admin_by_at_ms', since_ms)
  end
end

-- Counts as a heartbeat of the instance that holds a replica.
local function note_heartbeat(replica_key, url, now_ms, ttl_ms)
  redis.call('ZADD', keys.announced, whole(now_ms + tonumber(ttl_ms)), url)
  redis.call('HSET', replica_key, 'last_heartbeat_at_ms', whole(now_ms))
end

-- Makes a replica one that nobody has announced.
local function forget_announcement(replica_key, url)
  redis.call('ZREM', keys.announced, url)
  redis.call('ZREM', keys.departing, url)
  redis.call('HDEL', replica_key, 'owner', 'instance', 'ttl_ms', 'last_heartbeat_at_ms', 'expired_at_ms',
    'withdrawn_at_ms', 'removed_instance')
end
