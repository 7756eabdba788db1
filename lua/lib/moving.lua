-- Leases that may move from one router to another, because their sessions do not run through a router. Their ids are
-- made from what the client sends, so that each router knows the id again. `~moves` follows the random part.
--
-- `moved` has the routers that had such a lease before, as `router/lease`, with the time at which it left them. A
-- router that was paused does not know that its lease has moved, and perhaps ended elsewhere. It must not put it back.

-- include lib/refusal.lua
-- include lib/values.lua

local MOVED_AT_MOST = 20000
local FORGOTTEN_AT_ONCE = 200
local MOVED_MS = 3600000

local function may_move(lease_id)
  return string.find(lease_id, '~moves', 1, true) ~= nil
end

-- Returns the key of a router that has the lease, other than `but`, and the url of its replica; nil if none has it.
local function holder_of(lease_id, but)
  for _, router in ipairs(redis.call('ZRANGE', keys.routers, 0, -1)) do
    local url = router ~= but and redis.pcall('HGET', keys.leases_prefix .. router, lease_id)
    if type(url) == 'string' then
      return router, url
    end
  end
end

-- Notes that leases have left a router; it must not put them back.
local function note_moved(router, lease_ids, now_ms)
  for _, lease_id in ipairs(lease_ids) do
    redis.call('ZADD', keys.moved, whole(now_ms), table.concat({router, lease_id}, '/'))
  end
  if #lease_ids > 0 then
    redis.call('ZREMRANGEBYSCORE', keys.moved, '-inf', whole(now_ms - MOVED_MS))
    local above = math.min(redis.call('ZCARD', keys.moved) - MOVED_AT_MOST, FORGOTTEN_AT_ONCE)
    if above > 0 then
      redis.call('ZREM', keys.moved, unpack(redis.call('ZRANGE', keys.moved, 0, above - 1)))
    end
    redis.call('PEXPIRE', keys.moved, MOVED_MS)
  end
end

-- Returns whether a lease has left that router and has not come back.
local function has_left(router, lease_id)
  return redis.call('ZSCORE', keys.moved, table.concat({router, lease_id}, '/')) and true
end

local function note_return(router, lease_id)
  redis.call('ZREM', keys.moved, table.concat({router, lease_id}, '/'))
end

-- Gives a lease that may move to another router's leases. Returns whether that has happened: not if the router has a
-- lease of that id, or its key has another type.
local function bequeath(lease_id, url, heir)
  if redis.pcall('HSETNX', keys.leases_prefix .. heir, lease_id, url) ~= 1 then
    return false
  end
  note_return(heir, lease_id)
  return true
end

-- Returns the router that lives longest from now on without a heartbeat, other than `but`; nil if none lives.
local function find_heir(now_ms, but)
  local last = redis.call('ZREVRANGE', keys.routers, 0, 1, 'WITHSCORES')
  for i = 1, #last, 2 do
    if last[i] ~= but and tonumber(last[i + 1]) > now_ms then
      return last[i]
    end
  end
end
