-- Replicas that the leader discovered. Their source is a kind and a name, such as `dns:pods`.
--
-- A replica that its source does not have any more has `withdrawn_at_ms`. With its last session it is removed, and its
-- hash is deleted, because addresses of pods come and go. If an operator had drained or disabled it, a tombstone keeps
-- that in `kept_admin`, for the return of the replica: lines with the state, since when, by whom, and the reason.

local function is_discovered(source)
  return source and string.find(source, ':', 1, true) ~= nil
end

-- Returns the mode of a registration, or the source of what was discovered and the token and epoch of the term.
local function parse_mode(text)
  local source, token, epoch = string.match(text, '^(%S+) (%S+) (%S+)$')
  return source or text, token, epoch
end

-- Returns whether the leader's term with this token and epoch is over.
local function is_over(token, epoch)
  local holder = redis.call('HMGET', keys.leader, 'token', 'epoch')
  return holder[1] ~= token or holder[2] ~= epoch
end

-- Keeps the admin state that an operator has set. What the source has set itself is not kept.
local function keep_operators_state(replica_key, source)
  local set = redis.call('HMGET', replica_key, 'admin', 'admin_since_ms', 'admin_by', 'admin_reason')
  if (set[1] == 'draining' or set[1] == 'disabled') and set[3] ~= source then
    local by = string.gsub(set[3] or '', '\n', ' ')
    redis.call('HSET', replica_key, 'kept_admin', table.concat({set[1], set[2] or '0', by, set[4] or ''}, '\n'))
  end
end

-- Gives a replica that returns to its source the admin state that was kept.
local function recall_operators_state(replica_key, source)
  local kept = redis.call('HGET', replica_key, 'kept_admin')
  redis.call('HDEL', replica_key, 'withdrawn_at_ms', 'kept_admin')
  local state, since_ms, by, reason = string.match(kept or '', '^(%l+)\n(%d+)\n([^\n]*)\n(.*)$')
  if state and is_discovered(source) then
    redis.call('HSET', replica_key, 'admin', state, 'admin_since_ms', since_ms, 'admin_reason', reason, 'admin_by', by,
      'admin_by_at_ms', since_ms)
  end
end

-- Deletes the tombstone of a replica that its source withdrew, unless an operator's admin state is kept there. Called
-- after the event of the removal, which carries the whole hash.
local function forget_withdrawn(replica_key, url)
  local state = redis.call('HMGET', replica_key, 'admin', 'withdrawn_at_ms', 'kept_admin')
  if state[1] == 'removed' and state[2] and not state[3] then
    redis.call('ZREM', keys.removed, url)
    redis.call('DEL', replica_key)
  end
end
