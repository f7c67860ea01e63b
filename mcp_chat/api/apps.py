"""The apps of a user's tools: what they are, and what they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import AppCallBody, AppResourceBody, read_body
from mcp_chat.api.errors import of_failed
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.api.sandbox import KINDS
from mcp_chat.apps import VIEW, Domains, View
from mcp_chat.commands import Consult
from mcp_chat.config import ServerConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.consult import AppAsk, CallForApp, ReadApp, ReadForApp
from mcp_chat.dispatch import Dispatch
from mcp_chat.events import Consulted, Failed
from mcp_chat.exceptions import NotFound
from mcp_chat.papers import Papers


@dataclass(frozen=True, slots=True, kw_only=True)
class Apps:
    """The endpoints of apps.

    Attributes:
        servers: The operator's servers by name: they alone may have apps.
        origin: Where apps are shown; empty if nowhere.
        max_body: Bytes of a body.
    """

    identity: Identity
    dispatch: Dispatch
    configs: UserConfigs
    papers: Papers
    servers: Mapping[str, ServerConfig]
    origin: str
    max_body: int

    async def view(self, request: Request) -> Response:
        """Give a tool's app, and the address of the page that it is to be shown in."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        tool = request.query_params.get("tool", "")
        await self._alias(user.key, tool)
        kept = await self.papers.get(user.key, "app", tool)
        if kept is None:
            answer = await self._ask(user.key, tool, ReadApp(tool=tool))
            kept = await self.papers.get(user.key, "app", tool)
            if kept is None:
                return answer
        view = VIEW.validate_json(kept.text)
        return JSONResponse({"html": view.html, "src": self._src(view), "border": view.border})

    async def call(self, request: Request) -> Response:
        """Call a tool for an app of the same server."""
        await require_user(request, self.identity)
        body = await read_body(request, AppCallBody, limit=self.max_body)
        user = await require_user(request, self.identity, body.user_id)
        ask = CallForApp(tool=body.tool, name=body.name, arguments=body.arguments)
        return await self._ask(user.key, body.tool, ask)

    async def read(self, request: Request) -> Response:
        """Read a resource for an app of the same server."""
        await require_user(request, self.identity)
        body = await read_body(request, AppResourceBody, limit=self.max_body)
        user = await require_user(request, self.identity, body.user_id)
        return await self._ask(user.key, body.tool, ReadForApp(tool=body.tool, uri=body.uri))

    async def _ask(self, user: str, tool: str, ask: AppAsk) -> Response:
        alias = await self._alias(user, tool)
        outcome = await self.dispatch.outcome(user, Consult(alias=alias, ask=ask))
        if isinstance(outcome, Failed):
            return of_failed(outcome)
        assert isinstance(outcome, Consulted)
        return JSONResponse(dict(outcome.result))

    async def _alias(self, user: str, tool: str) -> str:
        """Return the server of a tool, if that may have apps.

        Raises:
            NotFound: It is not one of the user's, or may not.
        """
        alias = tool.partition("__")[0]
        if alias not in await self._aliases(user):
            raise NotFound("This tool has no app that may be shown.")
        return alias

    async def _aliases(self, user: str) -> list[str]:
        """Return the user's servers that may have apps."""
        config = await self.configs.get(user) if self.origin else None
        chosen = [server.alias for server in config.servers if server.operator] if config else []
        return [alias for alias in chosen if alias in self.servers and self.servers[alias].apps]

    def _src(self, view: View) -> str:
        return f"{self.origin}/sandbox?{urlencode(_parameters(view.domains), doseq=True)}"


def _parameters(domains: Domains) -> dict[str, Any]:
    return {kind: getattr(domains, kind) for kind in KINDS}
