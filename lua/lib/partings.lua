-- Takes a router's waiters out of the line and ends its leases, piece by piece, so that no call takes long however many
-- there are.

-- include lib/line.lua

local LEASES_AT_ONCE = 250
local SCANS_AT_ONCE = 50
local WAITERS_AT_ONCE = 1000

-- Returns some leases, by id; their ids; how many are on each url; and where to go on. A page of a scan may be much
-- larger than asked for, while the table shrinks: what does not fit is found again from where the page began.
local function next_leases(leases, cursor)
  local urls, ids, loads = {}, {}, {}
  -- What was deleted leaves gaps in the table, which a scan has to cross.
  for _ = 1, SCANS_AT_ONCE do
    local page = redis.call('HSCAN', leases, cursor, 'COUNT', LEASES_AT_ONCE - #ids)
    for i = 1, #page[2], 2 do
      local id, url = page[2][i], page[2][i + 1]
      if not urls[id] then
        if #ids == LEASES_AT_ONCE then
          return urls, ids, loads, cursor
        end
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

-- Takes those of a router's waiters out of the line that a page of it shows. Those with a session leave their place
-- for some time, for their client to come back to through another router. Returns whether that were all, or nil and
-- the reply that refuses.
local function drop_some_waiters(keys, key, affinity_ms)
  local cursor = redis.call('HGET', keys.router, 'line_cursor') or '0'
  if cursor == 'done' then
    return true
  end
  local page = redis.call('ZSCAN', keys.queue, cursor, 'COUNT', WAITERS_AT_ONCE)
  local own = {}
  for i = 1, #page[2], 2 do
    local waiter = page[2][i]
    if string.sub(waiter, 1, #key + 1) == key .. '/' then
      own[#own + 1] = {waiter = waiter, session = session_of(string.sub(waiter, #key + 2)), sequence = page[2][i + 1]}
    end
  end
  for _, one in ipairs(own) do
    local refused = one.session and type_refusal({keys.place_prefix .. one.session, 'string'})
    if refused then
      return nil, refused
    end
  end
  redis.call('HDEL', keys.router, 'line_cursor')
  for _, one in ipairs(own) do
    redis.call('ZREM', keys.queue, one.waiter)
    if one.session and affinity_ms ~= '0' then
      redis.call('SET', keys.place_prefix .. one.session, whole(tonumber(one.sequence)), 'PX', affinity_ms)
    end
  end
  local is_all = page[1] == '0'
  if cursor ~= '0' or not is_all then
    redis.call('HSET', keys.router, 'line_cursor', is_all and 'done' or page[1])
  end
  return is_all
end

-- Ends some of a router's leases. Returns how many are left, of which the next call goes on with some; or nil and the
-- reply that refuses. Writes a deletion first, so that it runs when memory is short.
local function end_some_leases(keys, now_ms, by, affinity_ms, reply)
  local urls, ids, loads, cursor = next_leases(keys.leases, redis.call('HGET', keys.router, 'reap_cursor') or '0')
  for url in pairs(loads) do
    local refused = replica_refusal(keys, url)
    if refused then
      return nil, refused
    end
  end
  for _, id in ipairs(ids) do
    local refused = session_refusal(keys, id)
    if refused then
      return nil, refused
    end
  end
  redis.call('HDEL', keys.router, 'reap_cursor')
  if #ids > 0 then
    redis.call('HDEL', keys.leases, unpack(ids))
  end
  for _, id in ipairs(ids) do
    keep_affinity(keys, id, urls[id], affinity_ms)
  end
  for url, count in pairs(loads) do
    unload(keys, url, count, now_ms, by, reply)
  end
  local left = redis.call('HLEN', keys.leases)
  if left > 0 then
    redis.call('HSET', keys.router, 'reap_cursor', cursor)
  end
  return left
end

-- Ends some of what a router has, its waiters before its leases, and gives the slots to who waits longest. With the
-- last of it the router's record and inbox go.
-- keys: as for `unload` and `serve_queue`, and router (its record, which keeps the place), leases, place_prefix.
-- Returns nil, and how many leases are left where it is not done; or the reply that refuses.
local function end_some(keys, key, now_ms, by, affinity_ms)
  local has_no_waiters, refused = drop_some_waiters(keys, key, affinity_ms)
  if refused then
    return refused
  end
  if not has_no_waiters then
    return nil, redis.call('HLEN', keys.leases)
  end
  local left
  left, refused = end_some_leases(keys, now_ms, by, affinity_ms, {})
  if refused then
    return refused
  end
  if left == 0 then
    redis.call('ZREM', keys.routers, key)
    redis.call('DEL', keys.router, keys.inbox_prefix .. key)
  end
  serve_queue(keys, now_ms)
  return nil, left > 0 and left
end
