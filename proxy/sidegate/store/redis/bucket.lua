-- The token bucket, decided for a whole batch of requests at one moment. The readable twin is proxy/sidegate/decision/bucket.py;
-- a property test holds the two equal. Lua 5.1 to 5.4; every number is an integer below 2^53, exact in a double.
--
--   KEYS     the distinct buckets, each a hash: tokens (whole), since (µs, when it held exactly these), rate ("n/period_us")
--   ARGV[1]  limits, flat JSON: rate, n, period_us, burst, initial, ttl_ms for each
--   ARGV[2]  requests, flat JSON: number of charges, then key, limit, cost, kind for each charge: 0 must find its cost for
--            the request to pass, 1 is a shadow, 2 a debit, which takes the tokens that are there
--   ARGV[3]  a number that ends the reply and identifies the call
--   reply    two integers a charge: whole tokens left, or -1 - tokens where they did not suffice; and for how many µs the
--            next token has been growing, or -1 where the bucket cannot be read
--
-- The clock is the store's own. After a step back of up to TOLERATED_STEP_US, a bucket waits until the clock has caught up,
-- so that a swinging clock credits no time twice; a `since` further in the future counts as now. All buckets are read
-- before any is written, so that an error (a foreign key, no memory, a replica) charges nothing. A refusal writes nothing,
-- except once for a new bucket below the cost, for one with another rate, and for one with a `since` too far in the future:
-- these would never begin to grow otherwise. Redis and Valkey write a number with 17 digits, so that integers arrive exactly.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local limits, asked = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local FIELDS = 6
local TOLERATED_STEP_US = 1000000

local tokens, since, under, changed = {}, {}, {}, {}
local unknown, stale, broken = {}, {}, {}

local function settle(key, at)
  local burst = limits[at + 4]
  under[key] = at
  local stored = redis.pcall('HMGET', KEYS[key], 'tokens', 'since', 'rate')
  if stored.err then
    broken[key] = true
    return
  end
  if not (stored[1] or stored[2] or stored[3]) then
    tokens[key], since[key], unknown[key] = limits[at + 5], now, true
    return
  end
  local held, from, rate = tonumber(stored[1]), tonumber(stored[2]), limits[at + 1]
  local n, period = limits[at + 2], limits[at + 3]
  if stored[3] ~= rate then
    local old_n, old_period = string.match(stored[3] or '', '^(%d+)/(%d+)$')
    n, period, stale[key] = tonumber(old_n), tonumber(old_period), true
  end
  -- Fields may have been written by hand: what is negative, broken or infinite (`% 1` makes it NaN) is no bucket.
  if not (held and from and n and period and n > 0 and period > 0)
    or held < 0 or from < 0 or held % 1 ~= 0 or from % 1 ~= 0 then
    broken[key] = true
    return
  end
  if from > now + TOLERATED_STEP_US then
    from, stale[key] = now, true
  end
  local moment = math.max(now, from)
  local grown, room = (moment - from) * n, burst - held
  if grown >= room * period then
    tokens[key], since[key] = burst, moment
    return
  end
  local rest = math.fmod(grown, period)
  tokens[key] = held + (grown - rest) / period
  if stored[3] ~= rate then
    rest = math.max(0, math.floor(rest / period * limits[at + 3]) - 1)
  end
  since[key] = moment - math.floor(rest / limits[at + 2])
end

local reply, cursor = {}, 1
while asked[cursor] do
  local first, last = cursor + 1, cursor + 4 * asked[cursor]
  local passes = true
  for charge = first, last, 4 do
    local key = asked[charge]
    if not tokens[key] and not broken[key] then
      settle(key, (asked[charge + 1] - 1) * FIELDS)
    end
    if asked[charge + 3] == 0 and (broken[key] or tokens[key] < asked[charge + 2]) then
      passes = false
    end
  end
  for charge = first, last, 4 do
    local key, cost = asked[charge], asked[charge + 2]
    if broken[key] then
      reply[#reply + 1] = 0
      reply[#reply + 1] = -1
    else
      local enough, debit = tokens[key] >= cost, asked[charge + 3] == 2
      if cost > 0 and (debit or (passes and enough) or stale[key] or (unknown[key] and not enough)) then
        changed[key] = true
        stale[key], unknown[key] = nil, nil
        if debit or (passes and enough) then
          tokens[key] = tokens[key] - math.min(tokens[key], cost)
        end
      end
      reply[#reply + 1] = enough and tokens[key] or -1 - tokens[key]
      reply[#reply + 1] = math.max(now, since[key]) - since[key]
    end
  end
  cursor = last + 1
end

-- A bucket charged under two limits at once (a reload) is written under the one that it was settled to.
for key in pairs(changed) do
  local at = under[key]
  redis.call('HSET', KEYS[key], 'tokens', tokens[key], 'since', since[key], 'rate', limits[at + 1])
  redis.call('PEXPIRE', KEYS[key], limits[at + 6])
end
reply[#reply + 1] = tonumber(ARGV[3])
return reply
