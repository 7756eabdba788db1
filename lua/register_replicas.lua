-- Registers several replicas, each as register_replica does it for one, in the order of the entries. An entry that is
-- refused changes nothing and does not affect the others. A repeated call is safe: each entry has its own request.
--
-- The reply has the status and the values of each entry as register_replica returns them, without events: routers
-- learn of the replicas by the event stream. An entry that got `indexing` is to be sent again.
--
-- KEYS    meta replicas removed announced departing admin_by_name leader names routers events queue
--         settling ready_primary ready_secondary full spare_primary spare_secondary spare_answered replica_prefix
--         leases_prefix affinity_prefix several_prefix inbox_prefix
-- ARGV    mode history_id router by … (request url order count, fields)
-- RETURNS registered, (status count, values)…  |  fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced departing admin_by_name names events queue ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix
-- COST    O(entries * log replicas + served * (log replicas + log waiters) + names entered)

-- include lib/registration.lua
-- include lib/queue.lua

local FIRST_ENTRY, HEAD_WIDTH = 5, 4

local mode, history_id, router, by = unpack(ARGV, 1, 4)
local token, epoch
mode, token, epoch = parse_mode(mode)

local refused = refusal(WRITTEN)
if refused then
  return refused
end
if token and is_over(token, epoch) then
  return {'fenced'}
end

-- Returns the entry that begins at that index of ARGV, its names of fields, and the index of the next entry.
local function entry_at(at)
  local names, given = {}, {}
  local first = at + HEAD_WIDTH
  local after = first + 2 * tonumber(ARGV[at + 3])
  for i = first, after - 1, 2 do
    names[#names + 1] = ARGV[i]
    given[ARGV[i]] = ARGV[i + 1]
  end
  return {request = ARGV[at], url = ARGV[at + 1], order = ARGV[at + 2], given = given}, names, after
end

local call = {mode = mode, history_id = history_id, router = router, by = by}
local reply, next_at, is_changed = {'registered'}, FIRST_ENTRY, false
while next_at <= #ARGV do
  local one
  one, call.names, next_at = entry_at(next_at)
  local result = register(call, one)
  reply[#reply + 1] = result[1]
  local count = result.events and 0 or #result - 1
  reply[#reply + 1] = whole(count)
  for i = 1, count do
    reply[#reply + 1] = result[i + 1]
  end
  is_changed = is_changed or result.events
end
if is_changed then
  serve_queue(server_now_ms())
end
return reply
