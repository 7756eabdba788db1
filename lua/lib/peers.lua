-- The routers that can probe. `probers` has one member for each, "<probe print> <machine> <router key>"; its score is
-- the time at which the router expires.

-- include lib/keys.lua
-- include lib/values.lua

local ASKED_AT_ONCE = 3

-- Returns the three parts of a member.
local function parse_prober(member)
  return string.match(member, '^(%S+) (%S+) (%S+)$')
end

local function make_prober(probe_print, machine, router)
  return table.concat({probe_print, machine, router}, ' ')
end

-- Returns a field of a router's record; false if it is absent, or the record is damaged.
local function router_field(router, name)
  local text = redis.pcall('HGET', keys.router_prefix .. router, name)
  return type(text) == 'string' and text
end

-- Takes a router out of the list.
local function strike_prober(router)
  local own = {router_field(router, 'probe_print'), router_field(router, 'machine')}
  if own[1] and own[2] and redis.call('ZREM', keys.probers, make_prober(own[1], own[2], router)) == 1 then
    redis.call('HINCRBY', keys.meta, 'probers_version', 1)
  end
end

local live_probers

-- Returns whether no router has sent a heartbeat for so long that all may have been cut off from Redis, or whether that
-- was so within the last expiry. As long as it is, nobody counts as dead, and silence says nothing.
local function is_in_outage(now_ms)
  local span = redis.call('HMGET', keys.meta, 'reap_after_ms', 'reap_until_ms')
  local after, till = tonumber(span[1] or ''), tonumber(span[2] or '')
  return not after or not till or now_ms < after or now_ms > till
end

-- Returns the members that count as alive. Reads them once per script.
local function read_probers()
  if not live_probers then
    local least = is_in_outage(server_now_ms()) and '-inf' or '(' .. whole(server_now_ms())
    live_probers = redis.call('ZRANGEBYSCORE', keys.probers, least, '+inf')
  end
  return live_probers
end

-- Returns whether a router is among the probers that count as alive.
local function is_probing(router)
  for _, member in ipairs(read_probers()) do
    local _, _, key = parse_prober(member)
    if key == router then
      return true
    end
  end
  return false
end

local peers_by_router = {}

-- Returns the keys of the routers that could answer the same question as this one: those on other machines, and those
-- on its own machine. Only routers whose probes have the same settings are peers. For a router without settings of
-- probes, which only reports what its sessions experience, every router that probes is a peer.
local function peers_of(router)
  local known = peers_by_router[router]
  if known then
    return known[1], known[2]
  end
  local own = {router_field(router, 'probe_print'), router_field(router, 'machine')}
  local elsewhere, here = {}, {}
  for _, member in ipairs(read_probers()) do
    local print, machine, key = parse_prober(member)
    if key and key ~= router and (not own[1] or own[1] == '' or own[1] == print) then
      local list = machine == own[2] and here or elsewhere
      list[#list + 1] = key
    end
  end
  table.sort(elsewhere)
  table.sort(here)
  peers_by_router[router] = {elsewhere, here}
  return elsewhere, here
end

local function has_peers(router)
  local elsewhere, here = peers_of(router)
  return #elsewhere + #here > 0
end

-- Returns up to three peers to be asked about a replica. Other machines come first, since routers of one machine share
-- its network; among them the router `first`, if it is one. The hash of the seed spreads the questions about many
-- replicas over all peers.
local function peers_to_ask(router, seed, first)
  local elsewhere, here = peers_of(router)
  local start = hash_of(seed)
  local asked = {}
  for _, list in ipairs({elsewhere, here}) do
    local ordered = {}
    for i = 0, #list - 1 do
      local peer = list[(start + i) % #list + 1]
      table.insert(ordered, peer == first and 1 or #ordered + 1, peer)
    end
    for i = 1, math.min(#ordered, ASKED_AT_ONCE - #asked) do
      asked[#asked + 1] = ordered[i]
    end
  end
  return asked
end
