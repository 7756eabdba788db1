-- Gives a session a slot. It prefers the replica where the session was before, then the least loaded replica of the
-- first tier that has a free slot. A session that finds no free slot joins the queue, unless the queue already holds
-- `max_queue` waiters. The reply is `returned` if it is the replica where the session was before. With `max_queue` 0
-- the session does not wait, and a waiter of that lease id leaves the queue.
-- A repeated call with the same lease id finds its lease or its waiter again, so a lost reply costs nothing.
--
-- In a panic, a session for which no healthy replica has a free slot gets one of another active replica, if
-- `takes_spare` is 1; see lib/spares.lua. The reply has the sequence with which the session would have waited, so that
-- it can join the queue at that position if it cannot use the replica; it is empty if the session does not wait.
--
-- While sessions come back after a loss (lib/settling.lua), no session gets a slot that does not have it already.
--
-- Only a router in `routers` may hold leases and waiters: nobody would end those of another router after its crash.
-- Waiters in the queue are served before the caller. An avoided replica is chosen only if no other has a free slot. An
-- excluded replica is never chosen here, but a waiter may be given one. A session keeps its sequence if the caller
-- passes it (the server may have lost the queue), or if the router under which it waited has lately died or left. A
-- session that has a sequence joins the queue even if that is full.
--
-- KEYS    meta routers queue settling ready_primary ready_secondary full spare_primary spare_secondary spare_answered
--         replica_prefix leases_prefix affinity_prefix several_prefix inbox_prefix sequence_prefix
-- ARGV    router lease_id max_queue sequence takes_spare avoided … (url)
-- RETURNS granted|returned|held, url, revision of the replica  |  spare, url, revision of the replica, sequence
--         |  waiting, sequence, position, depth  |  excluded|saturated|no_healthy|settling, depth  |  not_registered
--         |  wrong_type …|wrong_schema …
-- WRITES  meta queue ready_primary ready_secondary full spare_primary spare_secondary spare_answered replica_prefix
--         leases_prefix affinity_prefix several_prefix inbox_prefix sequence_prefix
-- COST    O(log replicas + log waiters + excluded * log replicas)

-- include lib/usual.lua

local FIRST_URL = 7

local router, lease_id, max_queue, sequence, takes_spare, avoided = unpack(ARGV, 1, 6)

-- Gives the session a slot of the least loaded replica of the first tier that has one. Returns its url and revision, or
-- nil if that is not usual.
local function grant_usual()
  local tier = 'ready:primary'
  local loads = redis.pcall('ZRANGE', namespace .. tier, 0, 3, 'WITHSCORES')
  if not loads[1] and not loads.err then
    tier = 'ready:secondary'
    loads = redis.pcall('ZRANGE', namespace .. tier, 0, 3, 'WITHSCORES')
  end
  local url, load, equal = loads[1], loads[2], 1
  if not url then
    return nil
  end
  -- The lease id decides between equal loads.
  while loads[2 * equal + 2] == load do
    equal = equal + 1
  end
  if equal == 4 then
    equal = redis.call('ZCOUNT', namespace .. tier, '-inf', load)
  end
  local place = tonumber(string.sub(lease_id, 1, 8), 16) % equal
  url = loads[2 * place + 1] or redis.call('ZRANGE', namespace .. tier, place, place)[1]

  local count, most, weight, own_tier, revision = read_usual(url)
  if own_tier ~= tier then
    return nil
  end
  count = count + 1
  if (most > 0 and count > most) or (count == most and not may_write_full())
    or redis.pcall('HSETNX', namespace .. 'leases:' .. router, lease_id, url) ~= 1 then
    return nil
  end
  redis.call('HSET', namespace .. 'replica:' .. url, 'in_flight', count)
  if count == most then
    redis.call('ZREM', namespace .. tier, url)
    redis.call('SADD', namespace .. 'full', url)
  else
    redis.call('ZADD', namespace .. tier, count / weight, url)
  end
  return url, revision
end

if #ARGV < FIRST_URL and may_be_usual(lease_id)
  and type(redis.pcall('ZSCORE', namespace .. 'routers', router)) == 'string' then
  local url, revision = grant_usual()
  if url then
    return {'granted', url, revision}
  end
end

-- include lib/keys.lua
-- include lib/placing.lua

local leases = keys.leases_prefix .. router
local session = session_of(lease_id)
local schema, expires_at_ms = redis.pcall('HGET', keys.meta, 'schema'), redis.pcall('ZSCORE', keys.routers, router)
local held, depth = redis.pcall('HGET', leases, lease_id), redis.pcall('ZCARD', keys.queue)
local ready = redis.pcall('ZCARD', keys.ready_primary)
local refused = read_refusal(schema, keys.meta, 'hash') or read_refusal(expires_at_ms, keys.routers, 'zset')
  or read_refusal(held, leases, 'hash') or read_refusal(depth, keys.queue, 'zset')
  or read_refusal(ready, keys.ready_primary, 'zset')
  or ((ready == 0 or depth > 0 or session or #ARGV >= FIRST_URL)
    and type_refusal({keys.ready_secondary, 'zset', keys.full, 'set'}))
  or (session and type_refusal({
    keys.affinity_prefix .. session, 'string', keys.several_prefix .. session, 'hash',
    keys.sequence_prefix .. session, 'string',
  }))
  or schema_refusal(schema)
if refused then
  return refused
end
if not expires_at_ms then
  return {'not_registered'}
end

-- Returns the reply for a lease that exists.
local function reply_held(url)
  local state = redis.pcall('HMGET', keys.replica_prefix .. url, 'revision', 'status', 'ejected_until_ms')
  local revision = state[1] or '0-0'
  if state[2] == 'healthy' and not state[3] then
    return {'held', url, revision}
  end
  return {'spare', url, revision, ''}
end

if held then
  return reply_held(held)
end

local waiter = router .. '/' .. lease_id

-- Grants a slot of a healthy replica, and returns the reply.
local function take(url, tier, state)
  local was_here = session and redis.call('GET', keys.affinity_prefix .. session) == url
  local revision, denied = grant(router, lease_id, url, tier, state)
  if denied then
    return denied
  end
  if depth > 0 then
    redis.call('ZREM', keys.queue, waiter)
  end
  if session then
    redis.call('DEL', keys.sequence_prefix .. session)
  end
  return {was_here and 'returned' or 'granted', url, revision}
end

-- As in lib/settling.lua, which the usual case does not load.
local coming_back = redis.pcall('ZCOUNT', keys.settling, 1, 1)
local waits_for_others = type(coming_back) == 'number' and coming_back > 0

-- In the usual case the queue is empty and a healthy replica has a free slot. The includes below are not at the top
-- because Lua builds every function that it reaches anew in each run.
if depth == 0 and #ARGV < FIRST_URL and not waits_for_others then
  local url, tier, state = choose(lease_id, keys.ready_primary, keys.ready_secondary)
  if url then
    return take(url, tier, state)
  end
end

-- include lib/leaving_out.lua

-- Returns a replica of two tiers, its tier and its state; one of the avoided only if no other has a free slot.
local function choose_wanted(first, second)
  local url, tier, state = choose_but(lease_id, urls_from(ARGV, FIRST_URL), first, second)
  if not url and avoided ~= '0' then
    url, tier, state = choose_but(lease_id, urls_from(ARGV, FIRST_URL + tonumber(avoided)), first, second)
  end
  return url, tier, state
end

if depth == 0 and #ARGV >= FIRST_URL and not waits_for_others then
  local url, tier, state = choose_wanted(keys.ready_primary, keys.ready_secondary)
  if url then
    return take(url, tier, state)
  end
end

-- include lib/queue.lua

refused = spare_refusal()
if refused then
  return refused
end
local now_ms = server_now_ms()
local is_behind, _, is_behind_for_spares = serve_queue(now_ms)
is_behind, is_behind_for_spares = is_behind or waits_for_others, is_behind_for_spares or waits_for_others
if depth > 0 then
  held = redis.call('HGET', leases, lease_id)
  if held then
    return reply_held(held)
  end
  if not is_behind then
    local url, tier, state = choose_wanted(keys.ready_primary, keys.ready_secondary)
    if url then
      return take(url, tier, state)
    end
  end
end

-- Returns the sequence that the waiter has or had before (given by the caller, or kept for its session), or the next
-- one.
local function place()
  local last = stored_number(redis.call('HGET', keys.meta, 'queue_sequence'), 0)
  local old = stored_number(redis.call('ZSCORE', keys.queue, waiter) or sequence)
    or stored_number(session and redis.call('GET', keys.sequence_prefix .. session))
  local own = old or math.max(last + 1, now_ms)
  redis.call('HSET', keys.meta, 'queue_sequence', whole(math.max(last, own)))
  if old then
    look_from_the_front()
  end
  return whole(own)
end

local function leave_queue()
  redis.call('ZREM', keys.queue, waiter)
  if session then
    redis.call('DEL', keys.sequence_prefix .. session)
  end
end

if takes_spare == '1' and not is_behind_for_spares then
  local url, tier, state = choose_spare(choose_wanted)
  if url then
    local revision, denied = grant(router, lease_id, url, tier, state)
    if denied then
      return denied
    end
    local own = max_queue == '0' and '' or place()
    leave_queue()
    return {'spare', url, revision, own}
  end
end

local function is_any_ready()
  return redis.call('ZCARD', keys.ready_primary) > 0 or redis.call('ZCARD', keys.ready_secondary) > 0
end

if max_queue == '0' then
  redis.call('ZREM', keys.queue, waiter)
elseif not redis.call('ZSCORE', keys.queue, waiter) then
  if not is_behind and is_any_ready() then
    return {'excluded', whole(redis.call('ZCARD', keys.queue))}
  end
  local is_back = sequence ~= '' or (session and redis.call('EXISTS', keys.sequence_prefix .. session) == 1)
  if is_back or redis.call('ZCARD', keys.queue) < tonumber(max_queue) then
    redis.call('ZADD', keys.queue, place(), waiter)
    if session then
      redis.call('DEL', keys.sequence_prefix .. session)
    end
  end
end
depth = whole(redis.call('ZCARD', keys.queue))
local rank = redis.call('ZRANK', keys.queue, waiter)
if rank then
  return {'waiting', whole(stored_number(redis.call('ZSCORE', keys.queue, waiter), now_ms)), whole(rank + 1), depth}
end
if waits_for_others then
  return {'settling', depth}
end
-- A ready replica that is reserved for the waiters is healthy too.
local is_any_healthy = redis.call('SCARD', keys.full) > 0
  or (is_behind and is_any_ready())
return {is_any_healthy and 'saturated' or 'no_healthy', depth}
