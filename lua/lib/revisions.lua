-- Compares revisions, which are stream ids: a time in milliseconds and a number within it.

local function is_later(revision, other)
  local ms, sequence = string.match(revision, '^(%d+)-(%d+)$')
  local other_ms, other_sequence = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  if ms ~= other_ms then
    return ms > other_ms
  end
  return tonumber(sequence) > tonumber(other_sequence)
end
