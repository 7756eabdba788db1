-- Names the listed routers that hold leases without being in `routers`, for `check`. If there are at most `most`
-- leases, it counts them at one instant, and names the replicas whose `in_flight` differs from the number of theirs.
-- More would take long: then `is_counted` is 0, and the caller reads them in pieces instead.
--
-- The first `listed` names are routers, the others canonical urls. Urls that leases name are always checked.
--
-- KEYS    routers replica_prefix leases_prefix
-- ARGV    most listed … (name)
-- RETURNS inspected, is_counted (0|1), how many routers, these, then for each replica: url, in_flight ('' without a
--         hash), leases
-- WRITES
-- COST    O(most + routers + urls)

-- include lib/keys.lua
-- include lib/values.lua
-- include lib/lease_counts.lua

local FIRST_NAME = 3

local most, listed = unpack(ARGV, 1, 2)

local is_counted = may_count_leases(tonumber(most))
local counts = is_counted and count_leases() or {}
local reply = {'inspected', is_counted and '1' or '0', ''}
for i = FIRST_NAME, #ARGV do
  local name = ARGV[i]
  if i >= FIRST_NAME + tonumber(listed) then
    counts[name] = is_counted and (counts[name] or 0) or nil
  elseif redis.call('EXISTS', keys.leases_prefix .. name) == 1 and not redis.call('ZSCORE', keys.routers, name) then
    reply[#reply + 1] = name
  end
end
reply[3] = whole(#reply - 3)
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
