-- The checks that every script makes before its first write, because Redis does not roll back a script that fails.

-- include lib/schema.lua
-- include lib/keys.lua

-- For each type, the command that returns a key's length. It fails for a key of another type, and it costs less than
-- TYPE, which replies with a table.
local LENGTH_OF = {hash = 'HLEN', set = 'SCARD', stream = 'XLEN', string = 'STRLEN', zset = 'ZCARD'}

-- Returns nil, or the reply for a key that holds another type than expected.
local function type_conflict(key, expected)
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'none' and found ~= expected then
    return {'wrong_type', key, found, expected}
  end
  return nil
end

-- Returns nil, or the reply for the first key that has another type than expected.
-- expected: flat list of key, type.
local function type_refusal(expected)
  for i = 1, #expected, 2 do
    local key, wanted = expected[i], expected[i + 1]
    local conflict = type(redis.pcall(LENGTH_OF[wanted], key)) == 'table' and type_conflict(key, wanted)
    if conflict then
      return conflict
    end
  end
  return nil
end

-- Returns nil, or the reply for a key that has another type than expected. It uses the reply of a read through pcall,
-- which shows a wrong type too, so that no separate check is needed.
local function read_refusal(answer, key, expected)
  if type(answer) == 'table' and answer.err then
    return type_conflict(key, expected) or answer
  end
  return nil
end

-- Returns nil, or the reply for a namespace of a schema that these commands cannot use.
local function schema_refusal(schema)
  return schema and not can_use(schema) and {'wrong_schema', schema} or nil
end

-- Returns nil, or the reply that refuses. The types are checked first, then the schema.
-- names: names in `keys`. others: flat list of key, type, for keys that are derived from a prefix.
local function refusal(names, others)
  local schema = redis.pcall('HGET', keys.meta, 'schema')
  if type(schema) == 'table' then
    return type_conflict(keys.meta, 'hash') or schema
  end
  local expected = others or {}
  for _, name in ipairs(names) do
    expected[#expected + 1] = keys[name]
    expected[#expected + 1] = TYPES[name]
  end
  return type_refusal(expected) or schema_refusal(schema)
end
