-- Stands for leader: wins if nobody leads, and learns who does and for how long otherwise.
--
-- The epoch is above every one that this history or the candidate has seen, and at least the clock, so that it
-- rises even where a failover or an empty restart lost the last one. The token is made by the client, one per
-- candidacy: the same token again finds itself elected, and its lease begins anew.
--
-- KEYS    meta leader events
-- ARGV    router token lease_ms seen_epoch history_id
-- RETURNS elected, epoch  |  held, router, epoch, elected_at_ms, remaining_ms  |  wrong_type …|wrong_schema …
-- WRITES  meta leader events
-- COST    O(1)

-- include lib/keys.lua
-- include lib/history.lua
-- include lib/events.lua

local router, token, lease_ms, seen_epoch, history_id = unpack(ARGV)

local refused = refusal({'leader', 'events'})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'router', 'token', 'epoch', 'elected_at_ms')
if holder[2] == token then
  redis.call('PEXPIRE', keys.leader, lease_ms)
  return {'elected', holder[3]}
end
if holder[2] then
  local remaining = redis.call('PTTL', keys.leader)
  if remaining < 0 or remaining > tonumber(lease_ms) then
    remaining = tonumber(lease_ms)
    redis.call('PEXPIRE', keys.leader, lease_ms)
  end
  return {'held', holder[1], holder[3], holder[4], whole(remaining)}
end

local now_ms = server_now_ms()
local last = tonumber(redis.call('HGET', keys.meta, 'epoch') or '0')
local epoch = whole(math.max(last + 1, now_ms, tonumber(seen_epoch) + 1))
begin_history(history_id)
redis.call('HSET', keys.meta, 'epoch', epoch)
redis.call('HSET', keys.leader, 'router', router, 'token', token, 'epoch', epoch, 'elected_at_ms', whole(now_ms),
  'batch', '0')
redis.call('PEXPIRE', keys.leader, lease_ms)
emit(now_ms, {'kind', 'leader_elected', 'router', router})
return {'elected', epoch}
