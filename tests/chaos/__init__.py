"""The fault suite: three real sidecars under steady traffic while their real store is killed, stopped, filled and lied for.

`make chaos` runs each scenario at length and prints a table; tests/chaos/test_chaos.py asserts a short version of each.
"""
