-- Leases that may move from one router to another, because their sessions do not run through a router. Their ids are
-- made from what the client sends, so that each router knows the id again. `~moves` follows the random part.

-- include lib/refusal.lua

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

-- Gives a lease that may move to another router's leases. Returns whether that has happened: not if the router has a
-- lease of that id, or its key has another type.
local function bequeath(lease_id, url, heir)
  return redis.pcall('HSETNX', keys.leases_prefix .. heir, lease_id, url) == 1
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
