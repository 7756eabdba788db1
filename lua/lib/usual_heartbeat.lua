-- The usual heartbeat: of a router that lives and has nothing new to say, in a namespace in which nobody waits, nothing
-- is announced, ejected or being brought back, and no router has expired. All that is unusual, a wrong value or a key
-- of another type included, is left to the rest of the command; see lib/usual.lua for the reason.
--
-- The rest of the command runs at least once in CHECKED_MS, whichever router sends the heartbeat, and `checked_at_ms`
-- of `meta` is when it ran last. Only it looks at what a usual heartbeat neither reads nor writes: the types of other
-- keys, other fields of `meta`, and routers whose expiry is too far ahead.
--
-- In a large fleet heartbeats follow each other closely. One that comes within NOTED_SHARE of an expiry (by default
-- 0.1 s) after the last that noted its time in `meta` does not do so again.

-- include lib/leader_lease.lua
-- include lib/many_leases.lua
-- include lib/schema.lua
-- include lib/values.lua

-- Returns whether the record of a router is as this heartbeat would write it, apart from the ages.
local function is_record_current(router)
  local found = redis.pcall('HMGET', router, 'host', 'pid', 'version', 'started_at_ms', 'url', 'config_fingerprint',
    'machine', 'probe_print', 'expiry_ms', 'probing', 'schemas', 'cluster', 'trouble', 'reap_cursor', 'queue_cursor')
  if found.err then
    return false
  end
  for i = 1, 8 do
    if found[i] ~= ARGV[i + 3] then
      return false
    end
  end
  return found[9] == ARGV[2] and found[10] == ARGV[15] and found[11] == table.concat({OLDEST_SCHEMA, SCHEMA}, '-')
    and (ARGV[19] == '' or found[12] == ARGV[19]) and not found[13] and not found[14] and not found[15]
end

-- Returns whether nobody waits, nothing is announced, departing or being brought back, and no ejection is over.
local function has_nothing_to_do(namespace, now)
  local ejected = namespace .. 'ejected'
  local open = redis.pcall('EXISTS', namespace .. 'queue', namespace .. 'settling', namespace .. 'announced',
    namespace .. 'departing', ejected)
  return open == 0
    or (open == 1 and redis.pcall('EXISTS', ejected) == 1 and redis.pcall('ZCOUNT', ejected, '-inf', now) == 0)
end

-- Sets when a member expires, if it is one. Returns whether it is. This is the first write, and changes nothing else.
local function extend(members, expires, member)
  return redis.pcall('ZADD', members, 'XX', 'CH', expires, member) == 1
    or type(redis.pcall('ZSCORE', members, member)) == 'string' -- a heartbeat came in the same millisecond
end

-- Returns the reply, or nil if this heartbeat is not usual.
local function send_usual()
  local CHECKED_MS, NOTED_SHARE, FIRST_URL = 500, 1 / 50, 23
  local key, expiry, cluster, panic_percent, probe_print = ARGV[1], tonumber(ARGV[2]), ARGV[19], ARGV[13], ARGV[11]
  local meta = #ARGV < FIRST_URL and ARGV[14] == '' and ARGV[17] == '' and redis.pcall('HMGET', KEYS[1], 'schema',
    'history_id', 'revision', 'probers_version', 'checked_at_ms', 'heartbeat_at_ms', 'reap_after_ms', 'cluster',
    'returns_all', 'settling', 'panic_percent', 'mark')
  if not meta or meta.err then
    return nil
  end
  local schema, history, revision, probers_version, checked_ms, beat_ms, reap_after_ms = unpack(meta, 1, 7)
  local now_ms = server_now_ms()
  checked_ms, beat_ms = stored_number(checked_ms), stored_number(beat_ms)
  local version_now = table.concat({history or '', probers_version or '0'}, '-')
  if not (schema and can_use(schema) and history and string.match(revision or '', '^%d+%-%d+$'))
    or not checked_ms or checked_ms > now_ms or now_ms - checked_ms >= CHECKED_MS
    or not beat_ms or beat_ms > now_ms or now_ms - beat_ms > expiry / 2
    or stored_number(reap_after_ms, now_ms + 1) > now_ms or (cluster ~= '' and meta[8] ~= cluster)
    or meta[9] or meta[10] or version_now ~= ARGV[12] or (ARGV[16] ~= '' and ARGV[16] ~= history) then
    return nil
  end
  local namespace, now, expires = string.sub(KEYS[1], 1, -5), whole(now_ms), whole(now_ms + expiry)
  local routers, router, leases = namespace .. 'routers', namespace .. 'router:' .. key, namespace .. 'leases:' .. key
  local is_noted = now_ms - beat_ms < NOTED_SHARE * expiry and meta[11] == panic_percent
  local held = redis.pcall('HLEN', leases)
  if type(held) ~= 'number' or redis.pcall('ZCOUNT', routers, '-inf', now) ~= 0
    or not has_nothing_to_do(namespace, now) or not is_record_current(router) then
    return nil
  end
  local prober = table.concat({probe_print, ARGV[10], key}, ' ')
  if probe_print ~= '' and not extend(namespace .. 'probers', expires, prober) then
    return nil
  end
  if not extend(routers, expires, key) then
    return nil
  end
  if not is_noted then
    redis.call('HSET', KEYS[1], 'heartbeat_at_ms', now, 'reap_until_ms', whole(now_ms + math.floor(expiry / 2)),
      'panic_percent', panic_percent)
  end
  redis.call('HSET', router, 'view_age_ms', ARGV[20], 'probe_age_ms', ARGV[21], 'probe_lag_ms', ARGV[22])
  spread_leases(leases, held)
  local lease_ms = leader_lease_ms(namespace .. 'leader')
  return {'alive', history, revision, '0', whole(held), '0', '', '', version_now, lease_ms, meta[12] or '', '0'}
end
