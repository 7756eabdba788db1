-- A history begins when its history id is written. The first script that finds no history id writes the caller's.
-- Its schema is the oldest that these commands can use: a program of an older version may use the namespace too, and
-- nothing shows it after a loss of all data.

-- include lib/refusal.lua

-- Also deletes events of an earlier history, because they do not lead to the state of this one.
local function begin_history(history_id)
  if redis.call('HSETNX', keys.meta, 'history_id', history_id) == 1 then
    redis.call('HSET', keys.meta, 'schema', OLDEST_SCHEMA)
    redis.call('DEL', keys.events)
  end
end
