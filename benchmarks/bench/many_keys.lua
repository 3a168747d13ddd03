-- Each request comes from one of many callers, drawn at random. The one argument is how many there are.
dofile("percentiles.lua")

function init(args)
  keys = tonumber(args[1])
  math.randomseed(1)
end

function request()
  wrk.headers["X-User-ID"] = "user-" .. math.random(keys)
  return wrk.format()
end
