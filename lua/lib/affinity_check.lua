-- Compares the affinities of sessions with their leases.

-- include lib/keys.lua
-- include lib/affinity.lua

-- Returns the number of leases of each of these sessions on each url, over all routers in `routers`.
local function count_sessions(sessions)
  local counts = {}
  for _, session in ipairs(sessions) do
    counts[session] = {}
  end
  for _, router in ipairs(redis.call('ZRANGE', keys.routers, 0, -1)) do
    local leases = redis.pcall('HGETALL', keys.leases_prefix .. router)
    for i = 1, #leases, 2 do
      local own = counts[session_of(leases[i])]
      if own then
        own[leases[i + 1]] = (own[leases[i + 1]] or 0) + 1
      end
    end
  end
  return counts
end

-- Returns the url to which a session is to be bound, the number of its leases, and whether its keys agree with that.
-- own: the number of its leases on each url.
local function compare(session, own)
  local affinity, several = keys.affinity_prefix .. session, keys.several_prefix .. session
  local bound, left_ms, all = redis.call('GET', affinity), redis.call('PTTL', affinity), 0
  local likely = own[bound] and bound or nil
  for url, count in pairs(own) do
    all = all + count
    if not own[bound] and (not likely or count > own[likely] or (count == own[likely] and url < likely)) then
      likely = url
    end
  end
  local is_right = all == 0 and left_ms ~= FOREVER or all > 0 and left_ms == FOREVER and likely == bound
  local noted, found = redis.call('HGETALL', several), 0
  for i = 1, #noted, 2 do
    is_right = is_right and tonumber(noted[i + 1]) == own[noted[i]]
    found = found + (tonumber(noted[i + 1]) or 0)
  end
  return likely, all, is_right and found == (all > 1 and all or 0)
end
