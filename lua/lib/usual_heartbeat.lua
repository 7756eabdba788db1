-- The usual heartbeat: of a router that lives and has nothing new to say, in a namespace in which nobody waits, nothing
-- is announced, ejected or being brought back, and no router has expired. It reads everything before it writes. All
-- that is unusual, a wrong value or a key of another type included, is left to the rest of the command; see
-- lib/usual.lua for the reason.

-- include lib/keys.lua
-- include lib/schema.lua
-- include lib/values.lua

-- The length of each of these keys, and what it must be; any, if that is false.
local USUAL_LENGTHS = {
  'ZCARD', keys.queue, 0, 'ZCARD', keys.settling, 0, 'ZCARD', keys.announced, 0, 'ZCARD', keys.departing, 0,
  'ZCARD', keys.probers, false, 'ZCARD', keys.replicas, false, 'ZCARD', keys.removed, false,
  'HLEN', keys.admin_by_name, false, 'XLEN', keys.events, false, 'ZCARD', keys.ready_primary, false,
  'ZCARD', keys.ready_secondary, false, 'SCARD', keys.full, false, 'ZCARD', keys.spare_primary, false,
  'ZCARD', keys.spare_secondary, false, 'ZCARD', keys.spare_answered, false,
}
local USUAL_DIGITS, FIRST_USUAL_DIGIT = 15, 8
local FIRST_URL_OF_USUAL, MANY_USUAL_LEASES = 23, 32

local function has_usual_lengths()
  for i = 1, #USUAL_LENGTHS, 3 do
    local length, wanted = redis.pcall(USUAL_LENGTHS[i], USUAL_LENGTHS[i + 1]), USUAL_LENGTHS[i + 2]
    if type(length) ~= 'number' or (wanted and length ~= wanted) then
      return false
    end
  end
  return true
end

-- Returns the fields of `meta` that decide, or nil if one is not usual. Those from FIRST_USUAL_DIGIT on are numbers;
-- the first two of them are there.
local function read_usual_meta()
  local meta = redis.pcall('HMGET', keys.meta, 'schema', 'history_id', 'revision', 'returns_all', 'settling', 'cluster',
    'names_cursor', 'heartbeat_at_ms', 'reap_after_ms', 'probers_version', 'epoch', 'next_order', 'queue_sequence',
    'reap_until_ms', 'heartbeats_resumed_at_ms', 'announcements_resumed_at_ms', 'announcements_cut_at_ms',
    'older_router_at_ms', 'slow_start_ms')
  if meta.err or not (meta[1] and can_use(meta[1]) and meta[2] and meta[8] and meta[9]) or meta[4] or meta[5]
    or not string.match(meta[3] or '', '^%d+%-%d+$')
    or (meta[7] and meta[7] ~= 'done' and not string.match(meta[7], '^%d+$')) then
    return nil
  end
  for i = FIRST_USUAL_DIGIT, 19 do
    if meta[i] and (#meta[i] > USUAL_DIGITS or not string.match(meta[i], '^%d+$')) then
      return nil
    end
  end
  return meta
end

-- Returns whether a router lives by itself: its record says what it says now, and nobody's expiry has passed or is too
-- far ahead.
local function lives_on(router, key, probe_print, machine, now_ms, expires)
  local now = whole(now_ms)
  local known = redis.pcall('HMGET', router, 'probe_print', 'machine', 'trouble')
  return not known.err and known[1] == probe_print and known[2] == machine and not known[3]
    and type(redis.pcall('ZSCORE', keys.routers, key)) == 'string'
    and redis.pcall('ZCOUNT', keys.routers, '-inf', now) == 0
    and redis.pcall('ZCOUNT', keys.routers, table.concat({'(', expires}), '+inf') == 0
    and redis.pcall('ZCOUNT', keys.ejected, '-inf', now) == 0
end

-- Returns the reply, or nil if this heartbeat is not usual.
local function send_usual()
  local key, expiry_ms, _, host, pid, version, started_at_ms, url, config_fingerprint, machine, probe_print,
    probers_version, panic_percent, trouble, probing, known_history, settled, _, cluster, view_age_ms, probe_age_ms,
    probe_lag_ms = unpack(ARGV, 1, 22)
  local expiry, router = tonumber(expiry_ms), keys.router_prefix .. key
  local meta = #ARGV < FIRST_URL_OF_USUAL and trouble == '' and settled == '' and read_usual_meta()
  if not meta or not has_usual_lengths() then
    return nil
  end
  local now_ms = server_now_ms()
  local expires = whole(now_ms + expiry)
  local history, beat_ms, reap_after_ms = meta[2], tonumber(meta[8]), tonumber(meta[9])
  local version_now = table.concat({history, meta[10] or '0'}, '-')
  local prober = table.concat({probe_print, machine, key}, ' ')
  local score = redis.pcall('ZSCORE', keys.probers, prober)
  local held = redis.pcall('HLEN', keys.leases_prefix .. key)
  if type(held) ~= 'number' or held >= MANY_USUAL_LEASES or type(score) == 'table' or (probe_print ~= '' and not score)
    or beat_ms > now_ms or now_ms - beat_ms > expiry / 2 or reap_after_ms > now_ms
    or version_now ~= probers_version or (cluster ~= '' and meta[6] ~= cluster)
    or (known_history ~= '' and known_history ~= history)
    or not lives_on(router, key, probe_print, machine, now_ms, expires) then
    return nil
  end
  redis.call('HSET', keys.meta, 'heartbeat_at_ms', whole(now_ms), 'reap_after_ms', whole(reap_after_ms),
    'reap_until_ms', whole(now_ms + math.floor(expiry / 2)), 'panic_percent', panic_percent)
  redis.call('ZADD', keys.routers, expires, key)
  redis.call('HSET', router, 'host', host, 'pid', pid, 'version', version, 'started_at_ms', started_at_ms,
    'url', url, 'config_fingerprint', config_fingerprint, 'expiry_ms', expiry_ms, 'machine', machine,
    'probe_print', probe_print, 'probing', probing, 'schemas', table.concat({OLDEST_SCHEMA, SCHEMA}, '-'),
    'view_age_ms', view_age_ms, 'probe_age_ms', probe_age_ms, 'probe_lag_ms', probe_lag_ms)
  redis.call('HDEL', router, 'reap_cursor', 'queue_cursor')
  if cluster ~= '' then
    redis.call('HSET', router, 'cluster', cluster)
  end
  if probe_print ~= '' then
    redis.call('ZADD', keys.probers, expires, prober)
  end
  return {'alive', history, meta[3], '0', whole(held), '0', '', '', version_now, '0'}
end
