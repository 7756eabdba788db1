-- Compares revisions, which are stream ids: a time in milliseconds and a number within it. A malformed one is earliest.

local function is_later(revision, other)
  local ms, sequence = string.match(revision, '^(%d+)-(%d+)$')
  local other_ms, other_sequence = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms or '0'), tonumber(other_ms or '0')
  if ms ~= other_ms then
    return ms > other_ms
  end
  return tonumber(sequence or '0') > tonumber(other_sequence or '0')
end
