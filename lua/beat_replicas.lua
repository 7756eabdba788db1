-- Keeps announced replicas in service: heartbeats of the instances that hold them. A heartbeat revives nothing: an
-- instance whose replica has expired, or is not there, announces it again.
--
-- The reply has a word and a detail for each replica: `held` or `draining` and its number of sessions; `unknown`, to be
-- announced again; `taken` and the name of another instance's owner; `claimed` and the source of a replica that was
-- not announced; `removed` by an operator; `withdrawn` by the instance, and removed.
--
-- KEYS    meta replica_prefix announced
-- ARGV    … (url instance)
-- RETURNS beaten, then word and detail of each replica  |  wrong_type …|wrong_schema …
-- WRITES  replica_prefix announced
-- COST    O(replicas of the call * log replicas)

-- include lib/schema.lua

-- Heartbeats are frequent, and Lua builds every function that it reaches anew in each run. So there are few here.
local BEAT_WIDTH = 2
local prefix, now = string.sub(KEYS[1], 1, -5), redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)

-- Returns the word and the detail for a replica with these values; `held` for one that stays in service.
local function word_of(instance, source, holder, owner, admin, expired, withdrawn, in_flight)
  if not source or (admin == 'removed' and (source ~= 'announced' or holder ~= instance or expired)) then
    return 'unknown', ''
  elseif source ~= 'announced' then
    return 'claimed', source
  elseif holder ~= instance then
    return expired and 'unknown' or 'taken', owner or ''
  elseif admin == 'removed' then
    return withdrawn and 'withdrawn' or 'removed', ''
  elseif expired then
    return 'unknown', ''
  end
  return withdrawn and 'draining' or 'held', string.match(in_flight or '', '^%d+$') or '0'
end

-- Returns the reply for a call that failed: the key has another type, or the server refuses for a reason of its own.
local function failure(answer, key, wanted)
  local found = redis.call('TYPE', key)['ok']
  if found ~= wanted then
    return {'wrong_type', key, found, wanted}
  end
  return answer
end

local schema = redis.pcall('HGET', KEYS[1], 'schema')
if type(schema) == 'table' then
  return failure(schema, KEYS[1], 'hash')
elseif schema and not can_use(schema) then
  return {'wrong_schema', schema}
end

local announced = prefix .. 'announced'
local reply = {'beaten'}
for i = 1, #ARGV, BEAT_WIDTH do
  local url, replica = ARGV[i], prefix .. 'replica:' .. ARGV[i]
  local state = redis.pcall('HMGET', replica, 'source', 'instance', 'owner', 'admin', 'expired_at_ms',
    'withdrawn_at_ms', 'in_flight', 'ttl_ms')
  local word, detail = 'unknown', ''
  if not state.err then
    word, detail = word_of(ARGV[i + 1], unpack(state, 1, 7))
  end
  local ttl = (word == 'held' or word == 'draining') and tonumber(state[8] or '')
  if ttl then
    -- No call of its own looks whether it is a sorted set: that would be a sixth of the whole work.
    local added = redis.pcall('ZADD', announced, string.format('%.0f', now_ms + ttl), url)
    if type(added) == 'table' then
      return failure(added, announced, 'zset')
    end
    redis.call('HSET', replica, 'last_heartbeat_at_ms', string.format('%.0f', now_ms))
  end
  reply[#reply + 1], reply[#reply + 2] = word, detail
end
return reply
