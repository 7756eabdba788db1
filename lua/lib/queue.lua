-- The queue of waiting sessions over all routers, first come first served.
--
-- A waiter is `<router>/<lease id>` with its sequence as score. Every script that may free a slot ends with
-- `serve_queue`, which gives free slots to the waiters that have waited longest. Their routers read of the grants in
-- their inboxes.

-- include lib/placing.lua

local GRANTS_AT_ONCE = 64
local CHECKED_AT_ONCE = 1024
local PAGE = 64
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

-- Gives free slots to the waiters that have waited longest, a limited number in each call. It never refuses: a waiter
-- that it cannot serve stays in the queue.
-- Returns whether a waiter is left that must be served before a new session, and how many waiters got a slot.
local function serve_queue(now_ms)
  if redis.call('ZCARD', keys.queue) == 0 then
    return false, 0
  end
  local router_states = {}
  local granted, skipped = 0, 0
  for _ = 1, CHECKED_AT_ONCE / PAGE do
    local page = redis.call('ZRANGE', keys.queue, skipped, skipped + PAGE - 1)
    for _, waiter in ipairs(page) do
      local router, lease_id = string.match(waiter, '^(.-)/(%x+.*)$')
      router = router or ''
      router_states[router] = router_states[router] or router_state(router, now_ms)
      if router_states[router] == 'dropped' then
        redis.call('ZREM', keys.queue, waiter)
      elseif router_states[router] == 'skipped' or session_refusal(lease_id) then
        skipped = skipped + 1
      else
        if granted == GRANTS_AT_ONCE then
          return true, granted
        end
        local url, tier = choose(lease_id)
        local revision = url and grant(router, lease_id, url, tier)
        if not revision then
          return true, granted
        end
        redis.call('ZREM', keys.queue, waiter)
        redis.call('XADD', keys.inbox_prefix .. router, 'MAXLEN', '~', INBOX_LENGTH, '*', 'lease_id', lease_id,
          'url', url, 'revision', revision)
        granted = granted + 1
      end
    end
    if #page < PAGE then
      return false, granted
    end
  end
  return true, granted
end
