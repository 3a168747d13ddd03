-- nginx's side: one script call a request, its digest known beforehand, connections kept; then headers or a 429.
local redis = require "nginx.redis"

local SCRIPT = [[
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local b = redis.call('HMGET', KEYS[1], 'tokens', 'since')
local since = tonumber(b[2]) or now
now = math.max(now, since)
local tokens = math.min(burst, (tonumber(b[1]) or burst) + (now - since) * rate / 1000000)
if tokens < 1 then
  return {-1, math.ceil((1 - tokens) / rate)}
end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens - 1), 'since', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(burst / rate * 1000) + 1000)
return {math.floor(tokens - 1), math.ceil((burst - tokens + 1) / rate)}
]]
local SHA = ngx.encode_base16 and ngx.encode_base16(ngx.sha1_bin(SCRIPT))
  or (ngx.sha1_bin(SCRIPT):gsub('.', function(c) return string.format('%02x', c:byte()) end))

local M = {}

function M.check(policy, rate, burst)
  local store = redis:new()
  store:set_timeout(1000)
  if not store:connect("127.0.0.1", ngx.var.store_port) then
    return ngx.exit(503)
  end
  local key = "nginx:" .. policy .. ":" .. (ngx.var.http_x_user_id or "anonymous")
  local reply, fault = store:evalsha(SHA, 1, key, rate, burst)
  if not reply and fault and fault:find("NOSCRIPT", 1, true) then
    reply = store:eval(SCRIPT, 1, key, rate, burst)
  end
  if not reply then
    return ngx.exit(503)
  end
  store:set_keepalive(60000, 256)

  local left, reset = reply[1], reply[2]
  local header = ngx.header
  header["RateLimit-Policy"] = '"' .. policy .. '";q=' .. burst .. ";w=" .. math.ceil(burst / rate)
  header["RateLimit"] = '"' .. policy .. '";r=' .. math.max(left, 0) .. ";t=" .. reset
  header["X-RateLimit-Limit"] = burst
  header["X-RateLimit-Remaining"] = math.max(left, 0)
  header["X-RateLimit-Reset"] = reset
  if left < 0 then
    ngx.status = 429
    header["Retry-After"] = math.max(reset, 1)
    header["Content-Type"] = "application/problem+json"
    header["Cache-Control"] = "no-store"
    ngx.print('{"title":"Too Many Requests","status":429,"error":"rate_limit_exceeded"}\n')
    return ngx.exit(429)
  end
end

return M
