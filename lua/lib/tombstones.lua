-- A removal leaves a tombstone: the replica's hash with admin `removed`, and the url in `removed`.

-- include lib/doubt.lua
-- include lib/ejection.lua
-- include lib/endings.lua

-- Takes a url out of `replicas` and marks its hash as removed. The first write is a deletion, because Redis allows a
-- script to go on when memory is short if its first write is one. The hash expires seven days after the last session on
-- the replica has ended. Urls that were removed more than seven days ago are deleted from `removed` here.
local function write_tombstone(replica_key, url, now_ms, reason)
  redis.call('ZREM', keys.replicas, url)
  redis.call('HDEL', replica_key, 'restored_from', 'removes_when_drained')
  forget_doubt(replica_key)
  forget_ejections(replica_key)
  redis.call('HSET', replica_key, 'admin', 'removed', 'admin_since_ms', whole(now_ms), 'admin_reason', reason)
  redis.call('ZREMRANGEBYSCORE', keys.removed, '-inf', whole(now_ms - TOMBSTONE_MS))
  redis.call('ZADD', keys.removed, whole(now_ms), url)
  if tonumber(redis.call('HGET', replica_key, 'in_flight') or '0') == 0 then
    redis.call('PEXPIRE', replica_key, whole(TOMBSTONE_MS))
  end
end
