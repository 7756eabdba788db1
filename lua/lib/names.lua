-- A name is for one replica, so that a command that names it means one. `names` has the url of each name.
--
-- An entry counts only while the hash that it leads to has the name: a removal leaves the entry, and so does a program
-- of an earlier version that changes a name. `names_cursor` of meta says how far the names have been entered that
-- replicas had before there was `names`; it is `done` once all have.

-- include lib/keys.lua
-- include lib/values.lua

local NAMES_AT_ONCE = 500

local function has_name(url, name)
  local state = redis.pcall('HMGET', keys.replica_prefix .. url, 'name', 'admin')
  return state[1] == name and state[2] and state[2] ~= 'removed'
end

-- Returns the url of another registered replica that has the name, or nil.
local function name_holder(name, url)
  local holder = redis.call('HGET', keys.names, name)
  if not holder or holder == url or not has_name(holder, name) then
    return nil
  end
  return holder
end

-- Enters the name of a replica, unless it is empty or another replica has it. Returns whether anything was written.
local function claim_name(name, url)
  if not name or name == '' or redis.call('HGET', keys.names, name) == url or name_holder(name, url) then
    return false
  end
  redis.call('HSET', keys.names, name, url)
  return true
end

-- Enters some names of replicas that were registered before there was `names`. Returns whether all are entered.
local function enter_names()
  local cursor = redis.call('HGET', keys.meta, 'names_cursor') or '0'
  if cursor == 'done' then
    return true
  end
  local after, page = unpack(redis.call('ZSCAN', keys.replicas, cursor, 'COUNT', NAMES_AT_ONCE))
  for i = 1, #page, 2 do
    local url = page[i]
    local name = redis.pcall('HGET', keys.replica_prefix .. url, 'name')
    if type(name) == 'string' then
      claim_name(name, url)
    end
  end
  redis.call('HSET', keys.meta, 'names_cursor', after == '0' and 'done' or after)
  return after == '0'
end
