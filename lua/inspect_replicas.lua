-- Reads, at one instant, everything that must agree about some replicas, for `check`.
--
-- KEYS    replicas ready_primary ready_secondary full replica_prefix
-- ARGV    … (url)
-- RETURNS inspected, then for each url: order, score in ready_primary, score in ready_secondary, whether in full,
--         status, admin, primary, weight, capacity, in_flight, order field, slow_start_ms, status_since_ms ('' where
--         absent)
-- WRITES
-- COST    O(urls * log replicas)

-- include lib/keys.lua

local reply = {'inspected'}
for _, url in ipairs(ARGV) do
  reply[#reply + 1] = redis.call('ZSCORE', keys.replicas, url) or ''
  reply[#reply + 1] = redis.call('ZSCORE', keys.ready_primary, url) or ''
  reply[#reply + 1] = redis.call('ZSCORE', keys.ready_secondary, url) or ''
  reply[#reply + 1] = redis.call('SISMEMBER', keys.full, url) == 1 and '1' or '0'
  local state = redis.call('HMGET', keys.replica_prefix .. url, 'status', 'admin', 'primary', 'weight', 'capacity',
    'in_flight', 'order', 'slow_start_ms', 'status_since_ms')
  for i = 1, #state do
    reply[#reply + 1] = state[i] or ''
  end
end
return reply
