-- The checks that every script makes before its first write, because an error does not roll back.

-- include lib/keys.lua

local SCHEMA = '2'

-- What tells how long a key is refuses a key of another type, and costs less than TYPE, which answers with a table.
local LENGTH_OF = {hash = 'HLEN', set = 'SCARD', stream = 'XLEN', string = 'STRLEN', zset = 'ZCARD'}

-- Returns nil, or the reply for a key that holds another type than expected.
local function type_conflict(key, expected)
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'none' and found ~= expected then
    return {'wrong_type', key, found, expected}
  end
  return nil
end

-- Returns nil, or the reply for a key that holds another type than ours.
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

-- Returns nil, or the reply for a key that holds another type than expected, by what a read of it through pcall has
-- answered: that tells it too, and saves the check.
local function read_refusal(answer, key, expected)
  if type(answer) == 'table' and answer.err then
    return type_conflict(key, expected) or answer
  end
  return nil
end

-- Returns nil, or the reply for a namespace that another version wrote.
local function schema_refusal(schema)
  return schema and schema ~= SCHEMA and {'wrong_schema', schema, SCHEMA} or nil
end

-- Returns nil, or the reply that refuses: first the types, then the schema.
-- names: of keys. others: flat list of key, type, for those that are derived from a prefix.
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
