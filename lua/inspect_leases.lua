-- Counts all leases at one instant, for `check`. The reply names the listed routers that hold leases without being in
-- `routers`, and the replicas whose `in_flight` differs from the number of their leases.
--
-- The first `listed` names are routers, the others canonical urls. Urls that leases name are always checked.
--
-- KEYS    routers replica_prefix leases_prefix
-- ARGV    listed … (name)
-- RETURNS inspected, how many routers, these, then for each replica: url, in_flight ('' without a hash), leases
-- WRITES
-- COST    O(all leases + urls)

-- include lib/keys.lua
-- include lib/values.lua
-- include lib/lease_counts.lua

local FIRST_NAME = 2

local listed = unpack(ARGV, 1, 1)

local counts = count_leases()
local reply = {'inspected', ''}
for i = FIRST_NAME, #ARGV do
  local name = ARGV[i]
  if i >= FIRST_NAME + tonumber(listed) then
    counts[name] = counts[name] or 0
  elseif redis.call('EXISTS', keys.leases_prefix .. name) == 1 and not redis.call('ZSCORE', keys.routers, name) then
    reply[#reply + 1] = name
  end
end
reply[2] = whole(#reply - 2)
for url, count in pairs(counts) do
  local in_flight = redis.pcall('HGET', keys.replica_prefix .. url, 'in_flight')
  in_flight = type(in_flight) == 'string' and in_flight
  if tonumber(in_flight or '') ~= count and (in_flight or count > 0) then
    reply[#reply + 1] = url
    reply[#reply + 1] = in_flight or ''
    reply[#reply + 1] = whole(count)
  end
end
return reply
