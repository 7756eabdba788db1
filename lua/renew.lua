-- Extends the lease of the leader that holds this token. It never makes a router the leader.
--
-- KEYS    leader
-- ARGV    token lease_ms
-- RETURNS renewed|lost  |  wrong_type …
-- WRITES  leader
-- COST    O(1)

-- include lib/keys.lua
-- include lib/refusal.lua

local token, lease_ms = unpack(ARGV)

local refused = type_refusal({keys.leader, 'hash'})
if refused then
  return refused
end
if redis.call('HGET', keys.leader, 'token') ~= token then
  return {'lost'}
end
redis.call('PEXPIRE', keys.leader, lease_ms)
return {'renewed'}
