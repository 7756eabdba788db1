-- Ends the lease of the leader that holds this token. The event informs the other routers that they may campaign.
--
-- KEYS    meta leader events
-- ARGV    token reason
-- RETURNS resigned|lost  |  wrong_type …|wrong_schema …
-- WRITES  meta leader events
-- COST    O(1)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua

local token, reason = unpack(ARGV)

local refused = refusal({'leader', 'events'})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'token', 'router')
if holder[1] ~= token then
  return {'lost'}
end
redis.call('DEL', keys.leader)
local event = {'kind', 'leader_resigned', 'router', holder[2]}
if reason ~= '' then
  event[#event + 1] = 'reason'
  event[#event + 1] = reason
end
emit(server_now_ms(), event)
return {'resigned'}
