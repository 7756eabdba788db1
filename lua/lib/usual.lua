-- The usual acquire and the usual release, written out: the queue is empty, the session has no name and leaves out no
-- replica, and the replica is healthy and does not ramp up. Lua builds every function that it reaches
-- anew in each run, which costs about as much as the commands do; so the commands include this file first. All that is
-- unusual, a key of another type included, is left to the rest of the command. Nothing has been written by then,
-- because only the first write can fail.

local namespace = string.sub(KEYS[1], 1, -5)

-- Returns whether the session of this lease has no name, the queue is empty, and the namespace has this schema.
local function may_be_usual(lease_id)
  return not string.find(lease_id, ':', 1, true) and redis.pcall('ZCARD', namespace .. 'queue') == 0
    and redis.pcall('HGET', KEYS[1], 'schema') == '2'
end

-- Returns whether a router is registered.
local function is_registered(router)
  return type(redis.pcall('ZSCORE', namespace .. 'routers', router)) == 'string'
end

local function may_write_full()
  return type(redis.pcall('SCARD', namespace .. 'full')) == 'number'
end

-- Gives a session a slot of the least loaded replica of the first tier that has one. Returns its url and revision, or
-- nil if that is not usual.
local function grant_usual(router, lease_id)
  local ready, is_primary = namespace .. 'ready:primary', '1'
  local tier = redis.pcall('ZRANGE', ready, 0, 3, 'WITHSCORES')
  if not tier[1] and not tier.err then
    ready, is_primary = namespace .. 'ready:secondary', '0'
    tier = redis.pcall('ZRANGE', ready, 0, 3, 'WITHSCORES')
  end
  local url, score, equal = tier[1], tier[2], 1
  if not url then
    return nil
  end
  -- The lease id decides between equal loads.
  while tier[2 * equal + 2] == score do
    equal = equal + 1
  end
  if equal == 4 then
    equal = redis.call('ZCOUNT', ready, '-inf', score)
  end
  local place = tonumber(string.sub(lease_id, 1, 8), 16) % equal
  url = tier[2 * place + 1] or redis.call('ZRANGE', ready, place, place)[1]

  local replica = namespace .. 'replica:' .. url
  local status, admin, ejected, ramp, primary, weight, capacity, in_flight, revision = unpack(redis.pcall('HMGET',
    replica, 'status', 'admin', 'ejected_until_ms', 'slow_start_ms', 'primary', 'weight', 'capacity', 'in_flight',
    'revision'))
  if status ~= 'healthy' or admin ~= 'active' or ejected or ramp or primary ~= is_primary then
    return nil
  end
  local count, most, share = tonumber(in_flight or '0') + 1, tonumber(capacity), tonumber(weight)
  if not most or not share or (most > 0 and count > most) or (count == most and not may_write_full())
    or redis.pcall('HSETNX', namespace .. 'leases:' .. router, lease_id, url) ~= 1 then
    return nil
  end
  redis.call('HSET', replica, 'in_flight', count)
  if count == most then
    redis.call('ZREM', ready, url)
    redis.call('SADD', namespace .. 'full', url)
  else
    redis.call('ZADD', ready, count / share, url)
  end
  return url, revision or '0-0'
end

-- Ends a lease. Returns whether that is usual.
local function release_usual(router, lease_id)
  local leases = namespace .. 'leases:' .. router
  local url = redis.pcall('HGET', leases, lease_id)
  if type(url) ~= 'string' then
    return false
  end
  local replica = namespace .. 'replica:' .. url
  local status, admin, ejected, ramp, primary, weight, capacity, in_flight, removes = unpack(redis.pcall('HMGET',
    replica, 'status', 'admin', 'ejected_until_ms', 'slow_start_ms', 'primary', 'weight', 'capacity', 'in_flight',
    'removes_when_drained'))
  if status ~= 'healthy' or admin ~= 'active' or ejected or ramp or removes == '1' or not in_flight then
    return false
  end
  local count, most, share = tonumber(in_flight) - 1, tonumber(capacity), tonumber(weight)
  local was_full = most and most > 0 and count + 1 >= most
  local ready = namespace .. 'ready:secondary'
  if primary == '1' then
    ready = namespace .. 'ready:primary'
  end
  if not most or not share or count < 0 or (was_full and (count >= most or not may_write_full()))
    or type(redis.pcall('ZADD', ready, count / share, url)) ~= 'number' then
    return false
  end
  if was_full then
    redis.call('SREM', namespace .. 'full', url)
  end
  redis.call('HDEL', leases, lease_id)
  redis.call('HSET', replica, 'in_flight', count)
  return true
end
