"""A user's servers while they are connected: shown, added, removed, switched, signed in to."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import AddServerBody, OwnBody, SwitchBody, ToolsBody, read_body
from mcp_chat.api.choice import Choice
from mcp_chat.api.errors import of_failed
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.commands import ChangeServers, Command, ShowServers, SignIn
from mcp_chat.configs import UserConfigs
from mcp_chat.dispatch import Dispatch
from mcp_chat.events import Failed, Final, ServersShown, SignInShown
from mcp_chat.exceptions import NotConnected
from mcp_chat.identity import Principal
from mcp_chat.server_changes import (
    CHANGE,
    FIELD,
    AddServer,
    RemoveServer,
    ServerChange,
    SwitchServer,
    SwitchTools,
    addressed,
)
from mcp_chat.vault import Vault

B = TypeVar("B", bound=OwnBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The endpoints and what they work with.

    Attributes:
        choice: Makes servers of what a body names.
        max_body: Bytes of a body.
    """

    identity: Identity
    dispatch: Dispatch
    configs: UserConfigs
    vault: Vault
    choice: Choice
    max_body: int

    async def list(self, request: Request) -> Response:
        """List the operator's servers, and the user's own with their states if they are connected."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        offered = self.choice.shown()
        answer: dict[str, Any] = {"servers": offered, "count": len(offered), "connected": []}
        if await self.configs.exists(user.key):
            outcome = await self.dispatch.outcome(user.key, ShowServers())
            if isinstance(outcome, Failed) and outcome.code != NotConnected.code:
                return of_failed(outcome)
            if isinstance(outcome, ServersShown):
                answer["connected"] = await self._shown(user, outcome)
        return JSONResponse(answer)

    async def add(self, request: Request) -> Response:
        """Connect to one more server; the answer comes when it is proven, or nothing has changed."""
        user, body = await self._read(request, AddServerBody)
        if not await self.configs.exists(user.key):
            raise NotConnected
        change = AddServer(server=self.choice.one(body.server(), user), most=self.choice.most)
        return await self._change(user, change, status=201)

    async def remove(self, request: Request) -> Response:
        """Close a server and forget it."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        return await self._change(user, RemoveServer(alias=request.path_params["alias"]))

    async def switch(self, request: Request) -> Response:
        """Switch a server on or off."""
        user, body = await self._read(request, SwitchBody)
        return await self._change(
            user, SwitchServer(alias=request.path_params["alias"], enabled=body.enabled)
        )

    async def tools(self, request: Request) -> Response:
        """List a server's tools, and what has changed in those that are held back."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        alias = request.path_params["alias"]
        outcome = await self.dispatch.outcome(user.key, ShowServers(alias=alias))
        if not isinstance(outcome, ServersShown):
            return _refused(outcome)
        return JSONResponse({"alias": alias, "tools": list(outcome.shown)})

    async def switch_tools(self, request: Request) -> Response:
        """Switch tools on and off, accept changed ones, and change what may be done with them."""
        user, body = await self._read(request, ToolsBody)
        alias = request.path_params["alias"]
        change = SwitchTools(alias=alias, enabled=body.enabled, accept=body.accept, policy=body.policy)
        return await self._change(user, change)

    async def sign_in(self, request: Request) -> Response:
        """Tell where the user signs in to a server; nowhere if they need not."""
        user, _ = await self._read(request, OwnBody)
        alias = request.path_params["alias"]
        outcome = await self.dispatch.outcome(user.key, SignIn(alias=alias))
        if not isinstance(outcome, SignInShown):
            return _refused(outcome)
        return JSONResponse({"alias": alias, "url": outcome.url or None})

    async def _change(self, user: Principal, change: ServerChange, *, status: int = 200) -> Response:
        sealed = self.vault.seal(CHANGE.dump_json(change).decode(), user=user.key, field=FIELD)
        outcome = await self.dispatch.outcome(user.key, ChangeServers(sealed=sealed))
        if not isinstance(outcome, ServersShown):
            return _refused(outcome)
        return JSONResponse({"connected": await self._shown(user, outcome)}, status_code=status)

    async def _shown(self, user: Principal, outcome: ServersShown) -> builtins.list[dict[str, Any]]:
        return addressed(outcome.shown, await self.configs.get(user.key))

    async def _read(self, request: Request, form: type[B]) -> tuple[Principal, B]:
        """Return who asks and what; nobody's body is not read."""
        await require_user(request, self.identity)
        body = await read_body(request, form, limit=self.max_body)
        return await require_user(request, self.identity, body.user_id), body


def _refused(outcome: Final | Command) -> Response:
    assert isinstance(outcome, Failed)
    return of_failed(outcome)
