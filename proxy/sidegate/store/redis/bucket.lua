-- The charges of a whole batch of requests, decided at one moment. The readable twin is proxy/sidegate/decision/charging.py;
-- a property test holds the two equal. Lua 5.1 to 5.4; every number is an integer below 2^53, exact in a double.
--
--   KEYS     the distinct buckets, each a hash: tokens (whole), since (µs, when it had exactly these), rate ("n/period_us"),
--            and held ("epoch:cost,…") where costs are held; a bucket of requests under way is a sorted set: lease, until (µs)
--   ARGV[1]  limits, flat JSON: rate, n, period_us, burst, initial, ttl_ms for each
--   ARGV[2]  requests, flat JSON: number of charges, then key, limit, cost, twice the kind (and 1 more for a shadow), and the
--            kind's details for each charge; kinds and details as in ChargeKind of decision/bucket.py
--   ARGV[3]  a number that ends the reply and identifies the call
--   ARGV[4]  '1' where the charges may be given back (cluster/give_back.lua); absent otherwise
--   reply    two integers a charge: whole tokens left; and for how many µs the next token has been growing, or -1 - that
--            where the tokens did not suffice, or UNREADABLE. HOLD and BOOK have a third: the moment of the decision. With
--            ARGV[4] then the clock (µs), and for each key the tokens given back to it so far, less the most held in this call
--
-- The clock is the store's own. After a step back of up to TOLERATED_STEP_US, a bucket waits until the clock has caught up,
-- so that a swinging clock credits no time twice; a `since` further in the future counts as now. All buckets are read
-- before any is charged, so that an error (a foreign key, no memory, a replica) charges nothing. A refusal writes nothing,
-- except once for a new bucket below the cost, for one with another rate, with a `since` too far in the future, or with holds
-- that have been taken: these would never begin to grow otherwise; and leases that have ended, or would not end. Redis and Valkey write a number with 17 digits, so that
-- integers arrive exactly.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local limits, asked = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local FIELDS = 6
local TOLERATED_STEP_US = 1000000
local HOLD_EPOCH_US, MOST_DEBT_BURSTS, LEASE_US = 120000000, 100, 10000000
local UNREADABLE = -9007199254740992
local TAKE, DEBIT, HOLD, SETTLE, BOOK, UNBOOK, PLACE, LEAVE, RENEW = 0, 1, 2, 3, 4, 5, 6, 7, 8
local DETAILS = { [SETTLE] = 2, [BOOK] = 1, [UNBOOK] = 2, [PLACE] = 1, [LEAVE] = 1, [RENEW] = 1 }

local tokens, since, under, changed = {}, {}, {}, {}
local unknown, stale, broken = {}, {}, {}
-- As stored, or as a charge of this call leaves it: tokens, since. Costs held: their sum, and by epoch.
local stored_tokens, stored_since, held, epochs, had = {}, {}, {}, {}, {}
-- The most that was held in this call, and the tokens of undone bookings: give_back.lua counts both.
local most_held, unbooked = {}, {}
-- Requests under way: places in use, leases to add, and an error that is not about one key.
local used, added, tidied, failed = {}, {}, {}, nil

local function settle(key, at)
  local burst = limits[at + 4]
  under[key] = at
  local stored = redis.pcall('HMGET', KEYS[key], 'tokens', 'since', 'rate', 'held')
  if stored.err then
    broken[key] = true
    return
  end
  if not (stored[1] or stored[2] or stored[3]) then
    tokens[key], since[key], unknown[key], held[key] = limits[at + 5], now, true, 0
    return
  end
  local left, from, rate = tonumber(stored[1]), tonumber(stored[2]), limits[at + 1]
  local n, period = limits[at + 2], limits[at + 3]
  if stored[3] ~= rate then
    local old_n, old_period = string.match(stored[3] or '', '^(%d+)/(%d+)$')
    n, period, stale[key] = tonumber(old_n), tonumber(old_period), true
  else
    stored_tokens[key], stored_since[key] = left, from
  end
  -- Fields may have been written by hand: what is broken or infinite (`% 1` makes it NaN) is no bucket.
  if not (left and from and n and period and n > 0 and period > 0)
    or from < 0 or left % 1 ~= 0 or from % 1 ~= 0 then
    broken[key] = true
    return
  end
  if from > now + TOLERATED_STEP_US then
    from, stale[key] = now, true
  end
  local moment = math.max(now, from)
  local grown, room = (moment - from) * n, burst - left
  if grown >= room * period then
    tokens[key], since[key] = burst, moment
  else
    local rest = math.fmod(grown, period)
    tokens[key] = left + (grown - rest) / period
    if stored[3] ~= rate then
      rest = math.max(0, math.floor(rest / period * limits[at + 3]) - 1)
    end
    since[key] = moment - math.floor(rest / limits[at + 2])
  end
  held[key] = 0
  if stored[4] then
    local present = math.floor(now / HOLD_EPOCH_US)
    had[key], epochs[key] = true, {}
    for epoch, cost in string.gmatch(stored[4], '(%d+):(%d+)') do
      epoch, cost = tonumber(epoch), tonumber(cost)
      if math.abs(epoch - present) <= 1 then
        held[key], epochs[key][epoch] = held[key] + cost, cost
      else
        tokens[key], stale[key] = tokens[key] - cost, true
      end
    end
  end
end

-- The result of a command on a sorted set; 0 where the key is another type.
local function on_places(...)
  local found = redis.pcall(...)
  if type(found) ~= 'table' or not found.err then
    return found
  end
  if not string.find(found.err, 'WRONGTYPE', 1, true) then
    failed = found
  end
  return 0
end

-- Drops leases that have ended, and lets those end in time that the clock, stepping back, has put further in the future.
local function tidy_places(key)
  if tidied[key] then
    return
  end
  tidied[key] = true
  on_places('ZREMRANGEBYSCORE', KEYS[key], '-inf', now)
  local ahead = on_places('ZRANGEBYSCORE', KEYS[key], now + LEASE_US + 1, '+inf')
  if type(ahead) == 'table' and #ahead > 0 then
    for _, lease in ipairs(ahead) do
      on_places('ZADD', KEYS[key], now + LEASE_US, lease)
    end
    on_places('PEXPIRE', KEYS[key], LEASE_US / 1000 + 1)
  end
end

local function count_places(key, cost)
  if cost > 0 then
    tidy_places(key)
  end
  if used[key] then
    return
  end
  local found = redis.pcall('ZCOUNT', KEYS[key], now + 1, '+inf')
  if type(found) == 'table' then
    broken[key] = true
  else
    used[key] = found
  end
end

local function suffices(charge, key, cost, kind)
  if broken[key] then
    return false
  end
  if kind == PLACE then
    return cost == 0 or used[key] < limits[(asked[charge + 1] - 1) * FIELDS + 4]
  end
  local missing = cost - tokens[key] + held[key]
  if missing <= 0 or cost == 0 then
    return true
  end
  if kind ~= BOOK then
    return false
  end
  local at = (asked[charge + 1] - 1) * FIELDS
  local age = math.max(now, since[key]) - since[key]
  return missing * limits[at + 3] / limits[at + 2] - age <= asked[charge + 4]
end

local function wrote(key)
  changed[key], stale[key], unknown[key] = true, nil, nil
  stored_tokens[key], stored_since[key] = tokens[key], since[key]
end

local function hold(key, epoch, cost)
  local costs = epochs[key] or {}
  local before = held[key]
  epochs[key], costs[epoch], held[key] = costs, (costs[epoch] or 0) + cost, before + cost
  most_held[key] = math.max(most_held[key] or 0, before, before + cost)
end

-- Writes the bucket where its tokens or holds change, or where it would never begin to grow otherwise.
local function leave_at(key, cost, left, holds_change, enough)
  if left ~= tokens[key] or holds_change or (cost > 0 and (stale[key] or (unknown[key] and not enough))) then
    tokens[key] = left
    wrote(key)
  end
end

local function charge_bucket(charge, key, cost, kind, passes, enough)
  local left, burst, holds_change = tokens[key], limits[under[key] + 4], false
  if kind == SETTLE then
    local final, epoch = asked[charge + 4], math.floor(asked[charge + 5] / HOLD_EPOCH_US)
    local taken = math.max(0, final - cost)
    if (epochs[key] and epochs[key][epoch] or 0) >= cost then
      hold(key, epoch, -cost)
      taken, holds_change = final, cost > 0
    end
    left = math.max(left - taken, math.min(left, -MOST_DEBT_BURSTS * burst))
  elseif kind == UNBOOK then
    if stored_tokens[key] == asked[charge + 4] and stored_since[key] == asked[charge + 5] then
      left = math.min(burst, left + cost)
      unbooked[key] = (unbooked[key] or 0) + cost
    end
  elseif kind == DEBIT then
    left = left - math.max(0, math.min(left - held[key], cost))
  elseif passes and enough and kind == HOLD and cost > 0 then
    hold(key, math.floor(now / HOLD_EPOCH_US), cost)
    holds_change = true
  elseif passes and enough and kind ~= HOLD then
    left = left - cost
  end
  leave_at(key, cost, left, holds_change, enough)
end

local function charge_place(charge, key, cost, kind, passes, enough)
  local lease = asked[charge + 4]
  if kind == LEAVE then
    tidy_places(key)
    local gone = on_places('ZREM', KEYS[key], lease)
    used[key] = used[key] and used[key] - gone
  elseif kind == RENEW then
    tidy_places(key)
    local new = on_places('ZADD', KEYS[key], now + LEASE_US, lease)
    on_places('PEXPIRE', KEYS[key], LEASE_US / 1000 + 1)
    used[key] = used[key] and used[key] + new
  elseif passes and enough and cost > 0 then
    local leases = added[key] or {}
    added[key] = leases
    leases[#leases + 1] = lease
    used[key] = used[key] + 1
  end
end

local reply, cursor = {}, 1
while asked[cursor] do
  local charges, first = asked[cursor], cursor + 1
  local passes, charge = true, first
  for _ = 1, charges do
    local key, code = asked[charge], asked[charge + 3]
    local kind = math.floor(code / 2)
    if kind >= PLACE then
      if kind == PLACE and not broken[key] then
        count_places(key, asked[charge + 2])
      end
    elseif not tokens[key] and not broken[key] then
      settle(key, (asked[charge + 1] - 1) * FIELDS)
    end
    if code == 2 * TAKE or code == 2 * HOLD or code == 2 * BOOK or code == 2 * PLACE then
      passes = passes and suffices(charge, key, asked[charge + 2], kind)
    end
    charge = charge + 4 + (DETAILS[kind] or 0)
  end
  charge = first
  for _ = 1, charges do
    local key, cost, kind = asked[charge], asked[charge + 2], math.floor(asked[charge + 3] / 2)
    if broken[key] then
      reply[#reply + 1] = 0
      reply[#reply + 1] = UNREADABLE
    elseif kind >= PLACE then
      local enough = kind ~= PLACE or suffices(charge, key, cost, kind)
      charge_place(charge, key, cost, kind, passes, enough)
      reply[#reply + 1] = kind == PLACE and limits[(asked[charge + 1] - 1) * FIELDS + 4] - used[key] or 0
      reply[#reply + 1] = enough and 0 or -1
    else
      local enough = suffices(charge, key, cost, kind)
      charge_bucket(charge, key, cost, kind, passes, enough)
      local age = math.max(now, since[key]) - since[key]
      reply[#reply + 1] = tokens[key] - held[key]
      reply[#reply + 1] = enough and age or -1 - age
    end
    if kind == HOLD or kind == BOOK then
      reply[#reply + 1] = now
    end
    charge = charge + 4 + (DETAILS[kind] or 0)
  end
  cursor = charge
end
if failed then
  return failed
end

-- A bucket charged under two limits at once (a reload) is written under the one that it was settled to.
for key in pairs(changed) do
  local at = under[key]
  if epochs[key] and held[key] > 0 then
    local costs = {}
    local present = math.floor(now / HOLD_EPOCH_US)
    for epoch = present - 1, present + 1 do
      if (epochs[key][epoch] or 0) > 0 then
        costs[#costs + 1] = string.format('%.0f:%.0f', epoch, epochs[key][epoch])
      end
    end
    redis.call('HSET', KEYS[key], 'tokens', tokens[key], 'since', since[key], 'rate', limits[at + 1],
      'held', table.concat(costs, ','))
  else
    redis.call('HSET', KEYS[key], 'tokens', tokens[key], 'since', since[key], 'rate', limits[at + 1])
    if had[key] then
      redis.call('HDEL', KEYS[key], 'held')
    end
  end
  if unbooked[key] then
    local returned = tonumber(redis.call('HGET', KEYS[key], 'returned')) or 0
    redis.call('HSET', KEYS[key], 'returned', returned + unbooked[key])
  end
  redis.call('PEXPIRE', KEYS[key], limits[at + 6])
end
for key, leases in pairs(added) do
  for _, lease in ipairs(leases) do
    redis.call('ZADD', KEYS[key], now + LEASE_US, lease)
  end
  redis.call('PEXPIRE', KEYS[key], LEASE_US / 1000 + 1)
end
if ARGV[4] == '1' then
  reply[#reply + 1] = now
  for key = 1, #KEYS do
    local returned = tonumber(redis.pcall('HGET', KEYS[key], 'returned')) or 0
    reply[#reply + 1] = returned - (most_held[key] or held[key] or 0)
  end
end
reply[#reply + 1] = tonumber(ARGV[3])
return reply
