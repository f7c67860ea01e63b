"""Live MCP clients: one supervised task for each, which opens, lends, watches, reopens and closes it.

The SDK wants a client opened and closed in one task, and a server that dies takes that task with it; so
each connection has a task of its own, and a dead server harms nobody else.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Protocol, TextIO

import anyio
import httpx2
import mcp_types as mcp
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup, TaskStatus
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import ProgressFnT
from pydantic import ValidationError

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import ChatError, InvalidRequest, ServerUnavailable
from mcp_chat.limits import ServerLimits
from mcp_chat.netguard import (
    AddressNotAllowed,
    AnswerTooLarge,
    Policy,
    Resolver,
    guarded_client2,
    refusal,
    resolve,
)
from mcp_chat.tools import Listed, Tool, ToolResult, find, listed, named, result

log = structlog.get_logger()

UNREADABLE = "The server's answer could not be read."
CLIENT_INFO = mcp.Implementation(name="mcp-chat", version=version("mcp-chat"))

PATIENCE = 2.0
"""Seconds a server gets to say goodbye; one that hangs must not hold up its user."""

STEADY = 30.0
"""Seconds a connection must have stayed open for the next loss to count as the first."""

SHORTEST_REST, FIRST_REST, LONGEST_REST = 0.2, 0.5, 60.0
"""Seconds between two attempts to open a connection: at least, after a first loss, at most."""

EVENTS_PER_SECOND = 200.0
"""Events that are taken from a server's streams: each is work for all users of the worker."""


class ToolsUnreadable(ServerUnavailable):
    """The server's list of tools could not be read."""


class TooManyTools(InvalidRequest):
    """The server lists more tools than are possible here. Connect to one with fewer."""

    code = "too_many_tools"


class Connector(Protocol):
    """Opens a client for a server; tests bring their own far side."""

    def __call__(self, server: ServerConfig) -> AbstractAsyncContextManager[Client]:
        """Return a context that holds a client open."""
        ...


class Dialer:
    """Opens clients over the network and to the operator's commands.

    Args:
        policy: Which addresses a user's server may have; the operator's servers may be anywhere.
        timeout: Seconds for a connection to be made and for a request to be written.
        silence: Seconds a server may be silent in an answer.
        limits: How large its answers may be.
        resolver: Looks the names of the user's servers up.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        timeout: float,
        silence: float,
        limits: ServerLimits,
        resolver: Resolver = resolve,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._limits = limits
        self._timeout = httpx2.Timeout(timeout, read=silence)

    @asynccontextmanager
    async def __call__(self, server: ServerConfig) -> AsyncIterator[Client]:
        async with AsyncExitStack() as stack:
            transport = await self._transport(server, stack)
            yield await stack.enter_async_context(Client(transport, client_info=CLIENT_INFO, cache=None))

    async def _transport(self, server: ServerConfig, stack: AsyncExitStack) -> Any:
        if server.transport == "stdio":
            return _stdio(server, stack.enter_context(_nowhere()))
        http = guarded_client2(
            None if server.operator else self._policy,
            headers=server.all_headers(),
            timeout=self._timeout,
            max_bytes=self._limits.answer_bytes,
            max_event=self._limits.event_bytes,
            resolver=self._resolver,
            max_rate=EVENTS_PER_SECOND,
        )
        if server.transport == "sse":
            return sse_client(
                _url(server), httpx_client_factory=lambda headers=None, timeout=None, auth=None: http
            )
        return streamable_http_client(_url(server), http_client=await stack.enter_async_context(http))


def _nowhere() -> TextIO:
    """A server's standard error is its own affair: it may hold anything, of anybody."""
    return open(os.devnull, "w")


def _stdio(server: ServerConfig, errlog: TextIO) -> Any:
    if not (server.operator and server.command):
        raise InvalidRequest(
            "Invalid configuration: only the operator can define a server that is a command."
        )
    parameters = StdioServerParameters(command=server.command, args=list(server.args), env=dict(server.env))
    return stdio_client(parameters, errlog=errlog)


def _url(server: ServerConfig) -> str:
    if server.url is None:
        raise InvalidRequest("Invalid server URL")
    return server.url


class Connection:
    """One server of one user.

    Args:
        server: Where it is and what it is called with.
        connector: Opens its client.
        connect_timeout: Seconds until it must have listed its tools.
        tool_timeout: Seconds a call may take.
        limits: What it may send.

    Attributes:
        tools: What it offers, as far as the limits allow.
        left_out: What it offers besides, and why that is not used.
    """

    def __init__(
        self,
        server: ServerConfig,
        connector: Connector,
        *,
        connect_timeout: float,
        tool_timeout: float,
        limits: ServerLimits,
    ) -> None:
        self.server = server
        self.tools: tuple[Tool, ...] = ()
        self.left_out: dict[str, str] = {}
        self._limits = limits
        self._connector = connector
        self._connect_timeout = connect_timeout
        self._tool_timeout = tool_timeout
        self._client: Client | None = None
        self._began = False
        self._steady_at = math.inf
        self._borrowers = 0
        self._opened = anyio.Event()
        self._wanted = anyio.Event()
        self._doubt = anyio.Event()
        self._stop = anyio.Event()
        self._end = anyio.CancelScope()
        self._closed = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep the connection until it is told to close.

        Raises:
            ServerUnavailable: It could not be opened the first time; later it is opened again and again.
            InvalidRequest: Its address is not allowed, or it has too many tools.
        """
        try:
            with self._end:
                await self._keep(task_status)
        finally:
            self._closed.set()
        if not self._began:
            raise ServerUnavailable

    async def close(self) -> None:
        """Close it and wait until that is done; a far side that takes too long is cut off."""
        for event in (self._stop, self._wanted, self._doubt, self._opened):
            event.set()
        with anyio.move_on_after(PATIENCE):
            await self._closed.wait()
        self._end.cancel()
        with anyio.move_on_after(1):  # a command is killed in its own time, which the SDK limits
            await self._closed.wait()

    async def call(self, tool: Tool, args: Mapping[str, Any], on_progress: ProgressFnT) -> ToolResult:
        """Call a tool; what goes wrong at the server is a failed result, for the model to read."""
        try:
            with anyio.fail_after(self._tool_timeout):
                client = await self._borrow()
                answer = await client.call_tool(tool.remote_name, dict(args), progress_callback=on_progress)
                return result(answer, limit=self._limits.result_bytes)
        except ServerUnavailable as error:
            text = str(error)
        except TimeoutError:
            text = f"The tool did not answer within {self._tool_timeout:g} seconds."
        except MCPError as error:
            text = _told(error)
        except Exception as error:  # noqa: BLE001 - whatever the SDK makes of an answer that is none
            log.warning("call.unreadable", alias=self.server.alias, error=type(error).__name__)
            text = UNREADABLE
        self._doubt.set()
        return ToolResult(text=text, failed=True)

    async def _borrow(self) -> Client:
        """Return the open client, waiting a while for one that is being opened again."""
        self._borrowers += 1
        self._wanted.set()
        try:
            with anyio.move_on_after(self._connect_timeout):
                while not self._stop.is_set():
                    if self._client is not None:
                        return self._client
                    await self._opened.wait()
        finally:
            self._borrowers -= 1
            if not self._borrowers:
                self._wanted = anyio.Event()
        raise ServerUnavailable(f"The server {self.server.alias} is not reachable at the moment.")

    async def _keep(self, task_status: TaskStatus[None]) -> None:
        """Hold it open, and open it again after ever longer rests: a server may die each time it is used."""
        await self._serve(task_status)
        delay = FIRST_REST
        while not self._stop.is_set():
            await self._rest(delay)
            delay = FIRST_REST if await self._reopen() else min(delay * 2, LONGEST_REST)

    async def _serve(self, task_status: TaskStatus[None]) -> None:
        """Open the client, list its tools, and hold it open until the end or until it breaks."""
        opened = False
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + self._connect_timeout) as scope:
                async with self._connector(self.server) as client:
                    trust_nothing(client)
                    await self._offer(await self._listed(client))
                    scope.deadline = math.inf
                    opened = True
                    try:
                        self._lend(client)
                        task_status.started()
                        await self._watch(client)
                    finally:
                        self._take_back()
                        scope.deadline = anyio.current_time() + PATIENCE
        except Exception as error:  # whatever the far side provokes, in whatever form the SDK raises it
            if not opened:
                raise unreachable(error) from error
            log.warning("connection.lost", alias=self.server.alias, error=type(error).__name__)
        if not opened:
            raise ServerUnavailable

    async def _listed(self, client: Client) -> list[Listed]:
        found = await list_tools(client, self._limits)
        if len(found) > self._limits.tools:
            most, alias = self._limits.tools, self.server.alias
            raise TooManyTools(f"The server {alias} lists more than {most} tools. Connect to one with fewer.")
        return found

    async def _offer(self, found: Sequence[Listed]) -> None:
        """Take over what a server lists; what is too large or too deep is left out."""
        naming = partial(
            named,
            self.server.alias,
            [each.tool for each in found],
            safe=self.server.safe_tools,
            trust_read_only=self.server.trust_read_only,
        )
        tools = await to_thread.run_sync(naming)  # many large schemas take a while
        pairs = list(zip(tools, found, strict=True))
        self.tools = tuple(tool for tool, each in pairs if not each.fault)
        self.left_out = {tool.name: each.fault for tool, each in pairs if each.fault}
        if self.left_out:
            log.warning("tools.left_out", alias=self.server.alias, tools=self.left_out)

    async def _watch(self, client: Client) -> None:
        """Return at the end; raise when the client is of no more use.

        A server that has forgotten the session, and a client that can no longer write, are told from a
        call that merely failed by asking once more.
        """
        while not self._stop.is_set():
            await self._doubt.wait()
            self._doubt = anyio.Event()
            if not self._stop.is_set():
                with anyio.fail_after(self._connect_timeout):
                    await client.list_tools(cache_mode="bypass")

    async def _reopen(self) -> bool:
        """Open it again; return whether it then stayed open for a while."""
        self._steady_at = math.inf
        try:
            await self._serve(anyio.TASK_STATUS_IGNORED)
        except ChatError as error:
            log.info("connection.refused", alias=self.server.alias, error=error.code)
        return anyio.current_time() >= self._steady_at

    def _lend(self, client: Client) -> None:
        self._began = True
        self._steady_at = anyio.current_time() + STEADY
        self._client = client
        self._opened.set()

    def _take_back(self) -> None:
        """Let the next borrowers wait. Those who wait already must be woken by the same event."""
        self._client = None
        if self._opened.is_set():
            self._opened = anyio.Event()

    async def _rest(self, delay: float) -> None:
        """Wait before the next attempt; a call that needs the server shortens it, and so does the end."""
        with anyio.move_on_after(SHORTEST_REST):
            await self._stop.wait()
        if not self._stop.is_set():
            with anyio.move_on_after(delay - SHORTEST_REST):
                await self._wanted.wait()


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
        tools = page.tools[: limits.tools + 1]
        found += await to_thread.run_sync(partial(listed, tools, limits, before=spent))
        spent = sum(each.size for each in found)
        cursor = page.next_cursor or None
    return found


def _was_too_large(error: MCPError) -> bool:
    """Tell whether the SDK has put our own error into its words."""
    return str(AnswerTooLarge()) in error.error.message


def _told(error: MCPError) -> str:
    """Return what the model is told of a refusal: the server's own words, but not those of the SDK."""
    if _was_too_large(error):
        return f"{AnswerTooLarge()} Ask the tool for less at once."
    match error.error.code:
        case mcp.PARSE_ERROR:
            return UNREADABLE
        case mcp.CONNECTION_CLOSED:
            return "The server broke the call off, and whether it took effect is not known."
        case mcp.INVALID_REQUEST if error.error.message.startswith("Redirect to "):
            return "The server sent the call to another address, which is not followed."
        case _:
            return f"The server refused the call: {error}"


def unreachable(error: BaseException) -> ChatError:
    """Return what a user is told about a connection that failed: never what was found at the address."""
    refused = refusal(error)
    if isinstance(refused, AddressNotAllowed):
        return AddressNotAllowed(f"Invalid server URL: {refused}")
    if refused is not None:
        return refused
    return _ours(error) or ServerUnavailable()


def _ours(error: BaseException) -> ChatError | None:
    """Find our own error, which task groups may have wrapped."""
    if isinstance(error, BaseExceptionGroup):
        return next((ours for each in error.exceptions if (ours := _ours(each))), None)
    if isinstance(error, MCPError) and _was_too_large(error):
        return AnswerTooLarge()
    return error if isinstance(error, ChatError) else None


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


class Toolbox:
    """The tools of a user's connections, by the names the model knows."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = tuple(connections)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """All tools, server by server."""
        return tuple(tool for connection in self.connections for tool in connection.tools)

    @property
    def left_out(self) -> dict[str, str]:
        """The tools that are not used, and why."""
        return {name: why for connection in self.connections for name, why in connection.left_out.items()}

    def safe(self, name: str) -> bool:
        """Tell whether the operator has declared that a tool may be called twice."""
        tool = find(self.tools, name)
        return tool is not None and tool.safe

    def refuses(self, name: str) -> str:
        """Return why no call of this name is made, or nothing."""
        return "" if find(self.tools, name) else "unknown_tool"

    async def call(self, name: str, args: Mapping[str, Any], on_progress: ProgressFnT) -> ToolResult:
        """Call a tool by its name in the conversation."""
        for connection in self.connections:
            tool = find(connection.tools, name)
            if tool is not None:
                return await connection.call(tool, args, on_progress)
        known = ", ".join(tool.name for tool in self.tools[:20])
        return ToolResult(text=f"There is no tool {name!r}. There are: {known or 'none'}.", failed=True)
