-- Corrects in `meta` what is no value of its field, such as a text where a number belongs. Somebody may have written it
-- by hand, and every script that meets it would go wrong.

-- include lib/keys.lua
-- include lib/values.lua

-- Deletes wrong numbers: each counts as absent then, and is written anew where it is needed. The epoch becomes that of
-- the last event, and the revision that event's id.
local function mend_meta()
  local numbers = {
    'epoch', 'next_order', 'queue_sequence', 'heartbeat_at_ms', 'checked_at_ms', 'reap_after_ms', 'reap_until_ms',
    'heartbeats_resumed_at_ms', 'announcements_resumed_at_ms', 'announcements_cut_at_ms', 'older_router_at_ms',
    'probers_version', 'slow_start_ms',
  }
  local found = redis.call('HMGET', keys.meta, 'revision', 'names_cursor', unpack(numbers))
  local is_wrong = found[1] and not string.match(found[1], '^%d+%-%d+$')
  for i, name in ipairs(numbers) do
    if found[i + 2] and not stored_number(found[i + 2]) then
      redis.call('HDEL', keys.meta, name)
      is_wrong = is_wrong or name == 'epoch'
    end
  end
  if is_wrong then
    local last = redis.call('XREVRANGE', keys.events, '+', '-', 'COUNT', 1)[1] or {'0-0', {}}
    redis.call('HSET', keys.meta, 'revision', last[1])
    for i = 1, #last[2], 2 do
      if last[2][i] == 'epoch' and stored_number(last[2][i + 1]) then
        redis.call('HSETNX', keys.meta, 'epoch', last[2][i + 1])
      end
    end
  end
  if found[2] and found[2] ~= 'done' and not string.match(found[2], '^%d+$') then
    redis.call('HDEL', keys.meta, 'names_cursor')
  end
end
