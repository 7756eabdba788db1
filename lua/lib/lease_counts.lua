-- Counts the leases on each replica, over all routers in `routers`.

-- include lib/keys.lua

-- Returns a table of url to number of leases, at this instant.
local function count_leases()
  local counts = {}
  for _, router in ipairs(redis.call('ZRANGE', keys.routers, 0, -1)) do
    -- Leases of another type are left out: an error has no entries.
    for _, url in ipairs(redis.pcall('HVALS', keys.leases_prefix .. router)) do
      counts[url] = (counts[url] or 0) + 1
    end
  end
  return counts
end
