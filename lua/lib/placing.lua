-- Which replica a session gets, and giving it the slot: for those who ask, and for those who have waited.

-- include lib/leases.lua
-- include lib/ready.lua

-- The url at that place among the tied ones, of which those at the (sorted) skipped ranks do not count.
local function at_place(tier, first, place, skipped)
  local rank = first + place
  for _, other in ipairs(skipped) do
    if other <= rank then
      rank = rank + 1
    end
  end
  return redis.call('ZRANGE', tier, rank, rank)[1]
end

local function is_among(url, urls)
  for _, other in ipairs(urls) do
    if other == url then
      return true
    end
  end
  return false
end

-- The least loaded replica of a tier but these. The lease id spreads ties.
local function least_loaded(tier, lease_id, left_out)
  local best = redis.call('ZRANGE', tier, 0, #left_out, 'WITHSCORES')
  local least
  for i = 1, #best, 2 do
    if not is_among(best[i], left_out) then
      least = best[i + 1]
      break
    end
  end
  if not least then
    return nil
  end
  local first = #left_out == 0 and 0 or redis.call('ZCOUNT', tier, '-inf', '(' .. least)
  local tied = redis.call('ZCOUNT', tier, least, least)
  local skipped = {}
  for _, url in ipairs(left_out) do
    local score = redis.call('ZSCORE', tier, url)
    if score and tonumber(score) == tonumber(least) then
      skipped[#skipped + 1] = redis.call('ZRANK', tier, url)
    end
  end
  table.sort(skipped)
  return at_place(tier, first, tonumber(string.sub(lease_id, 1, 8), 16) % (tied - #skipped), skipped)
end

-- The replica where the session was before, if that has room, else the least loaded one of the first tier that has.
-- keys: primary, secondary, affinity_prefix. left_out: urls not to take.
local function choose(keys, lease_id, left_out)
  local session = session_of(lease_id)
  local url = session and redis.call('GET', keys.affinity_prefix .. session)
  if url and not is_among(url, left_out)
    and (redis.call('ZSCORE', keys.primary, url) or redis.call('ZSCORE', keys.secondary, url)) then
    return url
  end
  return least_loaded(keys.primary, lease_id, left_out) or least_loaded(keys.secondary, lease_id, left_out)
end

-- Records a lease and counts it.
-- keys: as for `choose`, and full, replica_prefix, leases_prefix.
local function grant(keys, router, lease_id, url)
  local replica = keys.replica_prefix .. url
  redis.call('HSET', keys.leases_prefix .. router, lease_id, url)
  redis.call('HINCRBY', replica, 'in_flight', 1)
  refresh_ready(keys, replica, url)
  local session = session_of(lease_id)
  if session then
    redis.call('SET', keys.affinity_prefix .. session, url)
  end
end
