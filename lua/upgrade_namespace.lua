-- Gives the namespace the newest schema that these commands know. Programs of an older version cannot use it from then
-- on, so nothing is done while a router of an older version lives, or was alive within `quiet_ms`.
--
-- A repeated call finds the new schema. A range whose newest schema these commands do not know stays as it is.
--
-- KEYS    meta routers events router_prefix
-- ARGV    router by quiet_ms is_dry_run
-- RETURNS upgraded|possible|current, schema before, schema now  |  early, schema, new schema, ms left
--         |  older, schema, new schema, router…  |  wrong_type …|wrong_schema …
-- WRITES  meta events
-- COST    O(routers)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua

local router, by, quiet_ms, is_dry_run = unpack(ARGV)

local refused = refusal({'routers', 'events'})
if refused then
  return refused
end
local schema = redis.call('HGET', keys.meta, 'schema') or SCHEMA
local last = string.match(schema, '%-(%d+)$')
if schema == SCHEMA or (last and tonumber(last) > tonumber(SCHEMA)) then
  return {'current', schema, SCHEMA}
end
local now_ms = server_now_ms()
local older = {}
for _, other in ipairs(redis.call('ZRANGEBYSCORE', keys.routers, whole(now_ms), '+inf')) do
  -- The first version that names its schemas is also the last that knows no other than 2.
  local schemas = redis.pcall('HGET', keys.router_prefix .. other, 'schemas')
  local oldest, newest = string.match(type(schemas) == 'string' and schemas or '2-2', '^(%d+)%-(%d+)$')
  if not oldest or not knows_schema(oldest, newest, SCHEMA) then
    older[#older + 1] = other
  end
end
local seen_ms = tonumber(redis.call('HGET', keys.meta, 'older_router_at_ms') or '')
if older[1] or not seen_ms or seen_ms > now_ms then
  seen_ms = now_ms
  if is_dry_run ~= '1' then
    redis.call('HSET', keys.meta, 'older_router_at_ms', whole(now_ms))
  end
end
if older[1] then
  return {'older', schema, SCHEMA, unpack(older)}
end
local left_ms = seen_ms + tonumber(quiet_ms) - now_ms
if left_ms > 0 then
  return {'early', schema, SCHEMA, whole(left_ms)}
end
if is_dry_run == '1' then
  return {'possible', schema, SCHEMA}
end
redis.call('HSET', keys.meta, 'schema', SCHEMA)
redis.call('HDEL', keys.meta, 'older_router_at_ms')
emit(now_ms, {'kind', 'namespace_upgraded', 'router', router, 'by', by,
  'reason', table.concat({'from schema', schema, 'to', SCHEMA}, ' ')})
return {'upgraded', schema, SCHEMA}
