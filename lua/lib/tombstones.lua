-- A removal leaves a tombstone: the replica's hash with admin `removed`, and the url in `removed`.

-- include lib/doubt.lua
-- include lib/ejection.lua
-- include lib/endings.lua

-- Takes a url out of `replicas` and marks its hash as removed. The first write is a deletion, because Redis allows a
-- script to go on when memory is short if its first write is one. A tombstone has no expiry: what an operator removed
-- stays removed until an operator adds it.
local function write_tombstone(replica_key, url, now_ms, reason)
  redis.call('ZREM', keys.replicas, url)
  redis.call('HDEL', replica_key, 'restored_from', 'removes_when_drained', 'admin_by', 'admin_by_at_ms')
  forget_doubt(replica_key)
  forget_ejections(replica_key)
  redis.call('HSET', replica_key, 'admin', 'removed', 'admin_since_ms', whole(now_ms), 'admin_reason', reason)
  redis.call('ZADD', keys.removed, whole(now_ms), url)
end
