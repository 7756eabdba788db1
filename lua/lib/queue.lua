-- The queue of waiting sessions over all routers, first come first served.
--
-- A waiter gets a free slot of a healthy replica, or in a panic of another one. If `~healthy` follows the random part
-- of its lease id, it gets a slot of a healthy replica only, and in a panic those behind it may be served before it.
--
-- A waiter is `<router>/<lease id>` with its sequence as score. Every script that may free a slot ends with
-- `serve_queue`, which gives free slots to the waiters that have waited longest. Their routers read of the grants in
-- their inboxes.

-- include lib/placing.lua
-- include lib/settling.lua
-- include lib/spares.lua

local GRANTS_AT_ONCE = 16
local CHECKED_AT_ONCE = 512
local PAGE = 64
local SCAN_MS = 1000
local INBOX_LENGTH = '1000'

-- Returns whether an expired router counts as gone now. It does not if all routers may have been cut off from Redis.
local function may_give_up(now_ms)
  local span = redis.call('HMGET', keys.meta, 'reap_after_ms', 'reap_until_ms')
  local after, till = tonumber(span[1] or ''), tonumber(span[2] or '')
  return after and till and after <= now_ms and now_ms <= till
end

-- Returns how to treat the waiters of a router: `served`; `skipped` while it has expired, or if a key of it has another
-- type than the registry's; `dropped` if it is not in `routers`.
local function router_state(router, now_ms)
  local expires_at_ms = redis.call('ZSCORE', keys.routers, router)
  if not expires_at_ms then
    return 'dropped'
  end
  if (tonumber(expires_at_ms) <= now_ms and may_give_up(now_ms))
    or type_refusal({keys.leases_prefix .. router, 'hash', keys.inbox_prefix .. router, 'stream'}) then
    return 'skipped'
  end
  return 'served'
end

-- Returns a replica for a waiter, its tier and its state. Once `room.is_gone`, no healthy replica has a free slot;
-- `room.is_over` if no waiter behind this one can be served either.
local function choose_for(lease_id, room)
  local url, tier, state
  if not room.is_gone then
    url, tier, state = choose(lease_id, keys.ready_primary, keys.ready_secondary)
    room.is_gone = not url
  end
  if url or (takes_no_spare(lease_id) and are_spares_free()) then
    return url, tier, state
  end
  url, tier, state = choose_spare(function(first, second) return choose(lease_id, first, second) end)
  room.is_over = not url
  return url, tier, state
end

local function announce(router, lease_id, url, revision, tier)
  local entry = {'lease_id', lease_id, 'url', url, 'revision', revision}
  if tier == keys.spare_primary or tier == keys.spare_secondary then
    entry[#entry + 1] = 'is_spare'
    entry[#entry + 1] = '1'
  end
  redis.call('XADD', keys.inbox_prefix .. router, 'MAXLEN', '~', INBOX_LENGTH, '*', unpack(entry))
end

-- Returns how many waiters at the front need no look, because a script has passed over all of them within the last
-- second, as that field of `meta` says: `queue_scan` passes over those whose routers are dead, `spare_scan` also over
-- those that need a healthy replica, while none has room. So the scripts together come past any number of them. A
-- script that lets such a waiter be served again, or puts one among them, calls `look_from_the_front`.
local function passed_over(now_ms, field)
  local text = redis.call('HGET', keys.meta, field)
  local sequence, at = string.match(text or '', '^(%d+) (%d+)$')
  local age_ms = at and now_ms - tonumber(at)
  if not age_ms or age_ms < 0 or age_ms > SCAN_MS or (field == 'queue_scan' and not may_give_up(now_ms)) then
    return 0
  end
  return redis.call('ZCOUNT', keys.queue, '-inf', table.concat({'(', sequence}))
end

local function look_from_the_front()
  redis.call('HDEL', keys.meta, 'queue_scan', 'spare_scan')
end

-- Records in that field that so many waiters at the front were passed over. Returns whether that is more than before.
local function note_passed_over(field, passed, before, now_ms)
  if passed < before + PAGE then
    return false
  end
  local last = redis.call('ZRANGE', keys.queue, passed - 1, passed - 1, 'WITHSCORES')
  if not last[2] then
    return false
  end
  redis.call('HSET', keys.meta, field, table.concat({whole(tonumber(last[2])), whole(now_ms)}, ' '))
  return true
end

-- Gives a waiter a slot. Returns whether it got one.
local function serve(waiter, router, lease_id, room)
  local url, tier, state = choose_for(lease_id, room)
  if not url then
    return false
  end
  local revision = grant(router, lease_id, url, tier, state)
  if not revision then
    room.is_over = true
    return false
  end
  redis.call('ZREM', keys.queue, waiter)
  announce(router, lease_id, url, revision, tier)
  return true
end

-- Gives free slots to the waiters that have waited longest, a limited number in each call. It never refuses: a waiter
-- that it cannot serve stays in the queue.
-- Returns whether a waiter is left that must be served before a new session; how many waiters got a slot; whether a
-- waiter is left that must get a slot of a replica that is not healthy before a new session does; and whether the call
-- has stopped early, so that another call may serve more.
local function serve_queue(now_ms)
  if redis.call('ZCARD', keys.queue) == 0 then
    return false, 0, false, false
  end
  if is_settling() then
    return true, 0, true, false
  end
  local router_states, room = {}, {}
  local before = passed_over(now_ms, 'queue_scan')
  local first = before
  room.is_gone = redis.call('ZCARD', keys.ready_primary) + redis.call('ZCARD', keys.ready_secondary) == 0
  if room.is_gone then
    first = math.max(before, passed_over(now_ms, 'spare_scan'))
  end
  local granted, skipped, passed, is_left = 0, first, before, first > before
  for _ = 1, CHECKED_AT_ONCE / PAGE do
    local page = redis.call('ZRANGE', keys.queue, skipped, skipped + PAGE - 1)
    for _, waiter in ipairs(page) do
      local router, lease_id = string.match(waiter, '^(.-)/(%x%x%x%x%x%x%x%x.*)$')
      router = router or ''
      router_states[router] = router_states[router] or router_state(router, now_ms)
      if router_states[router] == 'dropped' then
        redis.call('ZREM', keys.queue, waiter)
      elseif router_states[router] == 'skipped' or session_refusal(lease_id) then
        skipped = skipped + 1
        passed = is_left and passed or skipped
      elseif granted == GRANTS_AT_ONCE then
        note_passed_over('queue_scan', passed, before, now_ms)
        return true, granted, true, true
      elseif serve(waiter, router, lease_id, room) then
        granted = granted + 1
      elseif room.is_over then
        note_passed_over('queue_scan', passed, before, now_ms)
        return true, granted, true, false
      else
        skipped, is_left = skipped + 1, true
      end
    end
    if #page < PAGE then
      note_passed_over('queue_scan', passed, before, now_ms)
      return is_left, granted, false, false
    end
  end
  local has_passed = note_passed_over('queue_scan', passed, before, now_ms)
  has_passed = room.is_gone and is_left and note_passed_over('spare_scan', skipped, first, now_ms) or has_passed
  return true, granted, true, has_passed or granted > 0
end
