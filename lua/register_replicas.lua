-- Registers several replicas of a config file or an operator, each as register_replica does it, in the order of the
-- entries. An entry that is refused changes nothing and does not affect the others. A repeated call is safe: each
-- entry has its own request.
--
-- The reply has the status and the values of each entry as register_replica returns them, without events: routers
-- learn of the replicas by the event stream. An entry that got `indexing` is to be sent again.
--
-- KEYS    meta replicas removed announced departing admin_by_name leader names routers events queue
--         settling ready_primary ready_secondary full spare_primary spare_secondary spare_answered replica_prefix
--         leases_prefix affinity_prefix several_prefix inbox_prefix
-- ARGV    mode history_id router by … (request url order count, fields)
-- RETURNS registered, (status count, values)…  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced departing names events queue ready_primary ready_secondary full
--         spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix
-- COST    O(entries * log replicas + served * (log replicas + log waiters) + names entered)

-- include lib/registration.lua
-- include lib/queue.lua

local FIRST_ENTRY, HEAD_WIDTH = 5, 4

local mode, history_id, router, by = unpack(ARGV, 1, 4)

local refused = refusal(WRITTEN)
if refused then
  return refused
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
local reply = {'registered'}
local next_at, is_any_changed = FIRST_ENTRY, false
while next_at <= #ARGV do
  local one
  one, call.names, next_at = entry_at(next_at)
  local result, is_changed = register(call, one)
  reply[#reply + 1] = result[1]
  reply[#reply + 1] = whole(#result - 1)
  for i = 2, #result do
    reply[#reply + 1] = result[i]
  end
  is_any_changed = is_any_changed or is_changed
end
if is_any_changed then
  serve_queue(server_now_ms())
end
return reply
