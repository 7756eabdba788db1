-- Every key of the namespace, derived from the one key that a command gets, `meta`; and the types of the fixed keys.

local prefix = string.sub(KEYS[1], 1, -5)
local keys = {
  meta = KEYS[1], replicas = prefix .. 'replicas', removed = prefix .. 'removed', replica_prefix = prefix .. 'replica:',
  ready_primary = prefix .. 'ready:primary', ready_secondary = prefix .. 'ready:secondary', full = prefix .. 'full',
  spare_primary = prefix .. 'spare:primary', spare_secondary = prefix .. 'spare:secondary',
  spare_answered = prefix .. 'spare:answered', ejected = prefix .. 'ejected', announced = prefix .. 'announced',
  departing = prefix .. 'departing', admin_by_name = prefix .. 'admin_by_name',
  names = prefix .. 'names', leader = prefix .. 'leader', probers = prefix .. 'probers', plan = prefix .. 'plan',
  settling = prefix .. 'settling', routers = prefix .. 'routers', router_prefix = prefix .. 'router:',
  leases_prefix = prefix .. 'leases:', affinity_prefix = prefix .. 'affinity:', moved = prefix .. 'moved',
  several_prefix = prefix .. 'several:', queue = prefix .. 'queue',
  inbox_prefix = prefix .. 'inbox:', sequence_prefix = prefix .. 'sequence:', events = prefix .. 'events',
}
local TYPES = {
  replicas = 'zset', removed = 'zset', ready_primary = 'zset', ready_secondary = 'zset', full = 'set',
  spare_primary = 'zset', spare_secondary = 'zset', spare_answered = 'zset', leader = 'hash', routers = 'zset',
  settling = 'zset', probers = 'zset', plan = 'hash', ejected = 'zset', queue = 'zset', events = 'stream',
  announced = 'zset', departing = 'zset', admin_by_name = 'hash', names = 'hash', moved = 'zset',
}
