-- The session of a lease.
--
-- A lease id is random. If the session was named, ':' and the digest of the session's name follow.

-- include lib/refusal.lua

local function session_of(id)
  return string.match(id, ':(.+)$')
end

-- Returns nil, or the reply for a key of a session's affinity that has another type than the registry's.
local function session_refusal(id)
  local session = session_of(id)
  return session and type_refusal({
    keys.affinity_prefix .. session, 'string', keys.several_prefix .. session, 'hash',
  })
end
