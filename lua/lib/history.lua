-- A history begins when its history id is written: the first script that finds none writes the caller's.

-- include lib/refusal.lua

-- What the event stream still holds of an earlier history goes: its events do not lead to this one.
local function begin_history(history_id)
  if redis.call('HSETNX', keys.meta, 'history_id', history_id) == 1 then
    redis.call('HSET', keys.meta, 'schema', SCHEMA)
    redis.call('DEL', keys.events)
  end
end
