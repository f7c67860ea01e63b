"""A server's tools as it lists them, page by page, and how much of that is taken."""

from __future__ import annotations

from functools import partial

from anyio import to_thread
from mcp import Client
from pydantic import ValidationError

from mcp_chat.exceptions import InvalidRequest, ServerUnavailable
from mcp_chat.limits import ServerLimits
from mcp_chat.tools import Listed, listed


class ToolsUnreadable(ServerUnavailable):
    """The server's list of tools could not be read."""


class TooManyTools(InvalidRequest):
    """The server lists more tools than are possible here. Connect to one with fewer."""

    code = "too_many_tools"


async def list_tools(client: Client, limits: ServerLimits) -> list[Listed]:
    """Return a server's tools, or some more than are possible: a server may list without end.

    Raises:
        ToolsUnreadable: One of them is not as the protocol wants it; the SDK then gives none.
    """
    found: list[Listed] = []
    cursors: set[str | None] = set()
    cursor: str | None = None
    spent, most = 0, limits.tools_bytes
    if client.server_capabilities.tools is None:
        return found
    while cursor not in cursors and max(len(cursors), len(found)) <= limits.tools and spent <= most:
        cursors.add(cursor)
        try:
            page = await client.list_tools(cursor=cursor)
        except ValidationError as error:
            raise ToolsUnreadable from error
        found += await to_thread.run_sync(partial(listed, page.tools, limits, before=spent))
        spent = sum(each.size for each in found)
        cursor = page.next_cursor or None
    return found


async def all_tools(client: Client, limits: ServerLimits, alias: str) -> list[Listed]:
    """Return a server's tools.

    Raises:
        ToolsUnreadable: One of them is not as the protocol wants it.
        TooManyTools: There are more than are possible.
    """
    found = await list_tools(client, limits)
    if len(found) > limits.tools:
        raise TooManyTools(
            f"The server {alias} lists more than {limits.tools} tools. Connect to one with fewer."
        )
    return found
