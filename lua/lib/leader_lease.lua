-- The lease of the leader, as heartbeats report it, so that routers need not ask for it by campaigns.

-- Returns how many milliseconds it has left; '' if there is no leader, or its lease does not end.
local function leader_lease_ms(leader)
  local left = redis.call('PTTL', leader)
  return left >= 0 and string.format('%.0f', left) or ''
end
