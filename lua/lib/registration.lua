-- Registers one replica, or changes its spec: what `register_replica` and `register_replicas` do for each. The rules
-- stand in the header of `register_replica`.

-- include lib/keys.lua
-- include lib/announced.lua
-- include lib/discovered.lua
-- include lib/doubt.lua
-- include lib/ejection.lua
-- include lib/history.lua
-- include lib/events.lua
-- include lib/names.lua
-- include lib/restarts.lua
-- include lib/ready.lua

local WRITTEN = {
  'replicas', 'removed', 'announced', 'departing', 'admin_by_name', 'leader', 'names', 'routers', 'events',
  'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary', 'spare_secondary', 'spare_answered',
}
-- Fields that the hash lacks if they are empty. All of them decide what a probe requests.
local OPTIONAL = {health_check_path = true, health_check_port = true}
-- The fields that are read in addition to those of the spec.
local READ = {
  'incarnation', 'spec_request', 'admin', 'source', 'instance', 'owner', 'expired_at_ms', 'withdrawn_at_ms', 'ttl_ms',
  'last_heartbeat_at_ms', 'ejected_until_ms', 'order', 'removed_instance',
}

-- Returns the fields of a replica that a registration reads, by name; or nil, and the reply if its key is not a hash.
local function read_registered(replica, names)
  local wanted = {unpack(READ)}
  for i = 1, #names do
    wanted[#READ + i] = names[i]
  end
  local values = redis.pcall('HMGET', replica, unpack(wanted))
  local refused = read_refusal(values, replica, 'hash')
  if refused then
    return nil, refused
  end
  local stored = {}
  for i = 1, #wanted do
    stored[wanted[i]] = values[i]
  end
  return stored
end

-- Returns the reply if the registration is refused or has been done before, or nil; and whether the replica is new, and
-- whether it returns to the instance that had it.
local function decide(call, one, stored, now_ms)
  local mode, admin, source, expired = call.mode, stored.admin, stored.source, stored.expired_at_ms
  local is_announced, was_announced = mode == 'announced', source == 'announced'
  local incarnation = stored.incarnation
  if not is_announced and incarnation and (incarnation == one.request or stored.spec_request == one.request) then
    return {'unchanged'}
  end
  local is_new = not incarnation or not admin or admin == 'removed'
  if (mode == 'seed' or is_discovered(mode)) and admin == 'removed'
      and not (was_announced and (expired or stored.withdrawn_at_ms)) then
    return {'tombstone'}
  end
  if mode == 'seed' and not is_new and (source == 'explicit' or is_discovered(source)) then
    return {'overridden'}
  end
  if not is_new and (is_announced ~= was_announced
      or (source ~= mode and (is_discovered(mode) or is_discovered(source)))) then
    return {'claimed', source or '', stored.owner or ''}
  end
  local is_same = is_announced and was_announced and stored.instance == one.given.instance
  if is_same and stored.withdrawn_at_ms then
    return {'withdrawn'}
  end
  local is_removed = is_announced and stored.removed_instance == one.given.instance
  if (is_removed and is_new) or (is_same and admin == 'removed' and not expired) then
    return {'tombstone'} -- an operator has removed this instance
  end
  if is_announced and not is_new and not is_same then
    if is_held(expired, stored.ttl_ms, stored.last_heartbeat_at_ms, now_ms) then
      return {'taken', stored.owner or ''}
    end
    if is_removed then
      return {'tombstone'}
    end
    -- What another machine announces is another replica, of which nothing is known.
    keep_admin_of(keys.replica_prefix .. one.url, one.url)
    is_new = true
  end
  return nil, is_new, is_same and not is_new and expired
end

-- Returns the reply if a registration on purpose gives a name that another replica has, and if not all names of
-- earlier registrations are entered; or nil.
local function name_refusal(call, one, stored, is_new)
  local name = one.given.name or ''
  if (call.mode ~= 'seed' and call.mode ~= 'explicit') or name == '' or (not is_new and stored.name == name) then
    return nil
  end
  begin_history(call.history_id)
  if not enter_names() then
    return {'indexing'}
  end
  local holder = name_holder(name, one.url)
  if holder then
    return {'name_taken', holder}
  end
  return nil
end

local function position(one)
  if one.order ~= '' then
    return tonumber(one.order)
  end
  local current = stored_number(redis.call('ZSCORE', keys.replicas, one.url))
  if current then
    return current
  end
  local last = redis.call('ZREVRANGE', keys.replicas, 0, 0, 'WITHSCORES')
  return math.max(stored_number(redis.call('HGET', keys.meta, 'next_order'), 0), stored_number(last[2], -1) + 1)
end

-- Returns the fields of the spec, as a flat list of name, value; those that the hash must not have; whether the hash
-- differs from that; and whether probes request something else from now on.
local function spec_of(call, one, stored, placed)
  local spec, absent, is_different, is_probed_otherwise = {}, {}, false, false
  for _, name in ipairs(call.names) do
    local value, before = one.given[name], stored[name]
    -- A missing field counts as empty: an earlier version that does not know the field may have written the hash.
    local differs = (before or '') ~= value
    if OPTIONAL[name] then
      is_probed_otherwise = is_probed_otherwise or differs
    end
    if OPTIONAL[name] and value == '' then
      absent[#absent + 1] = name
      is_different = is_different or before
    else
      spec[#spec + 1], spec[#spec + 2] = name, value
      is_different = is_different or differs
    end
  end
  local last = #spec
  spec[last + 1], spec[last + 2], spec[last + 3], spec[last + 4] = 'order', whole(placed), 'source', call.mode
  return spec, absent, is_different, is_probed_otherwise
end

-- Writes what a new replica begins with over what an earlier one at its url has left.
local function begin_replica(call, one, replica, exists, now_ms)
  local at = whole(now_ms)
  redis.call('ZREM', keys.removed, one.url)
  if exists then
    redis.call('PERSIST', replica)
    redis.call('HDEL', replica, 'last_ok_at_ms', 'last_failure_at_ms', 'last_latency_ms', 'last_error',
      'failing_witness', 'reported_at_ms', 'missing_since_ms', 'removed_by', 'admin_by', 'admin_by_at_ms')
    forget_doubt(replica)
  end
  local of_instance = call.mode == 'announced' and table.concat({one.given.instance, one.request}, '-') or one.request
  redis.call('HSET', replica, 'incarnation', of_instance, 'registered_at_ms', at, 'status', 'unknown',
    'status_since_ms', at, 'consecutive_failures', '0', 'consecutive_successes', '0', 'admin', 'active',
    'admin_since_ms', at, 'admin_reason', '')
  redis.call('HSETNX', replica, 'in_flight', '0')
end

-- Registers a replica. Returns the status and its values, and whether anything has changed: then the caller has to call
-- `serve_queue`. It has compared the types of the keys in `WRITTEN`, and the term, before.
-- call: mode, history_id, router, by, names (of the given fields), and shows_events (whether the event follows the
-- status). one: request, url, order, and given, which has the value of each of these fields; an empty order lets this
-- function choose.
local function register(call, one)
  local url, replica = one.url, keys.replica_prefix .. one.url
  local stored, refused = read_registered(replica, call.names)
  if not stored then
    return refused
  end
  local now_ms = server_now_ms()
  local done, is_new, returns = decide(call, one, stored, now_ms)
  done = done or name_refusal(call, one, stored, is_new)
  if done then
    return done
  end
  local mode, is_announced = call.mode, call.mode == 'announced'
  local placed = position(one)
  local spec, absent, is_different, is_probed_otherwise = spec_of(call, one, stored, placed)
  local is_ejected = mode == 'explicit' and stored.ejected_until_ms
  local changed = is_new or is_ejected or returns or is_different or stored.order ~= whole(placed)
    or stored.source ~= mode
  if is_announced then
    note_heartbeat(replica, url, now_ms, one.given.ttl_ms)
  end
  if not changed then
    return {'unchanged'}
  end

  begin_history(call.history_id)
  local exists = redis.call('EXISTS', replica) == 1
  redis.call('HSET', keys.meta, 'next_order',
    whole(math.max(stored_number(redis.call('HGET', keys.meta, 'next_order'), 0), placed + 1)))
  redis.call('ZADD', keys.replicas, whole(placed), url)
  claim_name(one.given.name, url)
  redis.call('HSET', replica, 'spec_request', one.request, unpack(spec))
  if #absent > 0 and exists then
    redis.call('HDEL', replica, unpack(absent))
  end
  if mode == 'explicit' then
    redis.call('HDEL', replica, 'restored_from')
  elseif is_new then
    -- After a loss of history, a router's view replaces what a config file says; see restore_view.
    redis.call('HSET', replica, 'restored_from', '0-0')
  end
  if is_probed_otherwise and exists then
    forget_doubt(replica)
  end
  if (is_ejected or is_new) and exists then
    forget_ejections(replica)
  end
  if is_new then
    begin_replica(call, one, replica, exists, now_ms)
    if is_announced or is_discovered(mode) then
      take_over_name(one.given.name, url, mode)
    end
  end
  if is_announced and (is_new or returns) then
    redis.call('ZREM', keys.departing, url)
    recall_admin(replica, url, now_ms)
  elseif is_new then
    forget_announcement(replica, url)
    if is_discovered(mode) then
      recall_admin(replica, url, now_ms)
    end
  end
  refresh_ready(replica, url)
  local reply = {is_new and 'created' or 'updated'}
  emit_replica(now_ms, replica, url,
    {'kind', is_new and 'replica_registered' or 'replica_updated', 'router', call.router, 'by', call.by,
      'reason', ''},
    call.shows_events and reply or nil)
  return reply, true
end
