"""The demonstration as local processes: an embedded Valkey, three applications, three sidecars, kept by supervisord."""
