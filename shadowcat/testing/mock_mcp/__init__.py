"""A real MCP server for tests, the demo and the load rig, with request capture and fault switches.

It needs the packages of the `mock` extra; `options` and `client` do not.
"""
