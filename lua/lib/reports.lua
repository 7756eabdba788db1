-- A batch of a prober's results: what the scripts have in common that differ in who may report.

-- include lib/keys.lua
-- include lib/refusal.lua
-- include lib/verdicts.lua
-- include lib/queue.lua

local RESULT_WIDTH = 6

-- Returns the results in the arguments from this one on; see apply_probe in lib/verdicts.lua for their fields.
local function parse_results(first)
  local results = {}
  for i = first, #ARGV, RESULT_WIDTH do
    results[#results + 1] = {
      url = ARGV[i], incarnation = ARGV[i + 1], outcome = ARGV[i + 2], latency = ARGV[i + 3], reason = ARGV[i + 4],
      address = ARGV[i + 5],
    }
  end
  return results
end

-- Applies results of a router, and completes the reply: how many were handled, how many of these were dropped, events.
-- is_covered: returns whether the router may report on a url. Other results are dropped, and those for replicas whose
-- key is damaged.
-- store_done: called with the number of results that were handled.
local function apply_results(results, router, limits, is_covered, store_done, reply)
  local now_ms = server_now_ms()
  local done, dropped = 0, 0
  for _, result in ipairs(results) do
    local is_there = nil
    local replica = keys.replica_prefix .. result.url
    if is_covered(result.url) then
      is_there = apply_probe(replica, result, limits, now_ms, {router = router, is_regular = true}, reply)
    end
    done = done + 1
    dropped = dropped + (is_there and 0 or 1)
    if is_enough(reply) then
      break
    end
  end
  store_done(whole(done))
  emit_findings(router, now_ms, reply)
  serve_queue(now_ms)
  reply[2], reply[3] = whole(done), whole(dropped)
end
