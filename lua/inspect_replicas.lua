-- Reads the hash, the order, the entries in the ready and spare sets, `ejected`, `announced`, `departing` and `full` of
-- some replicas at one instant, for `check`, which compares them.
--
-- KEYS    replicas ready_primary ready_secondary full spare_primary spare_secondary spare_answered ejected
--         announced departing replica_prefix
-- ARGV    … (url)
-- RETURNS inspected, then for each url: order, score in ready_primary, ready_secondary, spare_primary, spare_secondary,
--         spare_answered, ejected, announced and departing ('' where absent), whether in full, how many fields its
--         hash has, name and value of each
-- WRITES
-- COST    O(urls * log replicas)

-- include lib/keys.lua
-- include lib/values.lua

local SCORES = {
  'replicas', 'ready_primary', 'ready_secondary', 'spare_primary', 'spare_secondary', 'spare_answered', 'ejected',
  'announced', 'departing',
}

local reply = {'inspected'}
for _, url in ipairs(ARGV) do
  for _, name in ipairs(SCORES) do
    reply[#reply + 1] = redis.call('ZSCORE', keys[name], url) or ''
  end
  reply[#reply + 1] = redis.call('SISMEMBER', keys.full, url) == 1 and '1' or '0'
  local fields = redis.pcall('HGETALL', keys.replica_prefix .. url)  -- an error, for another type, has no entries
  reply[#reply + 1] = whole(#fields / 2)
  for i = 1, #fields do
    reply[#reply + 1] = fields[i]
  end
end
return reply
