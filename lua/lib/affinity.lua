-- The affinity of a session: the replica to which the session returns. It lasts while any lease of the session does.
--
-- `affinity` has the url of a lease of the session, without a time to live; after the last lease it may have one. Only
-- a session with several leases at once has `several`, with the number of its leases on each url. A script of an older
-- version knows nothing of `several`. If it ends a lease, it gives `affinity` a time to live or deletes it; then
-- `several` does not count any more.

-- include lib/sessions.lua

local FOREVER = -1

-- Records that a session has one more lease, on that url.
local function begin_affinity(id, url)
  local session = session_of(id)
  if not session then
    return
  end
  local affinity, several = keys.affinity_prefix .. session, keys.several_prefix .. session
  if redis.call('PTTL', affinity) ~= FOREVER then
    redis.call('DEL', several)
  else
    redis.call('HSETNX', several, redis.call('GET', affinity), 1)
    if type(redis.pcall('HINCRBY', several, url, 1)) ~= 'number' then
      redis.call('DEL', several) -- a count is damaged
    end
  end
  redis.call('SET', affinity, url)
end
