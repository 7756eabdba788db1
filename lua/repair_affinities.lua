-- Repairs the affinities of some sessions, for `check --repair`. They are derived from the leases, which the caller has
-- counted. A session without a lease loses an affinity without a time to live.
--
-- Whatever changes the leases of a session changes its keys too. So a session whose keys are not as the caller has read
-- them is left alone, and a repeated call changes nothing.
--
-- For each session come `affinity` as it was read ('' without one), whether that has a time to live, how many entries
-- `several` has and on how many urls the session has leases, then url and number of each.
--
-- KEYS    meta events affinity_prefix several_prefix
-- ARGV    router by … (session url has_end several leases, urls)
-- RETURNS repaired, how many sessions were wrong  |  wrong_type …|wrong_schema …
-- WRITES  meta events affinity_prefix several_prefix
-- COST    O(urls of the sessions)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua

local FIRST_ENTRY, HEAD_WIDTH = 3, 5

local router, by = unpack(ARGV, 1, 2)

-- Returns so many pairs of url and number, from that index of ARGV on, as a table, and the index after them.
local function pairs_at(at, count)
  local found = {}
  for i = at, at + 2 * count - 1, 2 do
    found[ARGV[i]] = ARGV[i + 1]
  end
  return found, at + 2 * count
end

local entries, next_at, types = {}, FIRST_ENTRY, {}
while next_at <= #ARGV do
  local session, several, leases = ARGV[next_at], tonumber(ARGV[next_at + 3]), tonumber(ARGV[next_at + 4])
  local entry = {
    affinity = keys.affinity_prefix .. session, several = keys.several_prefix .. session, url = ARGV[next_at + 1],
    has_end = ARGV[next_at + 2] == '1', noted_count = several,
  }
  entry.noted, next_at = pairs_at(next_at + HEAD_WIDTH, several)
  entry.leases, next_at = pairs_at(next_at, leases)
  entries[#entries + 1] = entry
  for _, text in ipairs({entry.affinity, 'string', entry.several, 'hash'}) do
    types[#types + 1] = text
  end
end
local refused = refusal({'events'}, types)
if refused then
  return refused
end

local function is_unchanged(entry)
  local noted = redis.call('HGETALL', entry.several)
  local is_same = (redis.call('GET', entry.affinity) or '') == entry.url and #noted == 2 * entry.noted_count
    and (redis.call('PTTL', entry.affinity) >= 0) == entry.has_end
  for i = 1, #noted, 2 do
    is_same = is_same and entry.noted[noted[i]] == noted[i + 1]
  end
  return is_same
end

-- Returns the url to which a session is to be bound, and the number of its leases: where it is bound if it has a lease
-- there, otherwise where it has most.
local function best_of(entry)
  local best, all = entry.leases[entry.url] and entry.url, 0
  for url, text in pairs(entry.leases) do
    local count, most = tonumber(text), tonumber(entry.leases[best] or '0')
    all = all + count
    if not entry.leases[entry.url] and (count > most or (count == most and url < best)) then
      best = url
    end
  end
  return best, all
end

local function bind(entry)
  local url, all = best_of(entry)
  redis.call('DEL', entry.several)
  if url then
    redis.call('SET', entry.affinity, url)
  elseif not entry.has_end then
    redis.call('DEL', entry.affinity)
  end
  for other, count in pairs(all > 1 and entry.leases or {}) do
    redis.call('HSET', entry.several, other, count)
  end
end

local wrong = 0
for _, entry in ipairs(entries) do
  if is_unchanged(entry) then
    wrong = wrong + 1
    bind(entry)
  end
end
if wrong > 0 then
  emit(server_now_ms(), {'kind', 'namespace_repaired', 'router', router, 'by', by})
end
return {'repaired', whole(wrong)}
