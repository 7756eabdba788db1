-- Which replica a session gets, and giving it the slot: for those who ask, and for those who have waited.

-- include lib/sessions.lua

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

-- A number of the lease id's own, below that many.
local function spread(lease_id, count)
  return tonumber(string.sub(lease_id, 1, 8), 16) % count
end

-- The least loaded replica of a tier. The lease id spreads ties.
local function least_loaded(tier, lease_id)
  local first = redis.call('ZRANGE', tier, 0, 0, 'WITHSCORES')
  if not first[1] then
    return nil
  end
  local place = spread(lease_id, redis.call('ZCOUNT', tier, '-inf', first[2]))
  return place == 0 and first[1] or redis.call('ZRANGE', tier, place, place)[1]
end

-- The same among all but these.
local function least_loaded_but(tier, lease_id, left_out)
  if #left_out == 0 then
    return least_loaded(tier, lease_id)
  end
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
  local first = redis.call('ZCOUNT', tier, '-inf', '(' .. least)
  local tied = redis.call('ZCOUNT', tier, least, least)
  local skipped = {}
  for _, url in ipairs(left_out) do
    local score = redis.call('ZSCORE', tier, url)
    if score and tonumber(score) == tonumber(least) then
      skipped[#skipped + 1] = redis.call('ZRANK', tier, url)
    end
  end
  table.sort(skipped)
  return at_place(tier, first, spread(lease_id, tied - #skipped), skipped)
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
  return least_loaded_but(keys.primary, lease_id, left_out) or least_loaded_but(keys.secondary, lease_id, left_out)
end

-- Records a lease and counts it; returns as of which revision, or the error of a replica's key that is none, and then
-- nothing is written.
-- keys: as for `choose`, and full, replica_prefix, leases_prefix.
local function grant(keys, router, lease_id, url)
  local replica = keys.replica_prefix .. url
  local state = redis.pcall('HMGET', replica, unpack(STATE_FIELDS))
  if state.err then
    return nil, state
  end
  state[IN_FLIGHT] = whole(tonumber(state[IN_FLIGHT] or '0') + 1)
  redis.call('HSET', keys.leases_prefix .. router, lease_id, url)
  redis.call('HSET', replica, 'in_flight', state[IN_FLIGHT])
  put_in_place(keys, url, state)
  local session = session_of(lease_id)
  if session then
    redis.call('SET', keys.affinity_prefix .. session, url)
  end
  return state[REVISION] or '0-0'
end
