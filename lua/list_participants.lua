-- Lists the routers that can share the probing, and the present plan, for the leader. Writes nothing.
--
-- A router can take part if it is alive, its own setting is to share, and its probes have the settings of the leader's.
-- `next_expiry_ms` says in how many milliseconds the first of them expires unless it sends a heartbeat; empty if none
-- does.
--
-- KEYS    meta leader probers router_prefix plan
-- ARGV    token epoch
-- RETURNS listed, routers, next_expiry_ms, router…, field, value…  |  fenced  |  wrong_type …|wrong_schema …
-- WRITES
-- COST    O(probers + routers of the plan)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/peers.lua

local token, epoch = unpack(ARGV)

local refused = refusal({'leader', 'probers', 'plan'})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'token', 'epoch', 'router')
if holder[1] ~= token or holder[2] ~= epoch then
  return {'fenced'}
end

local leader = holder[3]
local leader_print = router_field(leader, 'probe_print')
local count, next_expiry = 0, nil
local reply = {'listed', '', ''}
for _, member in ipairs(read_probers()) do
  local print, _, router = parse_prober(member)
  if router and print == leader_print and router_field(router, 'probing') == 'shared' then
    count = count + 1
    reply[#reply + 1] = router
    local expiry = tonumber(redis.call('ZSCORE', keys.probers, member)) - server_now_ms()
    if expiry > 0 and expiry < (next_expiry or expiry + 1) then
      next_expiry = expiry
    end
  end
end
reply[2], reply[3] = whole(count), next_expiry and whole(next_expiry) or ''
for _, text in ipairs(redis.call('HGETALL', keys.plan)) do
  reply[#reply + 1] = text
end
return reply
