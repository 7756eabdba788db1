-- Repairs derived data, for `check --repair`, after a script was interrupted or somebody wrote by hand. It derives
-- in_flight from the leases, the ready sets and `ejected` from the hashes, and the sets of replicas and tombstones from
-- both. It ends leases, inboxes and waiters of routers that are not in `routers`, and gives free slots to waiters.
--
-- The first `listed` names are routers, the others canonical urls. A hash whose weight or capacity is not a valid
-- number is left alone. If `first_event` is given, older events are deleted. If anything was wrong, the last event
-- makes all mirrors read everything anew. If nothing is wrong, nothing is written.
--
-- KEYS    meta replicas removed routers events queue settling ready_primary ready_secondary full spare_primary
--         spare_secondary spare_answered ejected replica_prefix leases_prefix affinity_prefix several_prefix
--         inbox_prefix
-- ARGV    router by first_event listed … (name)
-- RETURNS repaired, how many things were wrong  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed events queue ready_primary ready_secondary full spare_primary spare_secondary
--         spare_answered ejected replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix
-- COST    O(all leases + urls * log replicas + waiters)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua
-- include lib/ready.lua
-- include lib/tombstones.lua
-- include lib/lease_counts.lua
-- include lib/queue.lua

local FIRST_NAME = 5

local router, by, first_event, listed = unpack(ARGV, 1, 4)

local refused = refusal({
  'replicas', 'removed', 'routers', 'events', 'queue', 'ready_primary', 'ready_secondary', 'full', 'spare_primary',
  'spare_secondary', 'spare_answered', 'ejected',
})
for i = FIRST_NAME, #ARGV do
  if i < FIRST_NAME + tonumber(listed) then
    refused = refused or type_refusal({keys.leases_prefix .. ARGV[i], 'hash', keys.inbox_prefix .. ARGV[i], 'stream'})
  else
    refused = refused or type_refusal({keys.replica_prefix .. ARGV[i], 'hash'})
  end
end
if refused then
  return refused
end

local now_ms = server_now_ms()

local changes = 0

-- Adds the number of changes that a Redis command reports.
local function count(changed)
  changes = changes + changed
end

local function is_number(text)
  return tonumber(text or '') ~= nil
end

local function repair_field(replica, field, value)
  if redis.call('HGET', replica, field) ~= value then
    redis.call('HSET', replica, field, value)
    count(1)
  end
end

-- Makes `replicas` and `removed` agree with the hash, which never expires.
local function repair_membership(replica, url)
  local state = redis.call('HMGET', replica, 'admin', 'order')
  if state[1] and state[1] ~= 'removed' then
    local order = is_number(state[2]) and state[2] or redis.call('ZSCORE', keys.replicas, url) or '0'
    repair_field(replica, 'order', order)
    count(redis.call('ZADD', keys.replicas, 'CH', order, url))
    count(redis.call('ZREM', keys.removed, url))
    count(redis.call('PERSIST', replica))
    return
  end
  count(redis.call('ZREM', keys.replicas, url))
  if state[1] then
    count(redis.call('ZADD', keys.removed, 'NX', whole(now_ms), url))
    count(redis.call('PERSIST', replica))
  end
end

-- Returns the scores of a url in the ready and spare sets, and whether it is in `full`, as one text.
local function ready_state(url)
  local found = {whole(redis.call('SISMEMBER', keys.full, url))}
  for _, name in ipairs({
    'ready_primary', 'ready_secondary', 'spare_primary', 'spare_secondary', 'spare_answered',
  }) do
    found[#found + 1] = redis.call('ZSCORE', keys[name], url) or '-'
  end
  return table.concat(found, ' ')
end

local function repair_ready(replica, url)
  local until_ms = redis.call('HGET', replica, 'ejected_until_ms')
  if is_number(until_ms) then
    count(redis.call('ZADD', keys.ejected, 'CH', until_ms, url))
  end
  local before = ready_state(url)
  refresh_ready(replica, url)
  if ready_state(url) ~= before then
    count(1)
  end
end

for i = FIRST_NAME, FIRST_NAME + tonumber(listed) - 1 do
  if not redis.call('ZSCORE', keys.routers, ARGV[i]) then
    count(redis.call('DEL', keys.leases_prefix .. ARGV[i], keys.inbox_prefix .. ARGV[i]))
  end
end
local leases = count_leases()
for i = FIRST_NAME + tonumber(listed), #ARGV do
  local url = ARGV[i]
  local replica = keys.replica_prefix .. url
  local state = redis.call('HMGET', replica, 'weight', 'capacity', 'admin')
  local in_flight = leases[url] or 0
  if not state[3] or (is_number(state[1]) and tonumber(state[1]) > 0 and is_number(state[2])) then
    repair_membership(replica, url)
    if state[3] then
      repair_field(replica, 'in_flight', whole(in_flight))
    end
    repair_ready(replica, url)
  end
end
for _, waiter in ipairs(redis.call('ZRANGE', keys.queue, 0, -1)) do
  if not redis.call('ZSCORE', keys.routers, string.match(waiter, '^(.-)/') or '') then
    count(redis.call('ZREM', keys.queue, waiter))
  end
end
local _, granted = serve_queue(now_ms)
count(granted)
if first_event ~= '' then
  count(redis.call('XTRIM', keys.events, 'MINID', first_event))
end
local revision = redis.call('HGET', keys.meta, 'revision')
local last = redis.call('XREVRANGE', keys.events, '+', '-', 'COUNT', 1)[1]
if last and revision ~= last[1] then
  redis.call('HSET', keys.meta, 'revision', last[1])
  count(1)
elseif not last and revision then
  count(1) -- The event stream was lost. The event below leads to the revision again.
end
if changes > 0 then
  emit(now_ms, {'kind', 'namespace_repaired', 'router', router, 'by', by})
end
return {'repaired', whole(changes)}
