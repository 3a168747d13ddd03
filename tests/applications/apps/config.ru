# Rack on Puma behind the sidecar, as docs/applications.md sets it up.
require "json"
require "rack"

run lambda { |env|
  request = Rack::Request.new(env)
  body = if request.path == "/length"
    {bytes: request.body ? request.body.read.bytesize : 0}
  else
    {client: request.ip, scheme: request.scheme, host: request.host_with_port}
  end
  [200, {"content-type" => "application/json"}, [JSON.generate(body)]]
}
