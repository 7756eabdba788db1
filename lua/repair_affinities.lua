-- Repairs the affinities of some sessions, for `check --repair`. They are derived from the leases. A session that has
-- no lease of a listed router loses an affinity without a time to live. If nothing is wrong, nothing is written.
--
-- KEYS    meta routers events leases_prefix affinity_prefix several_prefix
-- ARGV    router by … (session)
-- RETURNS repaired, how many sessions were wrong  |  wrong_type …|wrong_schema …
-- WRITES  meta events affinity_prefix several_prefix
-- COST    O(all leases)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua
-- include lib/affinity_check.lua

local FIRST_SESSION = 3

local router, by = unpack(ARGV, 1, 2)
local refused = refusal({'routers', 'events'})
local sessions = {}
for i = FIRST_SESSION, #ARGV do
  sessions[#sessions + 1] = ARGV[i]
  refused = refused or type_refusal({keys.affinity_prefix .. ARGV[i], 'string', keys.several_prefix .. ARGV[i], 'hash'})
end
if refused then
  return refused
end

local counts, wrong = count_sessions(sessions), 0
for _, session in ipairs(sessions) do
  local affinity, several = keys.affinity_prefix .. session, keys.several_prefix .. session
  local url, all, is_right = compare(session, counts[session])
  if not is_right then
    wrong = wrong + 1
    redis.call('DEL', several, affinity)
    if url then
      redis.call('SET', affinity, url)
    end
    for other, count in pairs(all > 1 and counts[session] or {}) do
      redis.call('HSET', several, other, whole(count))
    end
  end
end
if wrong > 0 then
  emit(server_now_ms(), {'kind', 'namespace_repaired', 'router', router, 'by', by})
end
return {'repaired', whole(wrong)}
