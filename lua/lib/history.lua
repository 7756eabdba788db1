-- A history begins when its birth is written: the first script that finds none writes the caller's.

-- include lib/refusal.lua

-- What the feed still holds of an earlier history goes: its events do not lead to this one.
local function begin_history(birth)
  if redis.call('HSETNX', keys.meta, 'birth', birth) == 1 then
    redis.call('HSET', keys.meta, 'schema', SCHEMA)
    redis.call('DEL', keys.events)
  end
end
