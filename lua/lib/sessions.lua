-- The session that a lease is for.
--
-- A lease id is random, followed by ':' and the digest of its session where one was named.

-- include lib/refusal.lua

local function session_of(id)
  return string.match(id, ':(.+)$')
end

-- Returns nil, or the reply for a session's key that holds another type than ours.
local function session_refusal(id)
  local session = session_of(id)
  return session and type_refusal({keys.affinity_prefix .. session, 'string'})
end
