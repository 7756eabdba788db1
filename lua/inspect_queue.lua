-- Looks at the queue at one instant, for `check`: whether somebody waits although there is room, and which
-- routers, of those that have waiters and of the given ones, are not in `routers`.
--
-- KEYS    routers queue ready_primary ready_secondary
-- ARGV    … (router)
-- RETURNS inspected, how many wait of live routers, how many replicas have room, routers that are none…
-- WRITES
-- COST    O(waiters * log routers)

-- include lib/keys.lua
-- include lib/values.lua

local now_ms = server_now_ms()
local looked_at = {}
local reply = {'inspected', '', ''}

-- Whether the router lives; one that is none is named, once.
local function is_live(router)
  if looked_at[router] == nil then
    local expires_at_ms = redis.call('ZSCORE', keys.routers, router)
    looked_at[router] = expires_at_ms and tonumber(expires_at_ms) > now_ms
    if not expires_at_ms then
      reply[#reply + 1] = router
    end
  end
  return looked_at[router]
end

local waiting = 0
for _, waiter in ipairs(redis.call('ZRANGE', keys.queue, 0, -1)) do
  if is_live(string.match(waiter, '^(.-)/') or '') then
    waiting = waiting + 1
  end
end
for _, router in ipairs(ARGV) do
  is_live(router)
end
reply[2] = whole(waiting)
reply[3] = whole(redis.call('ZCARD', keys.ready_primary) + redis.call('ZCARD', keys.ready_secondary))
return reply
