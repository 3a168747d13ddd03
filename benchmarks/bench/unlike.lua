-- Each request has a head of its own, as those that are traced do.
dofile("percentiles.lua")

local count = 0

function request()
  count = count + 1
  wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", count, count)
  return wrk.format()
end
