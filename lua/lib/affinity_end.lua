-- The end of a lease of a session with a name.

-- include lib/affinity.lua

-- Returns the url on which a session has most leases, among some of its urls.
local function most_used(several)
  local cursor, page = '0'
  repeat
    cursor, page = unpack(redis.call('HSCAN', several, cursor))
  until page[1] or cursor == '0'
  local best, most = nil, 0
  for i = 1, #page, 2 do
    local count = tonumber(page[i + 1]) or 1
    if count > most or (count == most and page[i] < best) then
      best, most = page[i], count
    end
  end
  return best
end

-- Lowers the number of leases of a session with several on that url. Returns whether it has any left.
local function count_down(affinity, several, bound, url)
  local left = redis.pcall('HINCRBY', several, url, -1)
  if type(left) ~= 'number' or left < 1 then
    redis.call('HDEL', several, url)
  end
  local next_bound = redis.call('HEXISTS', several, bound) == 1 and bound or most_used(several)
  if next_bound and next_bound ~= bound then
    redis.call('SET', affinity, next_bound)
  end
  if next_bound and redis.call('HLEN', several) == 1 and redis.call('HGET', several, next_bound) == '1' then
    redis.call('DEL', several)
  end
  return next_bound ~= nil
end

-- Records that a session has one lease less, on that url. After its last lease the affinity is kept for that time,
-- unless the session has moved to another replica since.
local function end_affinity(id, url, affinity_ms)
  local session = session_of(id)
  if not session then
    return
  end
  local affinity, several = keys.affinity_prefix .. session, keys.several_prefix .. session
  local bound = redis.call('GET', affinity)
  if redis.call('EXISTS', several) == 1 then
    if redis.call('PTTL', affinity) == FOREVER and count_down(affinity, several, bound, url) then
      return
    end
    redis.call('DEL', several)
  end
  if bound and bound ~= url then
    return
  end
  if affinity_ms == '0' then
    redis.call('DEL', affinity)
  else
    redis.call('SET', affinity, url, 'PX', affinity_ms)
  end
end
