-- Does for several leases of one router what release_lease does for one, as long as that is usual: see lib/usual.lua.
-- It stops at the first lease for which it is not. That one and those after it are to be released by release_lease;
-- nothing has been written for them. A lease that has ended is one of these, so a repeated call is safe.
--
-- KEYS    meta queue settling ready_primary ready_secondary full replica_prefix leases_prefix
-- ARGV    router … (lease_id)
-- RETURNS released, number of leases
-- WRITES  ready_primary ready_secondary full replica_prefix leases_prefix
-- COST    O(leases * log replicas)

-- include lib/usual.lua

local FIRST_LEASE_ID = 2

local router = unpack(ARGV, 1, 1)
local leases = namespace .. 'leases:' .. router
local held = {}
if may_be_usual(table.concat(ARGV, '', FIRST_LEASE_ID)) then
  held = redis.pcall('HMGET', leases, unpack(ARGV, FIRST_LEASE_ID))
end

local counts, weights, tiers, is_full, chosen, released, is_released = {}, {}, {}, {}, {}, {}, {}
local loads = {['ready:primary'] = {}, ['ready:secondary'] = {}}

-- Reads a replica. Returns whether a release of one of its leases is usual.
local function read(url)
  local count, most, weight, tier = read_usual(url)
  if not count or count < 1 or (most > 0 and count > most) or (count == most and not may_write_full())
    or type(redis.pcall('ZCARD', namespace .. tier)) ~= 'number' then
    return false
  end
  counts[url], weights[url], tiers[url], is_full[url] = count, weight, tier, count == most
  chosen[#chosen + 1] = url
  return true
end

for i, url in ipairs(held) do
  local lease_id = ARGV[i + FIRST_LEASE_ID - 1]
  if not url or is_released[lease_id] or (not counts[url] and not read(url)) or counts[url] == 0 then
    break
  end
  counts[url] = counts[url] - 1
  is_released[lease_id] = true
  released[#released + 1] = lease_id
end
if #released > 0 then
  redis.call('HDEL', leases, unpack(released))
end
for _, url in ipairs(chosen) do
  redis.call('HSET', namespace .. 'replica:' .. url, 'in_flight', counts[url])
  if is_full[url] then
    redis.call('SREM', namespace .. 'full', url)
  end
  local own = loads[tiers[url]]
  own[#own + 1] = counts[url] / weights[url]
  own[#own + 1] = url
end
for tier, own in pairs(loads) do
  if #own > 0 then
    redis.call('ZADD', namespace .. tier, unpack(own))
  end
end
return {'released', string.format('%d', #released)}
