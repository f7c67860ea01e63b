"""What a server tells without being asked: that its lists, or resources that the user follows, have changed.

A server of 2025-11-25 or older says so on its live session; one of 2026-07-28 on a stream that is asked for.
All of it only means "look again", so it is collected, each once, and told ever more rarely while it goes on.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
import mcp_types as mcp
import structlog
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage
from mcp.client.subscriptions import Subscription, SubscriptionLost
from mcp.shared.subscriptions import (
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_chat.exceptions import InvalidRequest, NotOffered, ServerRefused, ServerUnavailable, SignInNeeded
from mcp_chat.oauth.bearer import sign_ins_told

log = structlog.get_logger()

MOST_FOLLOWED = 32
"""Resources of one server that a user follows."""

SHORTEST, LONGEST = 1.0, 30.0
"""Seconds between two tellings: at first, and while a server does not stop."""

ACKNOWLEDGED = 10.0
"""Seconds in which a server must open the stream of its news."""

FIRST_REST, LONGEST_REST = 0.5, 60.0
"""Seconds before a stream that was lost is asked for again: after the first loss, and at most."""

GAP = 1.0
"""Seconds without the stream after which something may have been missed."""


def _nobody(_event: ServerEvent) -> None:
    """Nobody listens yet."""


class News:
    """One server's, for as long as its connection is kept; what is followed stays so when it is opened again.

    Attributes:
        tell: Takes what is told; a resource is told of by the URI that is followed.
        followed: The resources that the user follows.
    """

    def __init__(self) -> None:
        self.tell: Callable[[ServerEvent], None] = _nobody
        self.followed: set[str] = set()
        self._modern = False
        self._pending: dict[ServerEvent, None] = {}
        self._work = anyio.Event()
        self._following = anyio.Lock()
        self._stream = anyio.CancelScope()
        self._wanted = anyio.Event()
        self._settled = anyio.Event()
        self._honored: frozenset[str] = frozenset()

    @asynccontextmanager
    async def of(self, client: Client) -> AsyncIterator[None]:
        """Take a client's news, as long as it is open."""
        self._modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pass_on)
            tasks.start_soon(self._attend, client)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def hear(self, message: IncomingMessage) -> None:
        """Take what comes on a live session; see `mcp_chat.dialer.Hooks`."""
        if self._modern:  # it tells nothing that it was not asked for
            return
        match message:
            case mcp.ToolListChangedNotification():
                self._take(ToolsListChanged())
            case mcp.PromptListChangedNotification():
                self._take(PromptsListChanged())
            case mcp.ResourceListChangedNotification():
                self._take(ResourcesListChanged())
            case mcp.ResourceUpdatedNotification(params=params):
                self._take(ResourceUpdated(uri=params.uri))

    async def follow(self, client: Client, uri: str) -> None:
        """Hear of a resource's changes from now on.

        Raises:
            NotOffered: The server does not tell of any.
            InvalidRequest: They are too many.
            ServerRefused: It does not tell of this one's.
        """
        offered = client.server_capabilities.resources
        if offered is None or not offered.subscribe:
            raise NotOffered("This server does not tell when its resources change.")
        async with self._following:
            if uri not in self.followed and len(self.followed) >= MOST_FOLLOWED:
                raise InvalidRequest(
                    f"You can follow {MOST_FOLLOWED} resources of a server. Leave one first."
                )
            if self._modern:
                await self._follow_on_a_stream(uri)
            else:
                params = mcp.SubscribeRequestParams(uri=uri)
                await client.session.send_request(mcp.SubscribeRequest(params=params), mcp.EmptyResult)
                self.followed.add(uri)

    async def leave(self, client: Client, uri: str) -> None:
        """Hear of them no more."""
        async with self._following:
            if uri not in self.followed:
                return
            self.followed.discard(uri)
            if self._modern:
                await self._ask_again()
            else:
                params = mcp.UnsubscribeRequestParams(uri=uri)
                await client.session.send_request(mcp.UnsubscribeRequest(params=params), mcp.EmptyResult)

    async def _follow_on_a_stream(self, uri: str) -> None:
        new = uri not in self.followed
        self.followed.add(uri)
        try:
            if new or uri not in self._honored:
                await self._ask_again()
            if uri not in self._honored:
                raise ServerRefused("This server does not tell when this resource changes.")
        except BaseException:  # cancelled or not: it was not promised
            if new:
                self.followed.discard(uri)
            raise

    async def _ask_again(self) -> None:
        """Have the stream opened for what is followed now, and wait for the server's word.

        Raises:
            ServerUnavailable: There is none.
        """
        settled = self._settled = anyio.Event()
        self._wanted.set()
        self._stream.cancel()
        with anyio.move_on_after(ACKNOWLEDGED):
            return await settled.wait()
        raise ServerUnavailable("The server does not answer. Please try again.")

    def _take(self, event: ServerEvent) -> None:
        """Keep an event, each once; of a resource only if it, or what it is part of, is followed."""
        if isinstance(event, ResourceUpdated):
            found = next((uri for uri in self.followed if _is_part(event.uri, uri)), None)
            if found is None:
                return
            event = ResourceUpdated(uri=found)
        self._pending[event] = None
        self._work.set()

    async def _pass_on(self) -> None:
        """Tell what was kept: at once, and while it goes on ever more rarely."""
        rest = SHORTEST
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            pending, self._pending = self._pending, {}
            for event in pending:
                self.tell(event)
            await anyio.sleep(rest)
            rest = min(2 * rest, LONGEST) if self._pending else SHORTEST

    async def _attend(self, client: Client) -> None:
        """Ask for what is told to those who ask; whatever goes wrong, the connection stays."""
        try:
            if self._modern:
                await self._listen(client)
            else:
                await self._follow_again(client)
        except Exception as error:  # noqa: BLE001 - whatever a server provokes in the SDK
            log.warning("news.lost", error=type(error).__name__)

    async def _follow_again(self, client: Client) -> None:
        for uri in list(self.followed):
            params = mcp.SubscribeRequestParams(uri=uri)
            with suppress(MCPError, SignInNeeded), sign_ins_told(), anyio.move_on_after(ACKNOWLEDGED):
                await client.session.send_request(mcp.SubscribeRequest(params=params), mcp.EmptyResult)
            self._take(ResourceUpdated(uri=uri))  # nobody knows what has happened meanwhile

    async def _listen(self, client: Client) -> None:
        """Keep a stream open for what is followed, and open another when that changes or it is lost."""
        rest, lost_at = FIRST_REST, -math.inf
        while True:
            self._wanted = anyio.Event()
            began, silent = anyio.current_time(), False
            with anyio.CancelScope() as self._stream:
                silent = await self._hold(client, lost_at)
            if self._wanted.is_set():  # nothing was lost: it is to be another one
                lost_at = anyio.current_time()
                continue
            self._honor(())
            rest = FIRST_REST if anyio.current_time() - began > LONGEST_REST else min(2 * rest, LONGEST_REST)
            lost_at = anyio.current_time()
            with anyio.move_on_after(math.inf if silent else rest):
                await self._wanted.wait()

    async def _hold(self, client: Client, lost_at: float) -> bool:
        """Take what comes on one stream until it ends; tell whether the server knows of no such thing.

        Args:
            lost_at: When the one before it was.
        """
        wanted = Wanted.of(client.server_capabilities, self.followed)
        if wanted.nothing:
            self._honor(())
            await anyio.sleep_forever()
        try:
            with sign_ins_told():
                async with AsyncExitStack() as stack:
                    with anyio.fail_after(ACKNOWLEDGED):
                        stream = await stack.enter_async_context(wanted.listen(client))
                    self._honor(stream.honored.resource_subscriptions or ())
                    if anyio.current_time() - lost_at > GAP:
                        self._doubt(wanted, lists=lost_at > 0)
                    async for event in stream:
                        self._take(event)
        except MCPError as error:
            return error.error.code == mcp.METHOD_NOT_FOUND
        except (SubscriptionLost, TimeoutError, SignInNeeded):
            pass  # whoever calls a tool is told to sign in, and nobody's call is broken off
        return False

    def _honor(self, uris: Iterable[str]) -> None:
        """Say what the server tells of, to whoever waits for its word."""
        self._honored = frozenset(uris)
        self._settled.set()

    def _doubt(self, wanted: Wanted, *, lists: bool) -> None:
        """Take all for changed: something may have been missed."""
        changed = ((wanted.tools, ToolsListChanged), (wanted.prompts, PromptsListChanged))
        for there, kind in (*changed, (wanted.resources, ResourcesListChanged)):
            if there and lists:
                self._take(kind())
        for uri in wanted.uris:
            self._take(ResourceUpdated(uri=uri))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a stream is asked for: changes of the lists that the server says to tell of, and of resources."""

    tools: bool
    prompts: bool
    resources: bool
    uris: tuple[str, ...]

    @classmethod
    def of(cls, offered: mcp.ServerCapabilities, uris: Iterable[str]) -> Wanted:
        """Return what there is to be had."""
        return cls(
            tools=bool(offered.tools and offered.tools.list_changed),
            prompts=bool(offered.prompts and offered.prompts.list_changed),
            resources=bool(offered.resources and offered.resources.list_changed),
            uris=tuple(sorted(uris)),
        )

    @property
    def nothing(self) -> bool:
        """Whether no stream is needed."""
        return not (self.tools or self.prompts or self.resources or self.uris)

    def listen(self, client: Client) -> AbstractAsyncContextManager[Subscription]:
        """Return the stream."""
        return client.listen(
            tools_list_changed=self.tools,
            prompts_list_changed=self.prompts,
            resources_list_changed=self.resources,
            resource_subscriptions=self.uris,
        )


def _is_part(uri: str, of: str) -> bool:
    """Tell whether a resource is another, or below it."""
    return uri.rstrip("/") == of.rstrip("/") or uri.startswith(of.rstrip("/") + "/")
