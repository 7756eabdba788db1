-- Redis keeps a small hash as a list, which it searches from its start for each field. A long value makes it a hash
-- table for good. Ids of named sessions are so long as well.

-- Makes the hash of a router's leases a hash table, if it has so many that this saves time.
local function spread_leases(leases, held)
  local MANY_LEASES, LONG_VALUE_LENGTH = 32, 65
  if held >= MANY_LEASES then
    redis.call('HSET', leases, '-', string.rep('-', LONG_VALUE_LENGTH))
    redis.call('HDEL', leases, '-')
  end
end
