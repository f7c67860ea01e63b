"""Signing in to MCP servers by OAuth: each user for themselves, begun on one worker and ended on any."""
