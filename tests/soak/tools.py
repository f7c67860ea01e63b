"""An MCP server whose results say whose token the call came with.

``python -m tests.soak.tools --port 8030 --place 1 --sessions 0``
"""

from __future__ import annotations

import argparse

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations

from tests.soak.canary import OPERATOR, Canary, found
from tests.soak.witness import Witness


async def note(text: str, ctx: Context) -> str:
    """Take a note."""
    token = next(iter(found((ctx.headers or {}).get("authorization", "").encode())), None)
    asked = next(iter(found(text.encode())), Canary(OPERATOR, "msg", 0))
    user = asked.user if token is None or token.user == OPERATOR else token.user
    return f"noted {Canary(user, 'res', asked.number)}"


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="tests.soak.tools")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--place", type=int, required=True)
    parser.add_argument("--sessions", type=int, default=0)
    options = parser.parse_args()
    server = MCPServer("soak", log_level="ERROR")
    server.add_tool(note, annotations=ToolAnnotations(read_only_hint=True))
    app = server.streamable_http_app(
        stateless_http=not options.sessions, json_response=not options.sessions, max_sessions=None
    )
    witness = Witness(app, "tok", options.place)
    uvicorn.run(witness, port=options.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
