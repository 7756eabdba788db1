-- Removes a router that has not beaten for longer than its expiry. Checks again: it may be back.
--
-- KEYS    meta routers router events
-- ARGV    key by
-- RETURNS reaped|alive|not_found  |  wrong_type …|wrong_schema …
-- WRITES  meta routers router events
-- COST    O(log routers)

-- include lib/refusal.lua
-- include lib/events.lua

local meta, routers, router, events = unpack(KEYS)
local key, by = unpack(ARGV)

local refused = refusal(meta, {routers, 'zset', router, 'hash', events, 'stream'})
if refused then
  return refused
end
local expires_at_ms = redis.call('ZSCORE', routers, key)
if not expires_at_ms then
  return {'not_found'}
end
local now_ms = server_now_ms()
local reap_after_ms = tonumber(redis.call('HGET', meta, 'reap_after_ms') or whole(now_ms + 1))
if tonumber(expires_at_ms) > now_ms or now_ms < reap_after_ms then
  return {'alive'}
end

redis.call('ZREM', routers, key)
redis.call('DEL', router)
emit({meta = meta, events = events}, now_ms, {'kind', 'router_expired', 'router', key, 'by', by})
return {'reaped'}
