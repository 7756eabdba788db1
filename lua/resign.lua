-- Ends the lease of the leader that holds this token. The event informs the other routers that they may campaign.
--
-- A leader that is wrong about replicas resigns with a handicap, during which others campaign first. If every other
-- router that probes has one too, or there is none, the leader is needed and stays.
--
-- KEYS    meta leader router_prefix probers events
-- ARGV    token reason handicap_ms
-- RETURNS resigned|lost|needed  |  wrong_type …|wrong_schema …
-- WRITES  meta leader router_prefix events
-- COST    O(probers)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua
-- include lib/peers.lua

local token, reason, handicap_ms = unpack(ARGV)

local refused = refusal({'leader', 'probers', 'events'})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'token', 'router')
local router = holder[2]
if holder[1] ~= token then
  return {'lost'}
end

local now_ms = server_now_ms()

local function is_replaceable()
  for _, member in ipairs(read_probers()) do
    local _, _, other = parse_prober(member)
    if other and other ~= router then
      local until_ms = tonumber(router_field(other, 'handicap_until_ms') or '')
      if not until_ms or until_ms <= now_ms then
        return true
      end
    end
  end
  return false
end

if handicap_ms ~= '0' and not is_replaceable() then
  return {'needed'}
end
redis.call('DEL', keys.leader)
if handicap_ms ~= '0' and router_field(router, 'expiry_ms') then
  redis.call('HSET', keys.router_prefix .. router, 'handicap_until_ms', whole(now_ms + tonumber(handicap_ms)))
end
local event = {'kind', 'leader_resigned', 'router', router}
if reason ~= '' then
  event[#event + 1] = 'reason'
  event[#event + 1] = reason
end
emit(now_ms, event)
return {'resigned'}
