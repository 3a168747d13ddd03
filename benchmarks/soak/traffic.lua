-- Steady mixed traffic: requests that are allowed, refused, carry a body, or meet an error of the application. Each
-- connection pauses between requests. Arguments: pause in ms. Prints how often each status came, by kind of request.
local threads = {}
function setup(thread)
  threads[#threads + 1] = thread
end

local kinds = {
  {name = "allowed", method = "GET", path = "/wide", share = 70},
  {name = "refused", method = "GET", path = "/tight", share = 15},
  {name = "body", method = "POST", path = "/wide", body = string.rep("x", 20000), share = 10},
  {name = "error", method = "GET", path = "/error", share = 5},
}

function init(args)
  pause = tonumber(args[1])
  counts = ""
  seen = {}
  math.randomseed(1)
end

function delay()
  return math.random(0, pause * 2)
end

function request()
  local draw = math.random(100)
  for _, kind in ipairs(kinds) do
    draw = draw - kind.share
    if draw <= 0 then
      local headers = {["X-User-ID"] = "user-" .. math.random(200)}
      return wrk.format(kind.method, kind.path, headers, kind.body)
    end
  end
end

function response(status)
  seen[status] = (seen[status] or 0) + 1
  counts = ""
  for each, count in pairs(seen) do
    counts = counts .. " " .. each .. "=" .. count
  end
end

function done()
  for _, thread in ipairs(threads) do
    io.write("statuses" .. thread:get("counts") .. "\n")
  end
end
