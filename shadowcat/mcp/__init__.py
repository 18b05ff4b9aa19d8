"""MCP as bytes in and decisions out: eras, the JSON-RPC envelope, mirrored headers, server-sent events."""
