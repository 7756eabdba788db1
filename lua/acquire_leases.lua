-- Does for several sessions of one router what acquire_lease does for one, as long as that is usual: see lib/usual.lua.
-- It stops at the first session for which it is not. That one and those after it are to ask by acquire_lease; nothing
-- has been written for them. A session that has a lease is one of these, so a repeated call is safe.
--
-- KEYS    meta routers queue ready_primary ready_secondary full replica_prefix leases_prefix
-- ARGV    router … (lease_id)
-- RETURNS granted, url, revision of the replica, …
-- WRITES  ready_primary ready_secondary full replica_prefix leases_prefix
-- COST    O(sessions * log replicas)

-- include lib/usual.lua

local FIRST_LEASE_ID = 2

local router = unpack(ARGV, 1, 1)
local reply = {'granted'}
if may_be_usual(table.concat(ARGV, '', FIRST_LEASE_ID)) and is_registered(router) then
  for i = FIRST_LEASE_ID, #ARGV do
    local url, revision = grant_usual(router, ARGV[i])
    if not url then
      break
    end
    reply[#reply + 1] = url
    reply[#reply + 1] = revision
  end
end
return reply
