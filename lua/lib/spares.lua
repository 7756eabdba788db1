-- Panic: few replicas are healthy, so that sessions for which no healthy replica has a free slot get one of a replica
-- that is not healthy. The verdicts may be wrong where so many fail at once.
--
-- There is panic if fewer than `panic_percent` of the active replicas that have answered within the last hour are
-- healthy. A healthy replica counts in any case. The percentage is that of the last heartbeat; 0 means that there is
-- never panic.

-- include lib/ready.lua

local in_panic

local function takes_no_spare(lease_id)
  return string.find(lease_id, '~healthy', 1, true) ~= nil
end

-- The statuses must not change afterwards in the same run.
local function is_panic()
  if in_panic == nil then
    local percent = tonumber(redis.call('HGET', keys.meta, 'panic_percent') or '') or 0
    local healthy = redis.call('ZCARD', keys.ready_primary) + redis.call('ZCARD', keys.ready_secondary)
      + redis.call('SCARD', keys.full)
    local others = percent > 0
      and redis.call('ZCOUNT', keys.spare_answered, whole(server_now_ms() - ANSWERED_MS), '+inf') or 0
    in_panic = healthy * 100 < percent * (healthy + others)
  end
  return in_panic
end

-- Returns whether a replica that is not healthy may have a free slot for a session. Costs one call in the usual case.
local function are_spares_free()
  return redis.call('EXISTS', keys.spare_primary, keys.spare_secondary) > 0 and is_panic()
end

-- Returns what `find` finds in the two tiers of spare sets; nil if there is no panic.
local function choose_spare(find)
  if not are_spares_free() then
    return nil
  end
  return find(keys.spare_primary, keys.spare_secondary)
end
