-- The checks that every script makes before its first write, because an error does not roll back.

local SCHEMA = '1'

-- Returns nil, or the reply for a key that holds another type than ours.
-- expected: flat list of key, type.
local function type_refusal(expected)
  for i = 1, #expected, 2 do
    local found = redis.call('TYPE', expected[i])['ok']
    if found ~= 'none' and found ~= expected[i + 1] then
      return {'wrong_type', expected[i], found, expected[i + 1]}
    end
  end
  return nil
end

-- Returns nil, or the reply for a namespace that another schema wrote.
local function schema_refusal(meta)
  local schema = redis.call('HGET', meta, 'schema')
  if schema and schema ~= SCHEMA then
    return {'wrong_schema', schema, SCHEMA}
  end
  return nil
end

-- Returns nil, or the reply that refuses: first the types, then the schema.
local function refusal(meta, expected)
  return type_refusal({meta, 'hash'}) or type_refusal(expected) or schema_refusal(meta)
end
