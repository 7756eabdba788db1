-- Registers a replica, or changes the spec of a registered one and keeps its health, admin state and load. A
-- registration on purpose ends an ejection.
--
-- A replica that announces itself (mode `announced`) belongs to the instance that the fields name; see
-- lib/announced.lua. While that instance is alive, no other can announce the same url. What came by announcement is
-- changed by announcement only, and the other way round.
--
-- The mode of a replica that the leader discovered is its source, and the token and epoch of the leader's term; see
-- lib/discovered.lua. What belongs to a source of discovery is changed by that source only, and it changes nothing
-- else.
--
-- A seed (from a config file) does not register a removed replica again and does not override an explicit spec. A
-- repeated request changes nothing, even after a removal, because its id is kept as `incarnation` or `spec_request`. A
-- repeated announcement is a heartbeat.
--
-- A name that another registered replica has is refused to a seed and to an operator; a replica that already has the
-- name keeps it. `indexing` means that names of earlier registrations are entered first, and that there are more: the
-- caller repeats the call.
--
-- The spec comes as names and values of hash fields. If `order` is empty, the script chooses it.
--
-- KEYS    meta replicas removed announced departing admin_by_name leader names routers events queue
--         settling ready_primary ready_secondary full spare_primary spare_secondary spare_answered replica_prefix
--         leases_prefix affinity_prefix several_prefix inbox_prefix
-- ARGV    mode request history_id router by replica_url order … (field value)
-- RETURNS created|updated, event  |  unchanged|tombstone|overridden|fenced|indexing  |  taken, owner
--         |  name_taken, url  |  claimed, source, owner  |  withdrawn  |  wrong_type …|wrong_schema …
-- WRITES  meta replicas removed announced departing admin_by_name names events queue ready_primary ready_secondary
--         full spare_primary spare_secondary spare_answered replica_prefix leases_prefix affinity_prefix
--         several_prefix inbox_prefix
-- COST    O(log replicas + served * (log replicas + log waiters) + names entered)

-- include lib/registration.lua
-- include lib/queue.lua

local FIELD_WIDTH = 2

local mode, request, history_id, router, by, replica_url, order = unpack(ARGV, 1, 7)
local token, epoch
mode, token, epoch = parse_mode(mode)

local refused = refusal(WRITTEN)
if refused then
  return refused
end
if token and is_over(token, epoch) then
  return {'fenced'}
end
local names, given = {}, {}
for i = 8, #ARGV, FIELD_WIDTH do
  names[#names + 1] = ARGV[i]
  given[ARGV[i]] = ARGV[i + 1]
end
local call = {mode = mode, history_id = history_id, router = router, by = by, names = names, shows_events = true}
local reply, is_changed = register(call, {request = request, url = replica_url, order = order, given = given})
if is_changed then
  serve_queue(server_now_ms())
end
return reply
