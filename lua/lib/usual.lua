-- The rules of the usual acquire and the usual release: the queue is empty, the session has no name and leaves out no
-- replica, and the replica is healthy and does not ramp up. Lua builds every function that it reaches anew in each run,
-- which costs about as much as the commands do; so the commands include this file first. All that is unusual, a key of
-- another type included, is left to the rest of the command. Nothing has been written by then, because only the first
-- write can fail.

-- include lib/schema.lua

local namespace = string.sub(KEYS[1], 1, -5)

local function is_usable(schema)
  return type(schema) == 'string' and can_use(schema)
end

-- Returns whether the sessions of these leases have no names, the queue is empty, nothing is being brought back after a
-- loss, and the schema can be used.
local function may_be_usual(lease_ids)
  return not string.find(lease_ids, ':', 1, true) and redis.pcall('ZCARD', namespace .. 'queue') == 0
    and redis.pcall('ZCARD', namespace .. 'settling') == 0 and is_usable(redis.pcall('HGET', KEYS[1], 'schema'))
end

local function may_write_full()
  return type(redis.pcall('SCARD', namespace .. 'full')) == 'number'
end

-- Returns the sessions, the capacity, the weight, the tier and the revision of a replica, or nil if it is not usual.
local function read_usual(url)
  local status, admin, ejected, ramp, removes, count, most, weight, primary, revision = unpack(redis.pcall('HMGET',
    namespace .. 'replica:' .. url, 'status', 'admin', 'ejected_until_ms', 'slow_start_ms', 'removes_when_drained',
    'in_flight', 'capacity', 'weight', 'primary', 'revision'))
  count, most, weight = tonumber(count or ''), tonumber(most or ''), tonumber(weight or '')
  if status == 'healthy' and admin == 'active' and not ejected and not ramp and removes ~= '1'
    and count and most and weight and weight > 0 and weight < math.huge then
    return count, most, weight, primary == '1' and 'ready:primary' or 'ready:secondary', revision or '0-0'
  end
end
