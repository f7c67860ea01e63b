"""A plugin's server without the framework, for tests: it lets everything through."""

from __future__ import annotations

import json
from typing import Any

from mcp.server.mcpserver import MCPServer

HOOK = "tool_pre_invoke"


def listening(asked: list[str]) -> MCPServer:
    """Return a server that takes down at which hooks it is asked."""
    server = MCPServer("far")

    @server.tool()
    def get_plugin_config(name: str) -> str:
        return json.dumps({"name": name, "kind": "far.Plugin", "hooks": [HOOK], "version": "7"})

    @server.tool()
    def invoke_hook(hook_type: str, plugin_name: str, payload: Any, context: Any) -> str:
        asked.append(hook_type)
        return json.dumps({"plugin_name": plugin_name, "result": {"continue_processing": True}})

    return server
