-- Every key of the namespace, derived from the one key that a command gets, `meta`; and the types of the fixed keys.

local prefix = string.sub(KEYS[1], 1, -5)
local keys = {
  meta = KEYS[1], replicas = prefix .. 'replicas', removed = prefix .. 'removed', replica_prefix = prefix .. 'replica:',
  ready_primary = prefix .. 'ready:primary', ready_secondary = prefix .. 'ready:secondary', full = prefix .. 'full',
  leader = prefix .. 'leader', probers = prefix .. 'probers',
  routers = prefix .. 'routers', router_prefix = prefix .. 'router:',
  leases_prefix = prefix .. 'leases:', affinity_prefix = prefix .. 'affinity:', queue = prefix .. 'queue',
  inbox_prefix = prefix .. 'inbox:', sequence_prefix = prefix .. 'sequence:', events = prefix .. 'events',
}
local TYPES = {
  replicas = 'zset', removed = 'zset', ready_primary = 'zset', ready_secondary = 'zset', full = 'set', leader = 'hash',
  routers = 'zset', probers = 'zset', queue = 'zset', events = 'stream',
}
