-- Removal leaves a tombstone: the hash with admin `removed`, and the url in `removed`.

-- include lib/endings.lua

-- Takes url out of `replicas` and marks its hash. First the deletion, so that it runs when memory is short.
-- The hash expires seven days after the last session on it has ended; `removed` forgets older ones here.
local function bury(replica_key, url, now_ms, reason)
  redis.call('ZREM', keys.replicas, url)
  redis.call('HDEL', replica_key, 'restored_from', 'removes_when_drained')
  redis.call('HSET', replica_key, 'admin', 'removed', 'admin_since_ms', whole(now_ms), 'admin_reason', reason)
  redis.call('ZREMRANGEBYSCORE', keys.removed, '-inf', whole(now_ms - TOMBSTONE_MS))
  redis.call('ZADD', keys.removed, whole(now_ms), url)
  if tonumber(redis.call('HGET', replica_key, 'in_flight') or '0') == 0 then
    redis.call('PEXPIRE', replica_key, whole(TOMBSTONE_MS))
  end
end
