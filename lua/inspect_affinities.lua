-- Returns those of some sessions whose affinity does not agree with their leases, at one instant, for `check`.
--
-- KEYS    routers leases_prefix affinity_prefix several_prefix
-- ARGV    … (session)
-- RETURNS inspected, … (session)
-- WRITES
-- COST    O(all leases)

-- include lib/affinity_check.lua

local counts = count_sessions(ARGV)
local reply = {'inspected'}
for _, session in ipairs(ARGV) do
  local _, _, is_right = compare(session, counts[session])
  if not is_right then
    reply[#reply + 1] = session
  end
end
return reply
