-- Records for all routers whether there is panic, which means that too few replicas are healthy. The leader decides.
--
-- An empty `why` means that there is no panic. Only a change writes an event, so a repeated call or the same finding
-- of the next leader writes none.
--
-- KEYS    meta leader events
-- ARGV    token epoch why
-- RETURNS declared|unchanged|fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta events
-- COST    O(1)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua

local token, epoch, why = unpack(ARGV)

local refused = refusal({'leader', 'events'})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'token', 'epoch', 'router')
if holder[1] ~= token or holder[2] ~= epoch then
  return {'fenced'}
end
local is_panic = why ~= ''
if is_panic == (redis.call('HEXISTS', keys.meta, 'panic') == 1) then
  return {'unchanged'}
end
if is_panic then
  redis.call('HSET', keys.meta, 'panic', why)
else
  redis.call('HDEL', keys.meta, 'panic')
end
emit(server_now_ms(),
  {'kind', is_panic and 'panic_began' or 'panic_ended', 'router', holder[3], 'reason', why})
return {'declared'}
