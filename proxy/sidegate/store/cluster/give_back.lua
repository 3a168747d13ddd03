-- Puts tokens back that a request took from buckets of one slot, since a bucket of another slot refused it.
--
--   KEYS     the buckets
--   ARGV[1]  a moment (µs of this node's clock) before they were taken
--   ARGV[2…] for each bucket: cost, burst, rate ("n/period_us"), and of the level that it was left at: tokens, age_us
--
-- No bucket ends up with more than if the request had never come. Where nobody has charged it meanwhile, it is put back to
-- what it was. Else it might have been full meanwhile, and what grew then would have been lost: so of the cost only what
-- exceeds all growth since ARGV[1] is given back. What holds whatever else was reserved and given back: a bucket, and for
-- each reservation that stands its cost less that growth, together never have more than the bucket that nobody reserved
-- from. A bucket that is gone, full, broken or met another rate gets nothing, and none does where the clock was changed.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stood = now - tonumber(ARGV[1])
if stood < 0 then
  return 0
end
local given = 0
for number, key in ipairs(KEYS) do
  local at = 5 * number - 3
  local cost, burst, rate = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2]
  local n, period = string.match(rate, '^(%d+)/(%d+)$')
  n, period = tonumber(n), tonumber(period)
  local stored = redis.pcall('HMGET', key, 'tokens', 'since', 'rate')
  local tokens, since = not stored.err and tonumber(stored[1]), not stored.err and tonumber(stored[2])
  if tokens and since and stored[3] == rate and tokens >= 0 and tokens < burst and tokens % 1 == 0 and since % 1 == 0 then
    -- In parts of a token, `period` of which are one, as bucket.lua counts growth.
    local moment = math.max(now, since)
    local grown, room = (moment - since) * n, (burst - tokens) * period
    local back = math.min(cost * period - stood * n, room - grown)
    -- A charge after ours would have left fewer tokens, or moved `since` by what a token takes to grow.
    local youngest = now - tonumber(ARGV[at + 4])
    if stood * n < period and tokens == tonumber(ARGV[at + 3]) and since <= youngest and since >= youngest - stood then
      redis.call('HSET', key, 'tokens', string.format('%.0f', math.min(burst, tokens + cost)))
      given = given + 1
    elseif back > 0 then
      local rest = math.fmod(grown + back, period)
      redis.call('HSET', key, 'tokens', string.format('%.0f', tokens + (grown + back - rest) / period),
        'since', string.format('%.0f', moment - math.floor(rest / n)))
      given = given + 1
    end
  end
end
return given
