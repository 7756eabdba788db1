-- Fields of a replica's hash by which routers decide together about its health. All are absent from a replica about
-- which the routers agree.
--
-- suspicion            id of the question whether others reach the replica; absent if no question is open
-- suspected_by         key of the prober whose probes fail
-- suspected_at_ms      when the last question was asked; stays afterwards, so that questions keep a distance
-- suspected_until_ms   silence until then counts as agreement; absent if silence decides nothing
-- suspected_address    IP address that was probed, where the url has a name; absent if it is not known
-- asked                keys of the routers that have not answered yet, separated by spaces
-- unreached_by         keys of the routers that answered that they do not reach the replica
-- reached_by           key of the router that reached the replica while its prober did not
-- refuted_prober       key of the prober that was wrong about the replica the last time
-- prober               key of the router that probes the replica in place of the leader
-- prober_until_ms      until then its word counts
-- prober_report        number of its last report

local DOUBT_FIELDS = {
  'suspicion', 'suspected_by', 'suspected_until_ms', 'suspected_address', 'asked', 'unreached_by', 'reached_by',
  'refuted_prober', 'prober', 'prober_until_ms', 'prober_report',
}

-- Deletes all of it, because what was asked and answered no longer says anything about the replica.
local function forget_doubt(replica_key)
  redis.call('HDEL', replica_key, 'suspected_at_ms', unpack(DOUBT_FIELDS))
end
