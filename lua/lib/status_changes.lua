-- Changes of status that one script makes, told together. An event that carries the whole state of one replica costs
-- the server and every mirror several times what a line of the event of many does.
--
-- The event of several changes has their kind, and a line for each replica in `changes`, its fields separated by tabs:
-- url, revision before, consecutive_failures (of an unhealthy replica), last_latency_ms (of a healthy one), name,
-- unreached_by, and the error of an unhealthy one. The rest follows from the event: its time is `status_since_ms` and
-- that of the last probe, `slow_start_ms` is that of the event, doubt and an ejection have ended. A mirror that has
-- another revision of a replica than the one before must read everything. So does a program of an earlier version: it
-- takes the event for one about a replica `*`, and finds no state of it.

-- include lib/events.lua

local note_change, untold_changes, emit_changes

do -- a script has 200 local names at most
  local untold, untold_by_key = {}, {}

  local function emit_change(change, now_ms, reply)
    emit_replica(now_ms, change.key, change.url,
      {'kind', change.kind, 'router', change.router, 'by', change.by, 'reason', change.reason}, reply)
  end

  -- Tells a change: at once if it needs the whole state of its replica, otherwise by `emit_changes`.
  -- change: key and url of the replica, kind of the event, router, by, reason, slow_start_ms (empty if it has no ramp),
  -- fields (a flat list of what was written), revision (before; false if there is none), name, unreached_by, and
  -- is_special if it has written more.
  note_change = function(change, now_ms, reply)
    if change.is_special or not string.match(change.revision or '', '^%d+%-%d+$') then
      emit_change(change, now_ms, reply)
      return
    end
    untold[#untold + 1] = change
    untold_by_key[change.key] = change
  end

  untold_changes = function()
    return #untold
  end

  local function written(change, name)
    for i = 1, #change.fields, 2 do
      if change.fields[i] == name then
        return change.fields[i + 1]
      end
    end
    return ''
  end

  local function line_of(change)
    local is_unhealthy = change.kind == 'replica_unhealthy'
    local texts = {change.name, change.unreached_by, written(change, 'last_error')}
    for i = 1, #texts do
      texts[i] = string.gsub(texts[i], '%c', ' ')
    end
    return table.concat({change.url, change.revision,
      is_unhealthy and written(change, 'consecutive_failures') or '', written(change, 'last_latency_ms'),
      unpack(texts)}, '\t')
  end

  -- Emits changes that have all but their replicas in common.
  local function emit_together(changes, now_ms, reply)
    local first, lines = changes[1], {}
    if #changes == 1 then
      emit_change(first, now_ms, reply)
      return
    end
    for i, change in ipairs(changes) do
      lines[i] = line_of(change)
    end
    local fields = {
      'kind', first.kind, 'router', first.router, 'by', first.by, 'reason', '', 'replica', '*',
      'changes', table.concat(lines, '\n'),
    }
    if first.slow_start_ms ~= '' then
      fields[#fields + 1] = 'slow_start_ms'
      fields[#fields + 1] = first.slow_start_ms
    end
    local id, entry = emit(now_ms, fields)
    for _, change in ipairs(changes) do
      redis.call('HSET', change.key, 'revision', id)
    end
    append_event(reply, id, entry)
  end

  -- Emits the changes that were noted: those with the same status and origin in one event.
  -- replica_key: emits them only if one of this replica is among them, because more about it may follow; nil for all.
  emit_changes = function(now_ms, reply, replica_key)
    if #untold == 0 or (replica_key and not untold_by_key[replica_key]) then
      return
    end
    local groups, by_origin = {}, {}
    for _, change in ipairs(untold) do
      local origin = table.concat({change.kind, change.router, change.by, change.slow_start_ms}, '\n')
      if not by_origin[origin] then
        by_origin[origin] = {}
        groups[#groups + 1] = by_origin[origin]
      end
      table.insert(by_origin[origin], change)
    end
    untold, untold_by_key = {}, {}
    for _, changes in ipairs(groups) do
      emit_together(changes, now_ms, reply)
    end
  end
end
