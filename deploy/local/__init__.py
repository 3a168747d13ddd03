"""Runs the demonstration as local processes under supervisord: an embedded Valkey, applications, sidecars."""
