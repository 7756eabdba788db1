-- After Redis lost data, sessions that run and places in the queue come back before new sessions get slots.
--
-- `settling` has the routers that may bring something back, with score 1; a router whose heartbeat says that it has
-- nothing left has score 0. While any has score 1, no script gives a slot to a session that does not have it already.
-- The key expires, so that a router that died meanwhile delays nobody for longer than one expiry of a router. The word
-- in `meta` ends with that time, so that a clock that is set back does not prolong it.

-- include lib/keys.lua
-- include lib/values.lua
-- include lib/events.lua
-- include lib/refusal.lua

-- A key of another type than the registry's delays nobody.
local function is_settling()
  local count = redis.pcall('ZCOUNT', keys.settling, 1, 1)
  return type(count) == 'number' and count > 0
end

-- Waits for one more router, unless it has said already that it has nothing left.
local function wait_for(router)
  redis.call('ZADD', keys.settling, 'NX', 1, router)
end

-- Begins to wait for a router and all live ones, for a limited time.
local function begin_settling(now_ms, router, limit_ms, reason)
  if type_refusal({keys.settling, 'zset'}) then
    return
  end
  redis.call('DEL', keys.settling)
  wait_for(router)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', keys.routers, whole(now_ms), '+inf')) do
    wait_for(other)
  end
  redis.call('PEXPIRE', keys.settling, limit_ms)
  redis.call('HSET', keys.meta, 'settling', table.concat({whole(server_now_us()), limit_ms}, '-'))
  emit(now_ms, {'kind', 'settling_began', 'router', router, 'reason', reason})
end

-- Records the end, once all routers have said that they have nothing left, or the time is over. `router` is the one
-- that finds it.
local function end_settling(now_ms, router)
  local word = redis.call('HGET', keys.meta, 'settling')
  if not word then
    return
  end
  if is_settling() then
    local limit_ms = string.match(word, '%-(%d+)$')
    if limit_ms and redis.call('PTTL', keys.settling) > tonumber(limit_ms) then
      redis.call('PEXPIRE', keys.settling, limit_ms)
    end
    return
  end
  local is_complete = redis.call('DEL', keys.settling) == 1
  redis.call('HDEL', keys.meta, 'settling')
  emit(now_ms, {'kind', 'settling_ended', 'router', router,
    'reason', is_complete and 'all routers are done' or 'the time is over'})
end

-- Returns the word by which the router says that it has nothing left; empty if nobody waits for that.
local function settling_of(router)
  if redis.pcall('ZSCORE', keys.settling, router) ~= '1' then
    return ''
  end
  return redis.call('HGET', keys.meta, 'settling') or ''
end
