"""Opens MCP clients: over the network with the user's guard, or to the operator's commands."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

import httpx2
import mcp_types as mcp
from mcp import Client
from mcp.client.extension import ClientExtension
from mcp.client.session import ElicitationFnT, MessageHandlerFnT
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from mcp_chat.command import Commands
from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import ChatError, InvalidRequest
from mcp_chat.limits import ServerLimits
from mcp_chat.netguard import Policy, Resolver, guarded_client2, resolve
from mcp_chat.pool import Spare

CLIENT_INFO = mcp.Implementation(name="mcp-chat", version=version("mcp-chat"))

EVENTS_PER_SECOND = 200.0
"""Events that are taken from a server's streams: each is work for all users of the worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What a client hands to its connection while it is open.

    Attributes:
        elicit: Answers a question that a server asks over a live session.
        hear: Takes what a server tells without being asked.
        extensions: Extensions of the protocol that are offered.
        auth: Adds credentials to each HTTP request, and gets them.
    """

    elicit: ElicitationFnT | None = None
    hear: MessageHandlerFnT | None = None
    extensions: Sequence[ClientExtension] = ()
    auth: httpx2.Auth | None = None


NO_HOOKS = Hooks()


class Connector(Protocol):
    """Opens a client for a server; tests bring their own far side."""

    def __call__(
        self, server: ServerConfig, hooks: Hooks = NO_HOOKS, /
    ) -> AbstractAsyncContextManager[Client]:
        """Return a context that holds a client open."""
        ...


class Generations:
    """Which servers speak only the older protocol: those need not be asked for the newer one first.

    It is all that is kept of what a server has said: the rest may be meant for one user.

    Args:
        seconds: For which that is believed.
        most: Servers that are remembered.
    """

    def __init__(self, *, seconds: float = 600, most: int = 1024) -> None:
        self._seconds = seconds
        self._most = most
        self._old: OrderedDict[str, float] = OrderedDict()

    def is_old(self, server: ServerConfig) -> bool:
        """Tell whether it spoke the older protocol not long ago."""
        return self._old.get(_place(server), 0) > time.monotonic()

    def note(self, server: ServerConfig, version: str) -> None:
        """Remember what it speaks."""
        place = _place(server)
        self._old.pop(place, None)
        if version in HANDSHAKE_PROTOCOL_VERSIONS:
            self._old[place] = time.monotonic() + self._seconds
        if len(self._old) > self._most:
            self._old.popitem(last=False)

    def forget(self, server: ServerConfig) -> None:
        """Ask it again."""
        self._old.pop(_place(server), None)


def _place(server: ServerConfig) -> str:
    """Name a server without what one user's address of it may have besides."""
    if server.url is None:
        return f"stdio {server.alias}"
    parts = urlsplit(server.url)
    return f"{server.transport} {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Dialer:
    """Opens clients over the network and to the operator's commands.

    Args:
        policy: Which addresses a user's server may have; the operator's servers may be anywhere.
        timeout: Seconds for a connection to be made and for a request to be written.
        silence: Seconds a server may be silent in an answer.
        limits: How large its answers may be.
        resolver: Looks the names of the user's servers up.
        spare: The worker's idle sockets, shared by connections whose servers hold no session.
        generations: What is known of servers in this worker.
        commands: The worker's places for commands.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        timeout: float,
        silence: float,
        limits: ServerLimits,
        resolver: Resolver = resolve,
        spare: Spare | None = None,
        generations: Generations | None = None,
        commands: Commands | None = None,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._limits = limits
        self._timeout = httpx2.Timeout(timeout, read=silence)
        self._spare = spare
        self._generations = generations or Generations()
        self._commands = commands or Commands(1)

    @asynccontextmanager
    async def __call__(self, server: ServerConfig, hooks: Hooks = NO_HOOKS, /) -> AsyncIterator[Client]:
        async with AsyncExitStack() as stack:
            client = await self._remembered(server, hooks, stack) or await self._entered(
                server, hooks, stack, "auto"
            )
            self._generations.note(server, client.protocol_version)
            complete_by_default(client)
            yield client

    async def _remembered(self, server: ServerConfig, hooks: Hooks, stack: AsyncExitStack) -> Client | None:
        """Open it as it was spoken to before; it may have learned since."""
        if not self._generations.is_old(server):
            return None
        try:
            return await self._entered(server, hooks, stack, "legacy")
        except ChatError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the other way tells
            self._generations.forget(server)
            return None

    async def _entered(
        self, server: ServerConfig, hooks: Hooks, stack: AsyncExitStack, mode: Literal["auto", "legacy"]
    ) -> Client:
        async with AsyncExitStack() as opened:
            client = Client(
                await self._transport(server, hooks, opened),
                client_info=CLIENT_INFO,
                mode=mode,
                cache=None,
                elicitation_callback=hooks.elicit,
                message_handler=hooks.hear,
                extensions=hooks.extensions,
            )
            await opened.enter_async_context(client)
            stack.push_async_exit(opened.pop_all())
        return client

    async def _transport(self, server: ServerConfig, hooks: Hooks, stack: AsyncExitStack) -> Any:
        if server.transport == "stdio":
            return self._commands.run(server, max_line=self._limits.answer_bytes)
        http = guarded_client2(
            None if server.operator else self._policy,
            headers=server.all_headers(),
            timeout=self._timeout,
            max_bytes=self._limits.answer_bytes,
            max_event=self._limits.event_bytes,
            resolver=self._resolver,
            max_rate=EVENTS_PER_SECOND,
            spare=None if server.transport == "sse" else self._spare,
            auth=hooks.auth,
        )
        if server.transport == "sse":
            return sse_client(
                _url(server), httpx_client_factory=lambda headers=None, timeout=None, auth=None: http
            )
        return streamable_http_client(
            _url(server),
            http_client=await stack.enter_async_context(http),
            max_sse_event_size=None,  # the transport has a limit of its own
        )


def _url(server: ServerConfig) -> str:
    if server.url is None:
        raise InvalidRequest("Invalid server URL")
    return server.url


def trust_nothing(client: Client) -> None:
    """Keep the SDK from checking results by the schemas that their own server gives, and from storing those.

    It checks on the event loop: references that double or a pattern that backtracks stop all users for
    minutes. Nobody here needs the check: a result goes to the model as text, whatever it holds.
    """
    session: Any = client.session  # one more attribute of the instance, which the class looks up first
    ask = session.list_tools

    async def list_tools(**options: Any) -> mcp.ListToolsResult:
        page: mcp.ListToolsResult = await ask(**options)
        session._tool_output_schemas.clear()  # else it grows with each page of new names
        return page

    async def believe(name: str, result: mcp.CallToolResult) -> None:
        """Take the result as it is."""

    session.list_tools, session.validate_tool_result = list_tools, believe


def complete_by_default(client: Client) -> None:
    """Take a result that does not say what it is for a complete one.

    So the protocol wants it, and the SDK refuses it.
    """
    if client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return
    dispatcher: Any = cast(Any, client.session)._dispatcher
    ask = dispatcher.send_raw_request

    async def send_raw_request(*args: Any) -> dict[str, Any]:
        return {"resultType": "complete", **await ask(*args)}

    dispatcher.send_raw_request = send_raw_request
