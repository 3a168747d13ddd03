-- Sends requests as an ingress forwards them: 12 header fields, no two heads alike. The one argument is the number of users;
-- requests take them in turn. wrk.format() would cost more than most proxies, so each head is one string.format.
dofile("percentiles.lua")

local ids = "X-Request-ID: %08x-0000-4000-8000-%012x\r\ntraceparent: 00-%032x-%016x-01\r\n"
local caller = "X-Forwarded-For: 203.0.113.%d\r\nCookie: session=%024x; theme=dark\r\nX-User-ID: user-%d\r\n\r\n"
local format, count, users, head = string.format, 0, 1, ""

function init(args)
  users = tonumber(args[1])
  head = "GET " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n"
    .. "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36\r\n"
    .. "Accept: application/json, text/plain, */*\r\nAccept-Encoding: gzip, deflate, br\r\n"
    .. "Accept-Language: en-GB,en;q=0.9\r\nX-Forwarded-Host: shop.example.com\r\nX-Forwarded-Proto: https\r\n"
    .. ids .. caller
end

function request()
  count = count + 1
  return format(head, count, count, count, count, count % 250, count, count % users)
end
