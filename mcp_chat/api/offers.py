"""What the user's servers offer besides tools: prompts, resources, completions, and news of changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import CompleteBody, OwnBody, PromptOfBody, UriBody, read_body
from mcp_chat.api.errors import of_failed
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.commands import Consult
from mcp_chat.configs import UserConfigs
from mcp_chat.consult import (
    Ask,
    Complete,
    GetPrompt,
    ListPrompts,
    ListResources,
    ListTemplates,
    ReadResource,
    Subscribe,
    Unsubscribe,
)
from mcp_chat.dispatch import Dispatch
from mcp_chat.events import Consulted, Failed
from mcp_chat.exceptions import InvalidRequest, NotConnected, NotFound
from mcp_chat.identity import Principal
from mcp_chat.offers import LONGEST, fits

B = TypeVar("B", bound=OwnBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """The endpoints and what they work with.

    Attributes:
        max_body: Bytes of a body.
    """

    identity: Identity
    dispatch: Dispatch
    configs: UserConfigs
    max_body: int

    async def prompts(self, request: Request) -> Response:
        """List a server's prompts."""
        return await self._list(request, ListPrompts())

    async def resources(self, request: Request) -> Response:
        """List a server's resources."""
        return await self._list(request, ListResources())

    async def templates(self, request: Request) -> Response:
        """List a server's templates of resources."""
        return await self._list(request, ListTemplates())

    async def prompt(self, request: Request) -> Response:
        """Show what a prompt says."""
        user, body = await self._read(request, PromptOfBody)
        return await self._ask(request, user, GetPrompt(name=body.name, arguments=body.arguments))

    async def complete(self, request: Request) -> Response:
        """Say how an argument could go on."""
        user, body = await self._read(request, CompleteBody)
        ask = Complete(
            kind="prompt" if body.prompt is not None else "template",
            ref=body.prompt if body.prompt is not None else body.template or "",
            argument=body.argument,
            value=body.value,
            context=body.context,
        )
        return await self._ask(request, user, ask)

    async def read(self, request: Request) -> Response:
        """Show what is in a resource."""
        user, body = await self._read(request, UriBody)
        return await self._ask(request, user, ReadResource(uri=body.uri))

    async def subscribe(self, request: Request) -> Response:
        """Tell of a resource's changes from now on."""
        user, body = await self._read(request, UriBody)
        return await self._ask(request, user, Subscribe(uri=body.uri))

    async def unsubscribe(self, request: Request) -> Response:
        """Tell of them no more."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        uri = request.query_params.get("uri", "")
        if not fits(uri):
            raise InvalidRequest(f"uri must be the URI of a resource, up to {LONGEST} characters.")
        return await self._ask(request, user, Unsubscribe(uri=uri))

    async def _list(self, request: Request, ask: Ask) -> Response:
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        return await self._ask(request, user, ask)

    async def _read(self, request: Request, form: type[B]) -> tuple[Principal, B]:
        await require_user(request, self.identity)
        body = await read_body(request, form, limit=self.max_body)
        return await require_user(request, self.identity, body.user_id), body

    async def _ask(self, request: Request, user: Principal, ask: Ask) -> Response:
        """Have the user's owner ask; who has no such server need not wait for one."""
        alias = request.path_params["alias"]
        config = await self.configs.get(user.key)
        if config is None:
            raise NotConnected
        if alias not in {server.alias for server in config.servers}:
            raise NotFound(f"You are not connected to a server {alias}, or it is switched off.")
        outcome = await self.dispatch.outcome(user.key, Consult(alias=alias, ask=ask))
        if isinstance(outcome, Failed):
            return of_failed(outcome)
        assert isinstance(outcome, Consulted)
        return JSONResponse({"server": alias, **outcome.result})
