-- Stores how the leader has divided the probing among routers, and appends an event. Without shares it removes the
-- plan: the leader probes all replicas again. See lib/plan.lua.
--
-- Repeating it is safe: a plan that is the present one, of this term, is not written again.
--
-- KEYS    meta leader plan events
-- ARGV    token epoch … (router buckets)
-- RETURNS written|unchanged|fenced  |  wrong_type …|wrong_schema …
-- WRITES  meta plan events
-- COST    O(routers of the plan)

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/events.lua

local FIRST_SHARE = 3
local SHARE_WIDTH = 2

local token, epoch = unpack(ARGV, 1, 2)

local refused = refusal({'leader', 'plan', 'events'})
if refused then
  return refused
end
local holder = redis.call('HMGET', keys.leader, 'token', 'epoch', 'router')
if holder[1] ~= token or holder[2] ~= epoch then
  return {'fenced'}
end

local known = {}
local fields = redis.call('HGETALL', keys.plan)
for i = 1, #fields, 2 do
  known[fields[i]] = fields[i + 1]
end

local now_ms = server_now_ms()
local number = whole(math.max((tonumber(known.number or '') or 0) + 1, now_ms))
local plan = {'number', number, 'epoch', epoch, 'router', holder[3], 'written_at_ms', whole(now_ms)}
local lines, is_new, in_use = {}, known.epoch ~= epoch, {}

local function put(name, value)
  if value then
    plan[#plan + 1] = name
    plan[#plan + 1] = value
  end
end

for i = FIRST_SHARE, #ARGV, SHARE_WIDTH do
  local router, buckets = ARGV[i], ARGV[i + 1]
  put('share:' .. router, buckets)
  is_new = is_new or known['share:' .. router] ~= buckets
  lines[#lines + 1] = table.concat({router, buckets}, ' ')
  in_use[router] = true
end
put('former_number', known.number)
for name, value in pairs(known) do
  local router = string.match(name, '^share:(.+)$')
  if router then
    is_new = is_new or not in_use[router]
    put('former:' .. router, value)
    in_use[router] = true
  end
end
for router in pairs(in_use) do
  put('batch:' .. router, known['batch:' .. router])
  put('batch_done:' .. router, known['batch_done:' .. router])
end

if #lines == 0 then
  if not known.number then
    return {'unchanged'}
  end
  redis.call('DEL', keys.plan)
elseif is_new then
  redis.call('DEL', keys.plan)
  redis.call('HSET', keys.plan, unpack(plan))
else
  return {'unchanged'}
end
emit(now_ms, {'kind', 'plan_changed', 'router', holder[3], 'plan', number, 'shares', table.concat(lines, '\n')})
return {'written'}
