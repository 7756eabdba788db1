-- Does for several sessions of one router what acquire_lease does for one, as long as that is usual: see lib/usual.lua.
-- It stops at the first session for which it is not. That one and those after it are to ask by acquire_lease; nothing
-- has been written for them. A session that has a lease is one of these, so a repeated call is safe.
--
-- It reads the loads once, chooses for one session after another by what it has given to those before, and writes once.
--
-- KEYS    meta routers queue settling ready_primary ready_secondary full replica_prefix leases_prefix
-- ARGV    router … (lease_id)
-- RETURNS granted, url, revision of the replica, …
-- WRITES  ready_primary ready_secondary full replica_prefix leases_prefix
-- COST    O(sessions * log replicas)

-- include lib/usual.lua

local FIRST_LEASE_ID = 2
-- How many replicas are looked at. It is more than there are sessions in a call, so the least loaded is among them.
local MOST_LOADS = 64

local router = unpack(ARGV, 1, 1)
local leases = namespace .. 'leases:' .. router
local reply = {'granted'}
if not may_be_usual(table.concat(ARGV, '', FIRST_LEASE_ID))
  or type(redis.pcall('ZSCORE', namespace .. 'routers', router)) ~= 'string' then
  return reply
end
local held = redis.pcall('HMGET', leases, unpack(ARGV, FIRST_LEASE_ID))
local tier = 'ready:primary'
local found = redis.pcall('ZRANGE', namespace .. tier, 0, MOST_LOADS - 1, 'WITHSCORES')
if not found[1] and not found.err then
  tier = 'ready:secondary'
  found = redis.pcall('ZRANGE', namespace .. tier, 0, MOST_LOADS - 1, 'WITHSCORES')
end
if held.err or found.err then
  return reply
end
if found[2] and found[2] == found[2 * MOST_LOADS] then
  -- All of these have the same load, and so may others. The lease id decides between them.
  local equal = redis.call('ZCOUNT', namespace .. tier, '-inf', found[2])
  local first = tonumber(string.sub(ARGV[FIRST_LEASE_ID], 1, 8), 16) % (equal - MOST_LOADS + 1)
  found = redis.call('ZRANGE', namespace .. tier, first, first + MOST_LOADS - 1, 'WITHSCORES')
end

-- The replicas and their loads, least loaded first.
local urls, loads = {}, {}
for i = 1, #found, 2 do
  urls[#urls + 1] = found[i]
  loads[#loads + 1] = tonumber(found[i + 1])
end

-- Sorts the replica at a place in, which has another load now.
local function move(place, load)
  local url = urls[place]
  while urls[place + 1] and (loads[place + 1] < load or (loads[place + 1] == load and urls[place + 1] < url)) do
    urls[place], loads[place] = urls[place + 1], loads[place + 1]
    place = place + 1
  end
  urls[place], loads[place] = url, load
end

local counts, capacities, weights, revisions, chosen, granted = {}, {}, {}, {}, {}, {}
local can_be_full

-- Chooses a replica for a session. Returns whether that is usual.
local function choose(lease_id)
  local equal = 1
  while loads[equal + 1] == loads[1] do
    equal = equal + 1
  end
  local place = tonumber(string.sub(lease_id, 1, 8), 16) % equal + 1
  local url = urls[place]
  if not counts[url] then
    local count, most, weight, own_tier, revision = read_usual(url)
    if own_tier == tier and most > 0 then
      can_be_full = can_be_full or may_write_full()
    end
    if own_tier ~= tier or (most > 0 and (count >= most or not can_be_full)) then
      return false
    end
    counts[url], capacities[url], weights[url], revisions[url] = count, most, weight, revision
    chosen[#chosen + 1] = url
  end
  counts[url] = counts[url] + 1
  if counts[url] == capacities[url] then
    table.remove(urls, place)
    table.remove(loads, place)
  else
    move(place, counts[url] / weights[url])
  end
  granted[#granted + 1] = lease_id
  granted[#granted + 1] = url
  reply[#reply + 1] = url
  reply[#reply + 1] = revisions[url]
  return true
end

for i = FIRST_LEASE_ID, #ARGV do
  if held[i - FIRST_LEASE_ID + 1] or not urls[1] or not choose(ARGV[i]) then
    break
  end
end
if #granted == 0 then
  return reply
end
redis.call('HSET', leases, unpack(granted))
local ready = {}
for _, url in ipairs(chosen) do
  redis.call('HSET', namespace .. 'replica:' .. url, 'in_flight', counts[url])
  if counts[url] == capacities[url] then
    redis.call('ZREM', namespace .. tier, url)
    redis.call('SADD', namespace .. 'full', url)
  else
    ready[#ready + 1] = counts[url] / weights[url]
    ready[#ready + 1] = url
  end
end
if #ready > 0 then
  redis.call('ZADD', namespace .. tier, unpack(ready))
end
return reply
