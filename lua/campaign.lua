-- Campaigns for the leadership. The candidate wins if there is no leader; otherwise the reply names the leader and the
-- time that its lease has left.
--
-- The new epoch is higher than every epoch that this history or the candidate has seen, and at least the clock in
-- milliseconds. So epochs rise even if a failover or a restart without data lost the last one. The client makes one
-- token per candidacy. A repeated call with the token of the leader returns `elected` and restarts the lease.
--
-- If the clock was set back, a lease may have more time left than its holder asked for. It is then shortened to what
-- the holder asked for, whatever the candidate's own setting is. A holder of an older version does not say what it
-- asked for; its lease is shortened to the longest that any setting allows.
--
-- KEYS    meta leader events
-- ARGV    router token lease_ms seen_epoch history_id
-- RETURNS elected, epoch  |  held, router, epoch, elected_at_ms, remaining_ms  |  wrong_type …|wrong_schema …
-- WRITES  meta leader events
-- COST    O(1)

-- include lib/keys.lua
-- include lib/history.lua
-- include lib/events.lua

local LONGEST_LEASE_MS = 3600000

local router, token, lease_ms, seen_epoch, history_id = unpack(ARGV)

local refused = refusal({'leader', 'events'})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'router', 'token', 'epoch', 'elected_at_ms', 'lease_ms')
if holder[2] == token then
  redis.call('PEXPIRE', keys.leader, lease_ms)
  return {'elected', holder[3]}
end
if holder[2] then
  local remaining, longest = redis.call('PTTL', keys.leader), stored_number(holder[5], LONGEST_LEASE_MS)
  if remaining < 0 or remaining > longest then
    remaining = longest
    redis.call('PEXPIRE', keys.leader, whole(longest))
  end
  local epoch, elected_at = stored_number(holder[3], 0), stored_number(holder[4], 0)
  return {'held', holder[1] or '', whole(epoch), whole(elected_at), whole(remaining)}
end

local now_ms = server_now_ms()
local last = stored_number(redis.call('HGET', keys.meta, 'epoch'), 0)
local epoch = whole(math.max(last + 1, now_ms, tonumber(seen_epoch) + 1))
begin_history(history_id)
redis.call('HSET', keys.meta, 'epoch', epoch)
redis.call('HSET', keys.leader, 'router', router, 'token', token, 'epoch', epoch, 'elected_at_ms', whole(now_ms),
  'batch', '0', 'lease_ms', lease_ms)
redis.call('PEXPIRE', keys.leader, lease_ms)
emit(now_ms, {'kind', 'leader_elected', 'router', router})
return {'elected', epoch}
