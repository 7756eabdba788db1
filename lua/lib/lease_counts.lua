-- How many leases of all live routers name each replica.

-- include lib/keys.lua

-- Returns url to number, at this instant.
local function count_leases()
  local counts = {}
  for _, router in ipairs(redis.call('ZRANGE', keys.routers, 0, -1)) do
    for _, url in ipairs(redis.call('HVALS', keys.leases_prefix .. router)) do
      counts[url] = (counts[url] or 0) + 1
    end
  end
  return counts
end
