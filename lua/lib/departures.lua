-- Takes a router's waiters out of the queue and ends its leases. Each call handles a limited number of them, so that no
-- call takes long.

-- include lib/leases.lua
-- include lib/moving.lua
-- include lib/peers.lua
-- include lib/queue.lua
-- include lib/settling.lua

local LEASES_AT_ONCE = 60
local REPLICAS_AT_ONCE = 25
local SCANS_AT_ONCE = 50
local WAITERS_AT_ONCE = 1000

-- Returns some leases, as id to url; their ids; the number of leases on each url; and the cursor to continue from.
-- While the table shrinks, a page of a scan may be much larger than its COUNT. If a page does not fit, the next call
-- scans that page again.
local function next_leases(leases, cursor)
  local urls, ids, loads, replicas = {}, {}, {}, 0
  -- Deleted leases leave gaps in the table, which a scan has to cross.
  for _ = 1, SCANS_AT_ONCE do
    local page = redis.call('HSCAN', leases, cursor, 'COUNT', LEASES_AT_ONCE - #ids)
    for i = 1, #page[2], 2 do
      local id, url = page[2][i], page[2][i + 1]
      if not urls[id] then
        if #ids == LEASES_AT_ONCE or (not loads[url] and replicas == REPLICAS_AT_ONCE) then
          return urls, ids, loads, cursor
        end
        replicas = replicas + (loads[url] and 0 or 1)
        urls[id] = url
        ids[#ids + 1] = id
        loads[url] = (loads[url] or 0) + 1
      end
    end
    cursor = page[1]
    if cursor == '0' or #ids == LEASES_AT_ONCE then
      break
    end
  end
  return urls, ids, loads, cursor
end

-- Returns the router's waiters in the next page of the queue, with their sequences, and the cursor to continue from,
-- which is 'done' after the last page.
local function next_waiters(key)
  local cursor = redis.call('HGET', keys.router_prefix .. key, 'queue_cursor') or '0'
  if cursor == 'done' then
    return {}, cursor
  end
  local page = redis.call('ZSCAN', keys.queue, cursor, 'COUNT', WAITERS_AT_ONCE)
  local waiters = {}
  for i = 1, #page[2], 2 do
    local waiter = page[2][i]
    if string.sub(waiter, 1, #key + 1) == key .. '/' then
      local lease_id = string.sub(waiter, #key + 2)
      waiters[#waiters + 1] = {waiter = waiter, session = session_of(lease_id), sequence = page[2][i + 1]}
    end
  end
  return waiters, page[1] == '0' and 'done' or page[1]
end

-- Takes waiters out of the queue. The sequence of a named session is kept for some time, so that its client can come
-- back through another router and keep its position.
local function drop_waiters(waiters, affinity_ms)
  for _, one in ipairs(waiters) do
    redis.call('ZREM', keys.queue, one.waiter)
    local kept = one.session and keys.sequence_prefix .. one.session
    if kept and affinity_ms ~= '0' and not type_refusal({kept, 'string'}) then
      redis.call('SET', kept, whole(stored_number(one.sequence, server_now_ms())), 'PX', affinity_ms)
    end
  end
end

-- key: the router that is gone. heir: the router that gets the leases which may move; nil if they end like the others.
-- Returns how many have ended.
local function end_leases(key, heir, urls, ids, loads, now_ms, by, affinity_ms)
  if #ids > 0 then
    redis.call('HDEL', keys.leases_prefix .. key, unpack(ids))
  end
  local moved = {}
  for _, id in ipairs(ids) do
    if heir and may_move(id) and bequeath(id, urls[id], heir) then
      loads[urls[id]] = loads[urls[id]] - 1
      moved[#moved + 1] = id
    elseif not session_refusal(id) then
      end_affinity(id, urls[id], affinity_ms)
    end
  end
  note_moved(key, moved, now_ms)
  for url, count in pairs(loads) do
    if count > 0 and not replica_refusal(url) then
      unload(url, count, now_ms, by, {})
    end
  end
  return #ids - #moved
end

-- Takes some of a router's waiters out of the queue, and ends some of its leases once no waiter is left. Freed slots go
-- to the waiters that have waited longest. After the last lease it deletes the router's record and inbox. The first
-- write is a deletion, because Redis allows a script to go on when memory is short if its first write is one. A key of
-- a lease or a waiter that has another type than the registry's is left as it is, and holds up nothing.
-- Returns the number of leases left, or false if none is left; and how many leases have ended.
local function end_some(key, now_ms, by, affinity_ms, heir)
  local record, leases = keys.router_prefix .. key, keys.leases_prefix .. key
  local waiters, queue_cursor = next_waiters(key)
  local urls, ids, loads, cursor = {}, {}, {}, '0'
  if queue_cursor == 'done' then
    urls, ids, loads, cursor = next_leases(leases, redis.call('HGET', record, 'reap_cursor') or '0')
  end
  redis.call('HDEL', record, 'reap_cursor', 'queue_cursor')
  strike_prober(key)
  drop_waiters(waiters, affinity_ms)
  local ended = end_leases(key, heir, urls, ids, loads, now_ms, by, affinity_ms)
  local left = redis.call('HLEN', leases)
  local is_done = left == 0 and queue_cursor == 'done'
  if is_done then
    redis.call('ZREM', keys.routers, key)
    redis.call('DEL', record, keys.inbox_prefix .. key)
    redis.pcall('ZREM', keys.settling, key)
  else
    redis.call('HSET', record, 'reap_cursor', cursor, 'queue_cursor', queue_cursor)
  end
  serve_queue(now_ms)
  return not is_done and left, ended
end
