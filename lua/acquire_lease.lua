-- Gives a session a slot: on the replica where it was before, else on the least loaded one of the first tier that has
-- room. The same lease id again finds the lease that it has, so that a lost reply costs nothing.
--
-- Only a router in `routers` may hold a lease, or nobody would end it after a crash. Replicas to avoid are taken only
-- where there is nothing else; excluded ones never. Ties are spread by the lease id.
--
-- KEYS    meta routers leases ready_primary ready_secondary full replica_prefix affinity_prefix
-- ARGV    router lease_id avoided … (url)
-- RETURNS granted|held, url, revision of the replica  |  saturated|no_healthy|not_registered
--         |  wrong_type …|wrong_schema …
-- WRITES  leases ready_primary ready_secondary full replica_prefix affinity_prefix
-- COST    O(log replicas + excluded * log replicas)

-- include lib/leases.lua

local FIRST_URL = 4

local meta, routers, leases, ready_primary, ready_secondary, full, replica_prefix, affinity_prefix = unpack(KEYS)
local router, lease_id, avoided = unpack(ARGV, 1, 3)

local refused = refusal(meta, {
  routers, 'zset', leases, 'hash', ready_primary, 'zset', ready_secondary, 'zset', full, 'set',
})
if refused then
  return refused
end
if not redis.call('ZSCORE', routers, router) then
  return {'not_registered'}
end
local held = redis.call('HGET', leases, lease_id)
if held then
  return {'held', held, redis.call('HGET', replica_prefix .. held, 'revision') or '0-0'}
end

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

-- The least loaded replica of a tier but these.
local function least_loaded(tier, left_out)
  local best = redis.call('ZRANGE', tier, 0, #left_out, 'WITHSCORES')
  local least
  for i = 1, #best, 2 do
    local is_left_out = false
    for _, url in ipairs(left_out) do
      is_left_out = is_left_out or url == best[i]
    end
    if not is_left_out then
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

-- The urls from that argument on, each once: a replica may be both avoided and excluded.
local function urls_from(first)
  local urls, seen = {}, {}
  for i = first, #ARGV do
    if not seen[ARGV[i]] then
      seen[ARGV[i]] = true
      urls[#urls + 1] = ARGV[i]
    end
  end
  return urls
end

local left_out, excluded = urls_from(FIRST_URL), urls_from(FIRST_URL + tonumber(avoided))

local function may_take(url)
  for _, other in ipairs(left_out) do
    if other == url then
      return false
    end
  end
  return redis.call('ZSCORE', ready_primary, url) or redis.call('ZSCORE', ready_secondary, url)
end

local session = session_of(lease_id)
refused = session and type_refusal({affinity_prefix .. session, 'string'})
if refused then
  return refused
end
local url = session and redis.call('GET', affinity_prefix .. session)
if not url or not may_take(url) then
  url = least_loaded(ready_primary, left_out) or least_loaded(ready_secondary, left_out)
    or least_loaded(ready_primary, excluded) or least_loaded(ready_secondary, excluded)
end
if not url then
  local is_any_full = redis.call('SCARD', full) > 0
  return {is_any_full and 'saturated' or 'no_healthy'}
end
local replica = replica_prefix .. url
refused = type_refusal({replica, 'hash'})
if refused then
  return refused
end
redis.call('HSET', leases, lease_id, url)
redis.call('HINCRBY', replica, 'in_flight', 1)
refresh_ready({primary = ready_primary, secondary = ready_secondary, full = full}, replica, url)
if session then
  redis.call('SET', affinity_prefix .. session, url)
end
return {'granted', url, redis.call('HGET', replica, 'revision')}
