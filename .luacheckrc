-- What `make check` asks of the Lua commands; see tests/tools/lua_lint.py. A command finds in Redis no more than this:
-- what every supported server gives to a script, without what would make its effects differ from run to run.
std = {
  read_globals = {
    'ARGV', 'KEYS', 'error', 'ipairs', 'pairs', 'tonumber', 'tostring', 'type', 'unpack',
    math = {fields = {'floor', 'huge', 'max', 'min'}},
    redis = {fields = {'call', 'pcall'}},
    string = {fields = {'byte', 'find', 'format', 'gmatch', 'gsub', 'len', 'lower', 'match', 'rep', 'sub', 'upper'}},
    table = {fields = {'concat', 'insert', 'remove', 'sort'}},
  },
}
max_line_length = 120
max_cyclomatic_complexity = false
