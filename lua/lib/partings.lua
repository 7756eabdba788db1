-- Ends a router's leases piece by piece, so that no call takes long however many there are.

-- include lib/leases.lua

local LEASES_AT_ONCE = 500
local SCANS_AT_ONCE = 50

-- Ends some of a router's leases. Returns nil and how many are left, of which the next call goes on with some; or the
-- reply that refuses. Writes a deletion first, so that it runs when memory is short.
-- keys: as for `unload`, and leases, router (its record, which keeps the place), affinity_prefix.
local function end_some(keys, now_ms, by, affinity_ms, reply)
  local cursor = redis.call('HGET', keys.router, 'reap_cursor') or '0'
  local ended, loads, found = {}, {}, 0
  -- What was deleted leaves gaps in the table, which a scan has to cross.
  for _ = 1, SCANS_AT_ONCE do
    local page = redis.call('HSCAN', keys.leases, cursor, 'COUNT', LEASES_AT_ONCE)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      local id, url = page[2][i], page[2][i + 1]
      if not ended[id] then
        ended[id] = url
        found = found + 1
        loads[url] = (loads[url] or 0) + 1
      end
    end
    if cursor == '0' or found >= LEASES_AT_ONCE then
      break
    end
  end
  for id, url in pairs(ended) do
    local refused = lease_refusal(keys, id, url)
    if refused then
      return refused
    end
  end
  redis.call('HDEL', keys.router, 'reap_cursor')
  for id, url in pairs(ended) do
    redis.call('HDEL', keys.leases, id)
    keep_affinity(keys, id, url, affinity_ms)
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
