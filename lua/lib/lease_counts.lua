-- How many leases of all live routers name each replica.

-- Returns url to number, at this instant.
local function count_leases(routers, leases_prefix)
  local counts = {}
  for _, router in ipairs(redis.call('ZRANGE', routers, 0, -1)) do
    for _, url in ipairs(redis.call('HVALS', leases_prefix .. router)) do
      counts[url] = (counts[url] or 0) + 1
    end
  end
  return counts
end
