-- Gives back what a request took from buckets of one slot, since a bucket of another slot refused it.
--
--   KEYS     the buckets
--   ARGV[1]  when they were charged (µs of this node's clock)
--   ARGV[2…] for each bucket: cost, burst, rate ("n/period_us"), and as the charge left it: tokens that are not held, age_us,
--            and `returned` less the tokens held, as bucket.lua replies
--
-- The history is rewritten as if the request had taken less, or nothing: every level since the charge was higher by what
-- is given back now. That is the history of a bucket nobody reserved from if no such level exceeds the burst, since growth
-- above it would have been lost. The level since the charge was at most what the charge left, and all growth since, and
-- all that was given back for other requests since, which `returned` counts. Held costs are still in a bucket. So of the cost as much comes back as fits
-- between that and the burst: all of it, unless the bucket may have been nearly full meanwhile.
--
-- A bucket that is gone, broken or at another rate gets nothing, and none does where the clock was set back.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local stood = now - ARGV[1]
if stood < 0 then
  return 0
end
local given = 0
for number, key in ipairs(KEYS) do
  local at = 6 * number - 4
  local cost, burst, rate = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2]
  local n, period = string.match(rate, '^(%d+)/(%d+)$')
  n, period = tonumber(n), tonumber(period)
  local stored = redis.pcall('HMGET', key, 'tokens', 'since', 'rate', 'returned')
  local tokens, since = not stored.err and tonumber(stored[1]), not stored.err and tonumber(stored[2])
  if tokens and since and stored[3] == rate and tokens % 1 == 0 and since % 1 == 0 and since <= now then
    -- In parts of a token, `period` of which are one, as bucket.lua counts growth.
    local returned = tonumber(stored[4]) or 0
    local others = returned - ARGV[at + 5]
    local most = (ARGV[at + 3] + others) * period + (ARGV[at + 4] + stood) * n
    local back = math.min(cost * period, burst * period - most)
    if others >= 0 and back > 0 then
      if back < cost * period then
        local grown = (now - since) * n + back
        local rest = math.fmod(grown, period)
        tokens, since = tokens + (grown - rest) / period, now - math.floor(rest / n)
      else
        tokens = tokens + cost
      end
      redis.call('HSET', key, 'tokens', string.format('%.0f', math.min(burst, tokens)),
        'since', string.format('%.0f', since), 'returned', string.format('%.0f', returned + math.ceil(back / period)))
      given = given + 1
    end
  end
end
return given
