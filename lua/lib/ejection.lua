-- Fields of a replica's hash that say how sessions go on it. Among routers that probe, sessions change no status; a
-- healthy replica on which sessions fail is ejected: for some time it takes no new sessions.
--
-- ejected_until_ms           the end of the ejection. While the field is there the replica is ejected, so that the
--                            ready sets depend on no clock; a heartbeat deletes it
-- ejections                  how often it was ejected lately; the length of the next ejection depends on it
-- returned_at_ms             the end of the last ejection
-- sessions_failing_since_ms  the first failure since a session has succeeded
-- session_failures           failures of connected sessions since then
-- failing_client             the client of all these failures; `*` if there are several
-- announced_at_ms            when routers were first told of these failures
-- unreached_from             the machines from which sessions could not connect, although a probe of the same router
--                            reached the replica afterwards: "<machine>@<ms> …"

local RUN_FIELDS = {
  'sessions_failing_since_ms', 'session_failures', 'failing_client', 'announced_at_ms', 'unreached_from',
}

-- Ends an ejection, if there is one, and forgets failed sessions. The caller puts the replica into the right set.
local function end_ejection(replica_key, now_ms)
  redis.call('HDEL', replica_key, unpack(RUN_FIELDS))
  if redis.call('HDEL', replica_key, 'ejected_until_ms') == 1 then
    redis.call('HSET', replica_key, 'returned_at_ms', string.format('%.0f', now_ms))
  end
end

-- Forgets also how often the replica was ejected.
local function forget_ejections(replica_key)
  redis.call('HDEL', replica_key, 'ejected_until_ms', 'ejections', 'returned_at_ms', unpack(RUN_FIELDS))
end
