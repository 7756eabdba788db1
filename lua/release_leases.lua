-- Does for several leases of one router what release_lease does for one, as long as that is usual: see lib/usual.lua.
-- It stops at the first lease for which it is not. That one and those after it are to be released by release_lease;
-- nothing has been written for them. A lease that has ended is one of these, so a repeated call is safe.
--
-- KEYS    meta queue ready_primary ready_secondary full replica_prefix leases_prefix
-- ARGV    router … (lease_id)
-- RETURNS released, number of leases
-- WRITES  ready_primary ready_secondary full replica_prefix leases_prefix
-- COST    O(leases * log replicas)

-- include lib/usual.lua

local FIRST_LEASE_ID = 2

local router = unpack(ARGV, 1, 1)
local next_id = FIRST_LEASE_ID
if may_be_usual(table.concat(ARGV, '', FIRST_LEASE_ID)) then
  while next_id <= #ARGV and release_usual(router, ARGV[next_id]) do
    next_id = next_id + 1
  end
end
return {'released', string.format('%d', next_id - FIRST_LEASE_ID)}
