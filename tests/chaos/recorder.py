"""An MCP server that writes every call down before it does anything else.

``python -m tests.chaos.recorder --port 8030 --journal calls.jsonl --seed 7``
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import uvicorn
from mcp.server.mcpserver import MCPServer

from tests.chaos.journal import Call, Journal, now

SLOWEST = 0.06
"""Seconds that a call takes at most."""


class Recorder:
    """The tools: `charge` has an effect and must not happen twice, `look` may be repeated.

    Args:
        journal: Where calls are noted, each start and each end.
        random: How long they take.
    """

    def __init__(self, journal: Journal, random: Random) -> None:
        self._journal = journal
        self._random = random

    def tools(self) -> list[Callable[[str], Awaitable[str]]]:
        """Return the functions that are served as tools."""

        async def charge(op: str) -> str:
            """Charge for an operation."""
            return await self._record("charge", op)

        async def look(op: str) -> str:
            """Look at an operation."""
            return await self._record("look", op)

        return [charge, look]

    async def _record(self, tool: str, op: str) -> str:
        self._journal.write(Call(tool=tool, op=op, phase="start", at=now()))
        await asyncio.sleep(self._random.uniform(0, SLOWEST))
        self._journal.write(Call(tool=tool, op=op, phase="end", at=now()))
        return f"{tool} {op}: done"


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="tests.chaos.recorder")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    server = MCPServer("recorder", log_level="ERROR")
    with Journal(options.journal, sync=True) as journal:
        for tool in Recorder(journal, Random(f"{options.seed} recorder")).tools():
            server.add_tool(tool)
        app = server.streamable_http_app(max_sessions=None)  # killed workers leave sessions behind
        uvicorn.run(app, port=options.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
