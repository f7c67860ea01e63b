"""`python -m mcp_chat` is `mcp-chat`."""

from mcp_chat.cli import main

main()
