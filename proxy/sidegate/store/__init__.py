"""How sidecars share buckets: one script on one Redis or Valkey, asked once per turn of the event loop."""
