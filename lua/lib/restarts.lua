-- A pod that is killed and comes back under another address and with the same name, while its former life still counts:
-- what an operator said of the name is in the hash of the former life.

-- include lib/announced.lua
-- include lib/names.lua

-- Gives a name to a replica that was just registered, with the admin state that an operator gave to the replica that
-- has the name and came in the same way. From now on that one keeps no admin state for the name.
local function take_over_name(name, url, source)
  local former = name_holder(name, url)
  if not former then
    return
  end
  local former_key = keys.replica_prefix .. former
  local state = redis.call('HMGET', former_key, 'source', 'admin_by')
  if state[1] == source then
    if state[2] ~= source then
      keep_admin_of(former_key, former)
    end
    redis.call('HSET', keys.names, name, url)
  end
end
