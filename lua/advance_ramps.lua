-- Updates the ready scores of replicas that ramp up. The leader calls this at intervals, because the scores depend on
-- time. The call also stores the ramp length for replicas that turn healthy from now on; 0 means no ramp.
--
-- When a ramp is over, its field is deleted from the replica's hash, and the replica gets its plain score. A replica
-- that does not ramp or does not exist is skipped.
--
-- KEYS    meta leader ready_primary ready_secondary full spare_primary spare_secondary spare_answered replica_prefix
-- ARGV    token epoch slow_start_ms … (url)
-- RETURNS advanced, urls that ramp on  |  fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta ready_primary ready_secondary full spare_primary spare_secondary spare_answered replica_prefix
-- COST    O(urls * log replicas)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/ready.lua

local FIRST_URL = 4

local token, epoch, slow_start_ms = unpack(ARGV, 1, 3)

local refused = refusal({
  'leader', 'ready_primary', 'ready_secondary', 'full', 'spare_primary', 'spare_secondary', 'spare_answered',
})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'token', 'epoch')
if holder[1] ~= token or holder[2] ~= epoch then
  return {'fenced'}
end

if slow_start_ms == '0' then
  redis.call('HDEL', keys.meta, 'slow_start_ms')
else
  redis.call('HSET', keys.meta, 'slow_start_ms', slow_start_ms)
end
local reply = {'advanced'}
for i = FIRST_URL, #ARGV do
  local url = ARGV[i]
  local replica = keys.replica_prefix .. url
  local state = redis.pcall('HMGET', replica, unpack(STATE_FIELDS))
  if state[SLOW_START_MS] then  -- an error has none
    if ramp_share(state) then
      reply[#reply + 1] = url
    else
      redis.call('HDEL', replica, 'slow_start_ms')
    end
    put_in_set(url, state)
  end
end
return reply
