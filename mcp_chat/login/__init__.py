"""The ways to prove who asks, one module for each mode of ``MCP_CHAT_AUTH``."""
