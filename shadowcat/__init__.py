"""Shadowcat: a multiprocess, high-throughput proxy for the Model Context Protocol (MCP)."""

__version__ = "0.1.0"
