-- Reads the hash, the order, the ready scores and `full` of some replicas at one instant, for `check`, which compares
-- them.
--
-- KEYS    replicas ready_primary ready_secondary full replica_prefix
-- ARGV    … (url)
-- RETURNS inspected, then for each url: order, score in ready_primary, score in ready_secondary ('' where absent),
--         whether in full, how many fields its hash has, name and value of each
-- WRITES
-- COST    O(urls * log replicas)

-- include lib/keys.lua
-- include lib/values.lua

local reply = {'inspected'}
for _, url in ipairs(ARGV) do
  reply[#reply + 1] = redis.call('ZSCORE', keys.replicas, url) or ''
  reply[#reply + 1] = redis.call('ZSCORE', keys.ready_primary, url) or ''
  reply[#reply + 1] = redis.call('ZSCORE', keys.ready_secondary, url) or ''
  reply[#reply + 1] = redis.call('SISMEMBER', keys.full, url) == 1 and '1' or '0'
  local fields = redis.call('HGETALL', keys.replica_prefix .. url)
  reply[#reply + 1] = whole(#fields / 2)
  for i = 1, #fields do
    reply[#reply + 1] = fields[i]
  end
end
return reply
