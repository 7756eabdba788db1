-- The queue of waiting sessions over all routers, first come first served.
--
-- A waiter gets a free slot of a healthy replica, or in a panic of another one. If `~healthy` follows the random part
-- of its lease id, it gets a slot of a healthy replica only, and in a panic those behind it may be served before it.
--
-- A waiter is `<router>/<lease id>` with its sequence as score. Every script that may free a slot ends with
-- `serve_queue`, which gives free slots to the waiters that have waited longest. Their routers read of the grants in
-- their inboxes.

-- include lib/placing.lua
-- include lib/spares.lua

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

-- Returns a replica for a waiter and its tier. Once `room.is_gone`, no healthy replica has a free slot; `room.is_over`
-- if no waiter behind this one can be served either.
local function choose_for(lease_id, room)
  local url, tier
  if not room.is_gone then
    url, tier = choose(lease_id, keys.ready_primary, keys.ready_secondary)
    room.is_gone = not url
  end
  if url or (takes_no_spare(lease_id) and are_spares_free()) then
    return url, tier
  end
  url, tier = choose_spare(function(first, second) return choose(lease_id, first, second) end)
  room.is_over = not url
  return url, tier
end

local function announce(router, lease_id, url, revision, tier)
  local entry = {'lease_id', lease_id, 'url', url, 'revision', revision}
  if tier == keys.spare_primary or tier == keys.spare_secondary then
    entry[#entry + 1] = 'is_spare'
    entry[#entry + 1] = '1'
  end
  redis.call('XADD', keys.inbox_prefix .. router, 'MAXLEN', '~', INBOX_LENGTH, '*', unpack(entry))
end

-- Gives free slots to the waiters that have waited longest, a limited number in each call. It never refuses: a waiter
-- that it cannot serve stays in the queue.
-- Returns whether a waiter is left that must be served before a new session, how many waiters got a slot, and whether a
-- waiter is left that must get a slot of a replica that is not healthy before a new session does.
local function serve_queue(now_ms)
  if redis.call('ZCARD', keys.queue) == 0 then
    return false, 0, false
  end
  local router_states, room = {}, {}
  local granted, skipped, is_left = 0, 0, false
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
          return true, granted, true
        end
        local url, tier = choose_for(lease_id, room)
        local revision = url and grant(router, lease_id, url, tier)
        if room.is_over or (url and not revision) then
          return true, granted, true
        end
        if revision then
          redis.call('ZREM', keys.queue, waiter)
          announce(router, lease_id, url, revision, tier)
          granted = granted + 1
        else
          skipped, is_left = skipped + 1, true
        end
      end
    end
    if #page < PAGE then
      return is_left, granted, false
    end
  end
  return true, granted, true
end
