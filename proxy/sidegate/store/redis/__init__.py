"""One Redis or Valkey server: connecting, batching, the Lua scripts, inspecting buckets."""
