-- Counts the leases on each replica, over all routers in `routers`.

-- include lib/keys.lua

-- Returns whether there are at most so many leases.
local function may_count_leases(most)
  for _, router in ipairs(redis.call('ZRANGE', keys.routers, 0, -1)) do
    local held = redis.pcall('HLEN', keys.leases_prefix .. router)
    most = most - (type(held) == 'number' and held or 0)
  end
  return most >= 0
end

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
