-- Ends the lease of the leader of this epoch at an operator's request. The event informs the deposed router how long it
-- must not campaign, and the other routers that they may campaign.
--
-- The call names the epoch, so that a repeated call does not depose the next leader.
--
-- KEYS    meta leader events
-- ARGV    epoch sit_out_ms by reason
-- RETURNS deposed, router  |  over  |  wrong_type …|wrong_schema …
-- WRITES  meta leader events
-- COST    O(1)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua

local epoch, sit_out_ms, by, reason = unpack(ARGV)

local refused = refusal({'leader', 'events'})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'epoch', 'router')
if holder[1] ~= epoch then
  return {'over'}
end
redis.call('DEL', keys.leader)
emit(server_now_ms(),
  {'kind', 'leader_resigned', 'router', holder[2], 'by', by, 'reason', reason, 'sit_out_ms', sit_out_ms})
return {'deposed', holder[2]}
