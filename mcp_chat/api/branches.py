"""The branches of a conversation: listed, and switched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import OwnBody, read_body
from mcp_chat.api.errors import of_failed
from mcp_chat.api.identity import require_user
from mcp_chat.api.sessions import Sessions, id_in, time_of
from mcp_chat.branch import Branch
from mcp_chat.commands import SwitchBranch
from mcp_chat.events import Failed
from mcp_chat.exceptions import NotFound, TurnRunning

UNKNOWN = "This conversation has no such branch."


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """The endpoints and what they work with.

    Attributes:
        max_body: Bytes of a body.
    """

    sessions: Sessions
    max_body: int

    async def list(self, request: Request) -> Response:
        """List the messages behind which a conversation has gone several ways, and these ways."""
        user, archive = await self.sessions.user(request)
        session = await self.sessions.session(archive, user, request)
        found = await self.sessions.record.branches(user.key, session.id)
        forks: dict[str, list[dict[str, Any]]] = {}
        for branch in found:
            forks.setdefault(branch.fork, []).append(_shown(branch))
        listed = [{"after": fork or None, "branches": branches} for fork, branches in forks.items()]
        return JSONResponse({"session_id": session.id, "forks": listed, "count": len(listed)})

    async def switch(self, request: Request) -> Response:
        """Show another branch; what is shown now stays as one."""
        identity = self.sessions.identity
        await require_user(request, identity, request.query_params.get("user_id"))
        body = await read_body(request, OwnBody, limit=self.max_body)
        user, archive = await self.sessions.user(request, body.user_id)
        branch_id = id_in(request, "branch_id", UNKNOWN)
        session = await self.sessions.session(archive, user, request)
        if not await archive.holds(user.key, session.id, branch_id):
            raise NotFound(UNKNOWN)
        if await self.sessions.dispatch.running(user.key, session.id):
            raise TurnRunning
        command = SwitchBranch(session_id=session.id, message_id=branch_id)
        outcome = await self.sessions.dispatch.outcome(user.key, command)
        if isinstance(outcome, Failed):
            return of_failed(outcome)
        return JSONResponse({"status": "switched", "session_id": session.id, "branch_id": branch_id})


def _shown(branch: Branch) -> dict[str, Any]:
    return {
        "id": branch.id,
        "words": branch.words,
        "created_at": time_of(branch.created_at),
        "messages": branch.messages,
        "current": branch.current,
    }
