-- Moves a lease that may move to this router, from whichever other router has it, a dead one included. The session
-- keeps its slot all the time: no count changes. A repeated call finds the lease again.
--
-- The former router finds with a heartbeat that the lease has gone, and `restore_leases` does not put it back there,
-- also after the lease has ended. `ended` says that it has moved from this router, and that no router has it any more.
--
-- KEYS    meta routers moved leases_prefix replica_prefix
-- ARGV    router lease_id
-- RETURNS held|moved, url, revision of the replica  |  not_found|ended|not_registered  |  wrong_type …|wrong_schema …
-- WRITES  moved leases_prefix
-- COST    O(routers)

-- include lib/keys.lua
-- include lib/moving.lua

local router, lease_id = unpack(ARGV)

local leases = keys.leases_prefix .. router
local refused = refusal({'routers', 'moved'}, {leases, 'hash'})
if refused then
  return refused
end
if not redis.call('ZSCORE', keys.routers, router) then
  return {'not_registered'}
end

local function revision_of(url)
  local revision = redis.pcall('HGET', keys.replica_prefix .. url, 'revision')
  return type(revision) == 'string' and revision or '0-0'
end

local url = redis.call('HGET', leases, lease_id)
if url then
  note_return(router, lease_id)
  return {'held', url, revision_of(url)}
end
local former
former, url = holder_of(lease_id, router)
if not former then
  if has_left(router, lease_id) then
    return {'ended'}
  end
  return {'not_found'}
end
redis.call('HSET', leases, lease_id, url)
redis.call('HDEL', keys.leases_prefix .. former, lease_id)
note_return(router, lease_id)
note_moved(former, {lease_id}, server_now_ms())
return {'moved', url, revision_of(url)}
