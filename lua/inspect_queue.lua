-- Reads a page of the queue at one instant, for `check`. The reply shows whether sessions of it wait while a replica
-- has a free slot, and names their routers, and the given routers, that are not in `routers`.
--
-- KEYS    routers queue settling ready_primary ready_secondary
-- ARGV    first … (router)
-- RETURNS inspected, how many waiters in the page, how many of live routers, how many replicas may take a session now,
--         each router that is not in routers
-- WRITES
-- COST    O((log waiters + 1000 + routers) * log routers)

-- include lib/keys.lua
-- include lib/values.lua
-- include lib/settling.lua

local FIRST_ROUTER = 2
local INSPECTED_AT_ONCE = 1000

local first = unpack(ARGV, 1, 1)

local now_ms = server_now_ms()
local is_live_by_router = {}
local reply = {'inspected', '', '', ''}

-- Returns whether the router lives. A router that is not in `routers` is added to the reply, once.
local function is_live(router)
  if is_live_by_router[router] == nil then
    local expires_at_ms = redis.call('ZSCORE', keys.routers, router)
    is_live_by_router[router] = expires_at_ms and tonumber(expires_at_ms) > now_ms
    if not expires_at_ms then
      reply[#reply + 1] = router
    end
  end
  return is_live_by_router[router]
end

local waiting = 0
local page = redis.call('ZRANGE', keys.queue, first, tonumber(first) + INSPECTED_AT_ONCE - 1)
for _, waiter in ipairs(page) do
  if is_live(string.match(waiter, '^(.-)/') or '') then
    waiting = waiting + 1
  end
end
for i = FIRST_ROUTER, #ARGV do
  is_live(ARGV[i])
end
reply[2] = whole(#page)
reply[3] = whole(waiting)
local ready = redis.call('ZCARD', keys.ready_primary) + redis.call('ZCARD', keys.ready_secondary)
reply[4] = whole(is_settling() and 0 or ready)
return reply
