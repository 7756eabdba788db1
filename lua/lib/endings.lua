-- The end of a lease: lowers the count of its replica.

-- include lib/values.lua
-- include lib/affinity_end.lua
-- include lib/ready.lua

-- Lowers the count of sessions of a replica, removed or not, whose state was read before. Returns how many sessions
-- are left, or nil if the replica has no count.
local function count_off(url, state, count)
  if not tonumber(state[IN_FLIGHT] or '') then
    return nil
  end
  local replica, was_in = keys.replica_prefix .. url, set_of(state)
  local left = math.max(tonumber(state[IN_FLIGHT]) - count, 0)
  state[IN_FLIGHT] = whole(left)
  redis.call('HSET', replica, 'in_flight', state[IN_FLIGHT])
  keep_in_set(was_in, url, state)
  return left
end
