-- Chooses a replica for a session that avoids or excludes some replicas.

-- include lib/placing.lua

-- Returns the urls from that argument on, each once, because a replica may be both avoided and excluded.
local function urls_from(args, first)
  local urls, seen = {}, {}
  for i = first, #args do
    if not seen[args[i]] then
      seen[args[i]] = true
      urls[#urls + 1] = args[i]
    end
  end
  return urls
end

-- Returns the url at that place among replicas with the same score, which begin at rank `first`.
-- skipped: sorted ranks that do not count.
local function at_rank(tier, first, place, skipped)
  local rank = first + place
  for _, other in ipairs(skipped) do
    if other <= rank then
      rank = rank + 1
    end
  end
  return redis.call('ZRANGE', tier, rank, rank)[1]
end

local function is_among(url, urls)
  for _, other in ipairs(urls) do
    if other == url then
      return true
    end
  end
  return false
end

-- Returns the least loaded replica of a tier that is not left out. The lease id decides between equal loads.
local function least_loaded_but(tier, lease_id, left_out)
  local best = redis.call('ZRANGE', tier, 0, #left_out, 'WITHSCORES')
  local least
  for i = 1, #best, 2 do
    if not is_among(best[i], left_out) then
      least = best[i + 1]
      break
    end
  end
  if not least then
    return nil
  end
  local first = redis.call('ZCOUNT', tier, '-inf', '(' .. least)
  local tied = redis.call('ZCOUNT', tier, least, least)
  local skipped = {}
  for _, url in ipairs(left_out) do
    local score = redis.call('ZSCORE', tier, url)
    if score and tonumber(score) == tonumber(least) then
      skipped[#skipped + 1] = redis.call('ZRANK', tier, url)
    end
  end
  table.sort(skipped)
  return at_rank(tier, first, spread(lease_id, tied - #skipped), skipped)
end

-- Does the same as `choose`, without the urls that are left out.
local function choose_but(lease_id, left_out, first, second)
  if #left_out == 0 then
    return choose(lease_id, first, second)
  end
  local session = session_of(lease_id)
  return find_right(function()
    local url = session and redis.call('GET', keys.affinity_prefix .. session)
    local tier = url and not is_among(url, left_out) and tier_of(url, first, second)
    if tier then
      return url, tier
    end
    url = least_loaded_but(first, lease_id, left_out)
    if url then
      return url, first
    end
    return least_loaded_but(second, lease_id, left_out), second
  end)
end
