-- The plan, by which routers share the probing. Each replica is in one of 256 buckets, by its url, and the plan gives
-- each bucket to a router, its participant. shared_registry/model/plan.py has the same rule for the routers. Fields:
--
-- number                    number of the plan, higher than that of every plan before
-- epoch, router             the term and the leader that wrote it
-- written_at_ms             when it was written
-- former_number             number of the plan before, which still counts for an interval
-- share:<router>            the buckets of a participant: two hex digits each, separated by spaces
-- former:<router>           its buckets in the plan before
-- batch:<router>            number of its last batch of results
-- batch_done:<router>       how many results of that batch were handled

-- include lib/keys.lua
-- include lib/values.lua

local function bucket_of(url)
  return string.format('%02x', hash_of(url) % 256)
end

-- Returns the buckets of a router under the plan of that number; nil if that plan is over, or the router has none.
local function share_of(router, number, interval_ms, now_ms)
  local plan = redis.call('HMGET', keys.plan, 'number', 'former_number', 'written_at_ms', 'share:' .. router,
    'former:' .. router)
  if plan[1] == number then
    return plan[4] or nil
  end
  local age_ms = now_ms - (tonumber(plan[3] or '') or 0)
  local is_recent = plan[2] == number and age_ms >= 0 and age_ms <= interval_ms
  return is_recent and plan[5] or nil
end
