-- Replicas that the leader discovered. Their source is a kind and a name, such as `dns:pods`.
--
-- A replica that its source does not have any more has `withdrawn_at_ms`. With its last session it is removed, and its
-- hash is deleted, because addresses of pods come and go. The admin state that an operator gave to it is kept for its
-- return, as that of announced replicas is.

-- include lib/announced.lua

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

-- Deletes the tombstone of a replica that its source withdrew. Called after the event of the removal, which carries the
-- whole hash.
local function forget_withdrawn(replica_key, url)
  local state = redis.call('HMGET', replica_key, 'admin', 'withdrawn_at_ms', 'source')
  if state[1] == 'removed' and state[2] and is_discovered(state[3]) then
    redis.call('ZREM', keys.removed, url)
    redis.call('DEL', replica_key)
  end
end
