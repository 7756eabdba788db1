-- A router's clean stop: takes it out of `routers`.
--
-- KEYS    meta routers router events
-- ARGV    key
-- RETURNS left|not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta routers router events
-- COST    O(log routers)

-- include lib/refusal.lua
-- include lib/events.lua

local meta, routers, router, events = unpack(KEYS)
local key = unpack(ARGV)

local refused = refusal(meta, {routers, 'zset', router, 'hash', events, 'stream'})
if refused then
  return refused
end
if redis.call('ZREM', routers, key) == 0 then
  return {'not_found'}
end
redis.call('DEL', router)
emit({meta = meta, events = events}, server_now_ms(), {'kind', 'router_left', 'router', key})
return {'left'}
