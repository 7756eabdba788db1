-- Ends a router's leases piece by piece, so that no call takes long however many there are.

-- include lib/leases.lua

local LEASES_AT_ONCE = 250
local SCANS_AT_ONCE = 50

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

-- Ends some of a router's leases. Returns nil and how many are left, of which the next call goes on with some; or the
-- reply that refuses. Writes a deletion first, so that it runs when memory is short.
-- keys: as for `unload`, and leases, router (its record, which keeps the place), affinity_prefix.
local function end_some(keys, now_ms, by, affinity_ms, reply)
  local urls, ids, loads, cursor = next_leases(keys.leases, redis.call('HGET', keys.router, 'reap_cursor') or '0')
  for url in pairs(loads) do
    local refused = replica_refusal(keys, url)
    if refused then
      return refused
    end
  end
  for _, id in ipairs(ids) do
    local refused = session_refusal(keys, id)
    if refused then
      return refused
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
  return nil, left
end
