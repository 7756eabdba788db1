-- The event stream. Every event names the event before it, so that a reader can detect a gap.
--
-- An event's id can be given twice, to different events: if the server loses its last events and its clock was set
-- back. So an event also has a mark, the server's time in microseconds. Two events that got the same id have different
-- marks, and so have the events after them, because an event names the mark before it too. A program of an earlier
-- version writes events without marks.

-- include lib/keys.lua
-- include lib/values.lua

local MAX_EVENTS = '10000'
-- The fields of a replica's hash that its events do not carry: fields that change too often, and fields that only
-- scripts use. Events carry all other fields.
local NOT_IN_EVENTS = {
  in_flight = true, revision = true, spec_request = true, failing_witness = true, prober_report = true,
  reported_at_ms = true, sessions_failing_since_ms = true, session_failures = true, failing_client = true,
  announced_at_ms = true, unreached_from = true, returned_at_ms = true, removed_by = true, last_heartbeat_at_ms = true,
  missing_since_ms = true,
}

-- Returns the mark of the event with that id; empty if it has none.
-- text: `mark` of meta, which is the id of the last event that has a mark, and its mark.
local function mark_of(text, id)
  local marked, mark = string.match(text or '', '^(%S+) (%S+)$')
  return marked == id and mark or ''
end

-- Appends one event and advances the revision.
-- entry: flat list of name, value, `kind` first. The fields that every event has are appended to it.
-- Returns the event's id and its whole entry.
local function emit(now_ms, entry)
  local before = redis.call('HMGET', keys.meta, 'revision', 'epoch', 'history_id', 'mark')
  local mark = whole(server_now_us())
  local common = {'at_ms', whole(now_ms), 'prev', before[1] or '0-0', 'epoch', whole(stored_number(before[2], 0)),
    'history_id', before[3] or '', 'prev_mark', mark_of(before[4], before[1]), 'mark', mark}
  local length = #entry
  for i = 1, #common do
    entry[length + i] = common[i]
  end
  local id = redis.call('XADD', keys.events, 'MAXLEN', '~', MAX_EVENTS, '*', unpack(entry))
  redis.call('HSET', keys.meta, 'revision', id, 'mark', table.concat({id, mark}, ' '))
  return id, entry
end

-- Appends an event to a reply, as id, length, entry. `reply.events` counts the events; Redis does not send it.
local function append_event(reply, id, entry)
  reply.events = (reply.events or 0) + 1
  local length = #reply
  reply[length + 1], reply[length + 2] = id, whole(#entry)
  for i = 1, #entry do
    reply[length + 2 + i] = entry[i]
  end
end

-- Appends an event that carries the whole routing-relevant state of a replica, and stores the event's id as `revision`
-- in the replica's hash.
-- fields: flat list of name, value, `kind` first. reply: the list to which the event is appended, as id, length, entry;
-- nil for none.
local function emit_replica(now_ms, replica_key, url, fields, reply)
  fields[#fields + 1] = 'replica'
  fields[#fields + 1] = url
  local state, length = redis.call('HGETALL', replica_key), #fields
  for i = 1, #state, 2 do
    if not NOT_IN_EVENTS[state[i]] then
      fields[length + 1], fields[length + 2] = state[i], state[i + 1]
      length = length + 2
    end
  end
  local id, entry = emit(now_ms, fields)
  redis.call('HSET', replica_key, 'revision', id)
  if reply then
    append_event(reply, id, entry)
  end
end
