-- Puts tokens back that a request took from buckets of one slot, since a bucket of another slot refused it.
--
--   KEYS     the buckets
--   ARGV[1]  a moment (µs of this node's clock) before they were taken
--   ARGV[2…] for each bucket: cost, burst, rate ("n/period_us")
--
-- No bucket ends up with more than if the request had never come. It might have been full meanwhile, and what grew then
-- would have been lost: so what grew since ARGV[1] is taken off (`since` moves forward, into the future if need be). A
-- bucket that is gone, broken or met another rate meanwhile gets nothing, and none does where the clock was changed.

local time = redis.call('TIME')
local stood = time[1] * 1000000 + time[2] - tonumber(ARGV[1])
if stood < 0 then
  return 0
end
local given = 0
for number, key in ipairs(KEYS) do
  local at = 3 * number - 1
  local cost, burst = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local stored = redis.pcall('HMGET', key, 'tokens', 'since', 'rate')
  local tokens, since = not stored.err and tonumber(stored[1]), not stored.err and tonumber(stored[2])
  if tokens and since and stored[3] == ARGV[at + 2] and tokens >= 0 and tokens < burst and tokens % 1 == 0 then
    redis.call('HSET', key, 'tokens', string.format('%.0f', math.min(burst, tokens + cost)),
      'since', string.format('%.0f', since + stood))
    given = given + 1
  end
end
return given
