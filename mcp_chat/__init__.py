"""A chat plugin for MCP gateways with per-user isolation."""
