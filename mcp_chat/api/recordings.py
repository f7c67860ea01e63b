"""Recordings of turns, for whoever looks what happened, or makes a test of it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from mcp_chat.api.identity import Identity, require_user
from mcp_chat.message import wellformed
from mcp_chat.papers import Papers
from mcp_chat.tapes import recording_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Recordings:
    """The endpoint of recordings.

    Attributes:
        papers: Where they are kept.
    """

    identity: Identity
    papers: Papers

    async def one(self, request: Request) -> Response:
        """Give the recording of a turn as a file for `mcp-chat replay`."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        turn_id = wellformed(request.path_params["turn_id"])
        content = await recording_of(self.papers, user.key, turn_id)
        headers = {"content-disposition": 'attachment; filename="turn.json"'}
        return Response(content, media_type="application/json", headers=headers)
