"""An open-loop load generator for MCP servers, behind `shadowcat bench` and the rig."""
