"""An MCP server with the fixtures that the official conformance suite asks for, and the driver of that suite.

`scripts/conformance` runs the suite against this server twice, directly and through Shadowcat, and compares.
"""
