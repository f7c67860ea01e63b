"""Opens and closes several connections side by side."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
from anyio.abc import TaskGroup

from mcp_chat.connections import Connection
from mcp_chat.exceptions import ChatError


async def open_all(connections: Sequence[Connection], tasks: TaskGroup) -> None:
    """Open connections side by side; if one fails, close them all.

    Raises:
        ChatError: The first failure.
    """
    failures: list[ChatError] = []

    async def open_one(connection: Connection) -> None:
        try:
            await tasks.start(connection.run)
        except ChatError as error:
            failures.append(error)

    async with anyio.create_task_group() as opening:
        for connection in connections:
            opening.start_soon(open_one, connection)
    if failures:
        await close_all(connections)
        raise failures[0]


async def close_all(connections: Sequence[Connection]) -> None:
    """Close connections side by side."""
    async with anyio.create_task_group() as closing:
        for connection in connections:
            closing.start_soon(connection.close)
