-- Reads the length of the queue, and the positions of some of a router's waiters. Positions count from 1.
--
-- KEYS    queue
-- ARGV    router … (lease_id)
-- RETURNS inspected, how many wait, then each position, '' for a lease id that is not in the queue
-- WRITES
-- COST    O(waiters asked for * log waiters)

-- include lib/keys.lua
-- include lib/values.lua

local FIRST_LEASE_ID = 2

local router = unpack(ARGV, 1, 1)

local reply = {'inspected', whole(redis.call('ZCARD', keys.queue))}
for i = FIRST_LEASE_ID, #ARGV do
  local rank = redis.call('ZRANK', keys.queue, router .. '/' .. ARGV[i])
  reply[#reply + 1] = rank and whole(rank + 1) or ''
end
return reply
