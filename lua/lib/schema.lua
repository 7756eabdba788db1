-- The versions of the data format. A program of one version writes a namespace of any schema from OLDEST_SCHEMA to
-- SCHEMA in the form of that schema, so that programs of different versions run side by side during a roll-out.
--
-- `schema` of `meta` is the schema of the data. It may also be a range, `oldest-newest`: the data have the form of the
-- newest, and programs that know any schema of the range may use them.

local SCHEMA = '2'
local OLDEST_SCHEMA = '2'

-- Returns whether programs that know the schemas from `oldest` to `newest` may use data of this schema.
local function knows_schema(oldest, newest, schema)
  local first, last = string.match(schema, '^(%d+)%-?(%d*)$')
  if not first then
    return false
  end
  return tonumber(first) <= tonumber(newest) and tonumber(oldest) <= tonumber(last == '' and first or last)
end

local function can_use(schema)
  return schema == SCHEMA or knows_schema(OLDEST_SCHEMA, SCHEMA, schema)
end
