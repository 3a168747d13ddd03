-- What wrk does not print of its own accord: exact percentiles of all latencies, in microseconds.
done = function(_, latency, _)
  for _, percent in ipairs({50, 99, 99.9}) do
    io.write(string.format("percentile %g %d\n", percent, latency:percentile(percent)))
  end
end
