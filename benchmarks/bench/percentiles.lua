-- What wrk does not print of its own accord: exact percentiles of all latencies, in microseconds. The one argument is the
-- size of a body to send, in bytes.
function init(args)
  local bytes = tonumber(args[1] or 0)
  if bytes > 0 then
    wrk.method = "POST"
    wrk.body = string.rep("x", bytes)
  end
end

done = function(_, latency, _)
  for _, percent in ipairs({50, 99, 99.9}) do
    io.write(string.format("percentile %g %d\n", percent, latency:percentile(percent)))
  end
end
