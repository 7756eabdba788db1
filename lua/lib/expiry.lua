-- Puts announced replicas out of service whose instances send no heartbeats, and removes them later.
--
-- A replica that is out of service drains in order to be removed, so that every script treats it rightly, those of
-- earlier versions too. The end of its last session removes it, or this after ten times to live. The tombstone is
-- deleted after an hour without sessions: addresses of pods come and go.
--
-- An outage of Redis is no death: nothing expires within one time to live after it. Nor does a replica whose last
-- probe succeeded while more than three, and more than half, of the announced replicas are silent, or were within one
-- time to live: then it is rather the path of their heartbeats that is broken.

-- include lib/announced.lua
-- include lib/draining.lua

-- A chunk of Lua may have 200 locals at once, of which this uses one.
local expire_announced
do
  local LOOKED_AT_ONCE = 5
  local FAR_AHEAD_AT_ONCE = 16
  local FEW_SILENT = 3
  local TTLS_OUT_OF_SERVICE = 10
  local TOMBSTONE_MS = 3600000

  -- Returns whether so many announced replicas are silent that the silence says nothing about one. Heartbeats come
  -- three times in a time to live, so a replica is silent if less than half of its time is left.
  local function are_many_silent(now_ms, ttl)
    local silent = redis.call('ZCOUNT', keys.announced, '-inf', whole(now_ms + math.floor(ttl / 2)))
    return silent > FEW_SILENT and silent > redis.call('ZCARD', keys.announced) / 2
  end

  -- Returns whether a silent replica that probes reach stays: the way by which heartbeats come is cut off, or was cut
  -- off within one time to live. Where some heartbeats come through again, the others get that long to do so as well.
  local function spares_reached(now_ms, ttl)
    if are_many_silent(now_ms, ttl) then
      redis.call('HSET', keys.meta, 'announcements_cut_at_ms', whole(now_ms))
      return true
    end
    local cut_at_ms = stored_number(redis.call('HGET', keys.meta, 'announcements_cut_at_ms'), 0)
    return cut_at_ms <= now_ms and now_ms < cut_at_ms + ttl
  end

  -- If the clock was set back, a replica may expire later than its time to live says. Corrects those that come last.
  local function shorten_far_ahead(now_ms)
    local last = redis.call('ZREVRANGE', keys.announced, 0, 0, 'WITHSCORES')
    local function is_far_ahead(url, due)
      local ttl = redis.pcall('HGET', table.concat({keys.replica_prefix, url}), 'ttl_ms')
      ttl = type(ttl) == 'string' and tonumber(ttl) or 0
      return tonumber(due) > now_ms + ttl, ttl
    end
    if not last[1] or not is_far_ahead(last[1], last[2]) then
      return
    end
    local page = redis.call('ZREVRANGE', keys.announced, 0, FAR_AHEAD_AT_ONCE - 1, 'WITHSCORES')
    for i = 1, #page, 2 do
      local is_ahead, ttl = is_far_ahead(page[i], page[i + 1])
      if is_ahead then
        redis.call('ZADD', keys.announced, whole(now_ms + ttl), page[i])
      end
    end
  end

  -- Removes a replica that is out of service.
  local function remove_departed(replica, url, now_ms, router)
    local reason = redis.call('HGET', replica, 'admin_reason') or ''
    write_tombstone(replica, url, now_ms, reason)
    refresh_ready(replica, url)
    emit_replica(now_ms, replica, url,
      {'kind', 'replica_deregistered', 'router', router, 'by', 'no heartbeat', 'reason', reason}, {})
  end

  local function expire(replica, url, now_ms, router, state)
    keep_admin_of(replica, url)
    redis.call('HDEL', replica, 'restored_from', 'admin_by', 'admin_by_at_ms')
    local reason = table.concat({'no heartbeat of ', state.owner or '?', ' for ', tostring(state.ttl / 1000), ' s'})
    redis.call('HSET', replica, 'admin', 'draining', 'admin_since_ms', whole(now_ms), 'admin_reason', reason,
      'removes_when_drained', '1', 'expired_at_ms', whole(now_ms))
    refresh_ready(replica, url)
    emit_replica(now_ms, replica, url,
      {'kind', 'replica_expired', 'router', router, 'by', '', 'reason', reason}, {})
  end

  -- Reads what decides about an announced replica; nil if the url is none any more.
  local function announced_state(replica)
    local read = redis.pcall('HMGET', replica, 'source', 'admin', 'ttl_ms', 'owner', 'status', 'consecutive_failures',
      'expired_at_ms', 'withdrawn_at_ms', 'removes_when_drained', 'in_flight', 'admin_since_ms')
    if read.err or read[1] ~= 'announced' then
      return nil
    end
    return {
      admin = read[2], ttl = tonumber(read[3] or '') or 0, owner = read[4],
      is_reached = read[5] == 'healthy' and read[6] == '0',
      since_ms = tonumber(read[7] or read[11] or ''),
      has_left = read[7] or read[8], is_removed_by_operator = read[9] == '1' and not read[8],
      in_flight = tonumber(read[10] or '0') or 0,
    }
  end

  -- Looks at a replica whose heartbeat is due.
  local function look_at_silent(url, now_ms, router, resumed_at_ms)
    local replica = table.concat({keys.replica_prefix, url})
    local state = announced_state(replica)
    if not state then
      redis.call('ZREM', keys.announced, url)
      return
    end
    if state.admin ~= 'removed' then
      local again_ms = resumed_at_ms + state.ttl
      if again_ms <= now_ms and state.is_reached and spares_reached(now_ms, state.ttl) then
        again_ms = now_ms + math.floor(state.ttl / 3)
      end
      if again_ms > now_ms then
        redis.call('ZADD', keys.announced, whole(again_ms), url)
        return
      end
      -- A removal that an operator asked for stays one: its tombstone names the instance.
      if not state.is_removed_by_operator then
        expire(replica, url, now_ms, router, state)
      end
    end
    redis.call('ZREM', keys.announced, url)
    redis.call('ZADD', keys.departing, whole(now_ms), url)
  end

  -- Looks at a replica that is out of service, or at its tombstone.
  local function look_at_departing(url, now_ms, router)
    local replica = table.concat({keys.replica_prefix, url})
    local state = announced_state(replica)
    local again_ms
    if state and state.admin ~= 'removed' then
      local ends_at_ms = (state.since_ms or now_ms) + TTLS_OUT_OF_SERVICE * state.ttl
      if state.in_flight == 0 or ends_at_ms <= now_ms then
        remove_departed(replica, url, now_ms, router)
        state.admin, again_ms = 'removed', now_ms
      else
        again_ms = math.min(ends_at_ms, now_ms + state.ttl)
      end
    end
    if state and state.admin == 'removed' and state.has_left then
      redis.call('ZREM', keys.removed, url)
      local since_ms = tonumber(redis.call('HGET', replica, 'admin_since_ms') or '') or now_ms
      again_ms = math.max(since_ms, now_ms - TOMBSTONE_MS) + TOMBSTONE_MS
      if again_ms <= now_ms and state.in_flight > 0 then
        again_ms = now_ms + TOMBSTONE_MS
      elseif again_ms <= now_ms then
        redis.call('DEL', replica)
      end
    end
    if again_ms and again_ms > now_ms then
      redis.call('ZADD', keys.departing, whole(again_ms), url)
    else
      redis.call('ZREM', keys.departing, url)
    end
  end

  -- Looks at a limited number of replicas. Returns whether there may be more, and in how many milliseconds the next one
  -- is to be looked at; nil if none is announced.
  -- resumed_at_ms: when the last outage of heartbeats ended.
  expire_announced = function(now_ms, router, resumed_at_ms)
    shorten_far_ahead(now_ms)
    local silent = redis.call('ZRANGEBYSCORE', keys.announced, '-inf', whole(now_ms), 'LIMIT', 0, LOOKED_AT_ONCE)
    for _, url in ipairs(silent) do
      look_at_silent(url, now_ms, router, resumed_at_ms)
    end
    local departing = redis.call('ZRANGEBYSCORE', keys.departing, '-inf', whole(now_ms), 'LIMIT', 0, LOOKED_AT_ONCE)
    for _, url in ipairs(departing) do
      look_at_departing(url, now_ms, router)
    end
    local first = redis.call('ZRANGE', keys.announced, 0, 0, 'WITHSCORES')
    local next_at = stored_number(first[2])
    return #silent == LOOKED_AT_ONCE or #departing == LOOKED_AT_ONCE, next_at and next_at - now_ms
  end
end
