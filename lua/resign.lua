-- Ends the lease of the leader that holds this token, and tells the others that they may stand.
--
-- KEYS    meta leader events
-- ARGV    token reason
-- RETURNS resigned|lost  |  wrong_type …|wrong_schema …
-- WRITES  meta leader events
-- COST    O(1)

-- include lib/refusal.lua
-- include lib/events.lua

local meta, leader, events = unpack(KEYS)
local token, reason = unpack(ARGV)

local refused = refusal(meta, {leader, 'hash', events, 'stream'})
if refused then
  return refused
end
local holder = redis.call('HMGET', leader, 'token', 'router')
if holder[1] ~= token then
  return {'lost'}
end
redis.call('DEL', leader)
local event = {'kind', 'leader_resigned', 'router', holder[2]}
if reason ~= '' then
  event[#event + 1] = 'reason'
  event[#event + 1] = reason
end
emit({meta = meta, events = events}, server_now_ms(), event)
return {'resigned'}
