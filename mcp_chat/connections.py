"""Live MCP clients: one supervised task for each, which opens, lends, watches, reopens and closes it.

The SDK wants a client opened and closed in one task, and a server that dies takes that task with it; so
each connection has a task of its own, and a dead server harms nobody else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import anyio
import httpx2
import structlog
from anyio import to_thread
from anyio.abc import TaskStatus
from mcp import Client, MCPError
from mcp.client.session import IncomingMessage

from mcp_chat.apps import offered
from mcp_chat.breaker import Breaker
from mcp_chat.calling import Calls
from mcp_chat.config import ServerConfig
from mcp_chat.definitions import Definition, Difference, digests_of, key_of
from mcp_chat.dialer import Connector, Hooks, trust_nothing
from mcp_chat.exceptions import ChatError, ServerUnavailable, SignInNeeded
from mcp_chat.limits import ServerLimits
from mcp_chat.listing import all_tools
from mcp_chat.news import News
from mcp_chat.oauth.bearer import Bearer
from mcp_chat.offers import kinds
from mcp_chat.raw import cut_lists, keep_raw
from mcp_chat.refusals import UNREADABLE, not_done, unreachable
from mcp_chat.results import ToolResult
from mcp_chat.talk import Talk
from mcp_chat.tasks import Tasks
from mcp_chat.tools import Listed, Tool, named
from mcp_chat.verdicts import Verdict, verdict_of

T = TypeVar("T")

log = structlog.get_logger()

_editions = itertools.count(1)

PATIENCE = 2.0
"""Seconds a server gets to say goodbye; one that hangs must not hold up its user."""

STEADY = 30.0
"""Seconds a connection must have stayed open for the next loss to count as the first."""

SHORTEST_REST, FIRST_REST, LONGEST_REST = 0.2, 0.5, 60.0
"""Seconds between two attempts to open a connection: at least, after a first loss, at most."""


State = Literal["opening", "open", "lost", "sign_in"]
"""How a connection is: it was never open, it is, it was and is opened again, its user must sign in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A tool that is held back: its definition is not the one that its user has accepted.

    Attributes:
        definition: The new one.
        difference: What has changed.
    """

    definition: Definition
    difference: tuple[Difference, ...]


class Admit(Protocol):
    """Judges a server's list of tools before it is offered."""

    async def __call__(self, found: Sequence[Listed], /) -> Mapping[str, Held]:
        """Return the tools that are held back, by their names at the server, and what has changed in them."""
        ...


async def admit_all(found: Sequence[Listed], /) -> Mapping[str, Held]:
    """Hold nothing back."""
    return {}


class Connection:
    """One server of one user.

    Args:
        server: Where it is and what it is called with.
        connector: Opens its client.
        connect_timeout: Seconds until it must have listed its tools.
        tool_timeout: Seconds a call may be silent.
        tool_limit: Seconds it may take, whatever it tells; as long as it may be silent if none are given.
        limits: What it may send.
        breaker: Leaves it alone when its tools fail to answer again and again.

    Attributes:
        tools: What it offers, as far as the limits allow and its user has switched it on.
        left_out: What it offers besides, and why that is not used.
        held: What has changed since its user has accepted it, by its name at the server.
        state: How it is.
        sign_in: Where its user must sign in, if they must.
        edition: Another number whenever `tools` has changed.
        auth: Adds credentials to its requests.
        admit: Judges its lists of tools.
        tell: Is called with the state when that has changed, and with `tools` when it offers others.
        news: What it tells without being asked.
        offers: What it has besides tools, as far as it said when it was opened last.
    """

    def __init__(
        self,
        server: ServerConfig,
        connector: Connector,
        *,
        connect_timeout: float,
        tool_timeout: float,
        tool_limit: float | None = None,
        limits: ServerLimits,
        breaker: Breaker | None = None,
    ) -> None:
        self.server = server
        self.tools: tuple[Tool, ...] = ()
        self.left_out: dict[str, str] = {}
        self.held: Mapping[str, Held] = {}
        self.state: State = "opening"
        self.sign_in = ""
        self.offers: tuple[str, ...] = ()
        self.edition = next(_editions)
        self.auth: httpx2.Auth | None = None
        self.admit: Admit = admit_all
        self.tell: Callable[[Connection, str], None] = _untold
        self._all: tuple[Tool, ...] = ()
        self.news = News()
        self._limits = limits
        self._connector = connector
        self._connect_timeout = connect_timeout
        self._tool_timeout = tool_timeout
        limit = tool_timeout if tool_limit is None else tool_limit
        self._calls = Calls(
            server,
            self.borrow,
            self._suspect,
            offers=self._offers,
            timeout=tool_timeout,
            limit=limit,
            limits=limits,
            breaker=breaker,
        )
        self._client: Client | None = None
        self._began = False
        self._stale = False
        self._steady_at = math.inf
        self._borrowers = 0
        self._failure: ChatError | None = None
        self._tried = anyio.Event()
        self._opened = anyio.Event()
        self._wanted = anyio.Event()
        self._again = anyio.Event()
        self._doubt = anyio.Event()
        self._stop = anyio.Event()
        self._end = anyio.CancelScope()
        self._closed = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Open it, and keep it until it is told to close.

        Raises:
            ServerUnavailable: It could not be opened the first time; later it is opened again and again.
            InvalidRequest: Its address is not allowed, or it has too many tools.
        """
        try:
            with self._end:
                await self._serve_first(task_status)
                await self._keep()
        finally:
            self._closed.set()
        if not self._began:
            raise ServerUnavailable

    async def resume(self) -> None:
        """Open it, however often that takes, and keep it until it is told to close."""
        try:
            with self._end:
                self._began = await self._reopen()
                await self._keep()
        finally:
            self._tried.set()
            self._closed.set()

    async def first_attempt(self) -> None:
        """Return when a resumed connection is open, or its user must sign in.

        Raises:
            ChatError: It could not be opened; that is tried again.
        """
        await self._tried.wait()
        if self._failure:
            raise self._failure

    async def try_again(self) -> str:
        """Try to open it again if its user must sign in; return where, if they still must."""
        if self.state == "sign_in":
            self._expect()
            self._again.set()
        if self.state in ("sign_in", "opening"):
            with anyio.move_on_after(self._connect_timeout + SHORTEST_REST):
                await self._tried.wait()
        return self.sign_in

    def again(self) -> None:
        """Open it again as soon as it is not open: its user has signed in, say."""
        self._again.set()
        self._wanted.set()
        if self.state == "sign_in":  # until that is known, nobody is asked once more
            self._expect()
            self._become("opening")

    def _expect(self) -> None:
        """Let the next attempt be waited for; several may wait for the same one."""
        if self._tried.is_set():
            self._tried = anyio.Event()

    def refresh(self) -> None:
        """List its tools again: they may have changed."""
        self._stale = True
        self._doubt.set()

    def accept(self, accepted: Mapping[str, Held]) -> None:
        """Hold tools back no longer, by their names at the server, unless they have changed again since."""
        digests = {name: each.definition.digest for name, each in accepted.items()}
        self.held = {
            name: each for name, each in self.held.items() if each.definition.digest != digests.get(name)
        }
        self._select()

    def switch(self, disabled: Collection[str], own_rules: Mapping[str, Verdict]) -> None:
        """Leave tools out by their names at the server, let its user's own rules hold, and no others."""
        self.server = replace(self.server, disabled_tools=tuple(sorted(disabled)), own_rules=own_rules)
        self._select()

    def verdict(self, tool: Tool) -> Verdict:
        """Return what may be done with one of its tools, before its user is asked."""
        server = self.server
        return verdict_of(tool.remote_name, rules=server.rules, own=server.own_rules, safe=tool.safe)

    async def know(self, found: Sequence[Listed]) -> None:
        """Offer what its user has accepted before, until it is open and lists what it has now."""
        await self._take(found)

    async def close(self) -> None:
        """Close it and wait until that is done; a far side that takes too long is cut off."""
        for event in (self._stop, self._wanted, self._again, self._doubt, self._opened):
            event.set()
        with anyio.move_on_after(PATIENCE):
            await self._closed.wait()
        self._end.cancel()
        with anyio.move_on_after(1):  # a command is killed in its own time, which the SDK limits
            await self._closed.wait()

    async def call(self, tool: Tool, args: Mapping[str, Any], talk: Talk) -> ToolResult:
        """Call a tool; what goes wrong at the server is a failed result, for the model to read.

        Raises:
            Fenced: Another worker owns the user.
            StoreUnavailable: What the call would need to go on could not be kept.
        """
        return await self._calls.call(tool, args, talk)

    async def ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """Ask something that is no tool call; nothing is retried.

        Raises:
            ServerUnavailable: It did not answer in time, or not as the protocol wants it.
            ServerRefused: It does not do that.
        """
        try:
            with anyio.fail_after(self._tool_timeout):
                return await question(await self.borrow())
        except MCPError as error:
            raised: ChatError = not_done(error, self.server.alias)
        except ChatError:
            raise
        except TimeoutError:
            raised = ServerUnavailable(f"The server did not answer within {self._tool_timeout:g} seconds.")
        except Exception as error:  # noqa: BLE001 - whatever the SDK makes of an answer that is none
            log.warning("answer.unreadable", alias=self.server.alias, error=type(error).__name__)
            raised = ServerUnavailable(UNREADABLE)
        self._doubt.set()
        raise raised

    async def borrow(self) -> Client:
        """Return the open client, waiting a while for one that is being opened again.

        Raises:
            ServerUnavailable: It took too long.
            SignInNeeded: Its user must sign in first.
        """
        self._borrowers += 1
        self._wanted.set()
        try:
            with anyio.move_on_after(self._connect_timeout):
                while not self._stop.is_set():
                    if self.state == "sign_in":
                        raise SignInNeeded(self.server.alias, self.sign_in)
                    if self._client is not None:
                        return self._client
                    await self._opened.wait()
        finally:
            self._borrowers -= 1
            if not self._borrowers:
                self._wanted = anyio.Event()
        raise ServerUnavailable(f"The server {self.server.alias} is not reachable at the moment.")

    def _hooks(self) -> Hooks:
        extensions = [Tasks(), *offered(self.server)]
        return Hooks(elicit=self._calls.elicit, hear=self._hear, extensions=extensions, auth=self.auth)

    async def _hear(self, message: IncomingMessage) -> None:
        await self._calls.hear(message)
        await self.news.hear(message)

    def _offers(self, tool: Tool) -> bool:
        return any((t.remote_name, t.digest) == (tool.remote_name, tool.digest) for t in self.tools)

    def _suspect(self) -> None:
        """Have a look whether the server is still there."""
        self._doubt.set()

    async def _keep(self) -> None:
        """Hold it open, and open it again after ever longer rests: a server may die each time it is used."""
        delay = FIRST_REST
        while not self._stop.is_set():
            await self._rest(delay)
            delay = FIRST_REST if await self._reopen() else min(delay * 2, LONGEST_REST)

    async def _serve_first(self, task_status: TaskStatus[None]) -> None:
        """Serve; that its user must sign in first is no failure."""
        try:
            await self._serve(task_status)
        except SignInNeeded as error:
            began, self._began = self._began, True
            self._turn_away(error)
            if not began:  # else whoever waits for that was told when it was open
                task_status.started()

    async def _serve(self, task_status: TaskStatus[None]) -> None:
        """Open the client, list its tools, and hold it open until the end or until it breaks."""
        opened = False
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + self._connect_timeout) as scope:
                async with self._connector(self.server, self._hooks()) as client:
                    trust_nothing(client)
                    keep_raw(client)
                    cut_lists(client, self._limits.tools)
                    await self._offer(client)
                    scope.deadline = math.inf
                    opened = True
                    try:
                        self._lend(client)
                        task_status.started()
                        async with self.news.of(client):
                            await self._watch(client)
                    finally:
                        self._take_back()
                        scope.deadline = anyio.current_time() + PATIENCE
        except Exception as error:  # whatever the far side provokes, in whatever form the SDK raises it
            if not opened or isinstance(unreachable(error), SignInNeeded):
                raise unreachable(error) from error
            log.warning("connection.lost", alias=self.server.alias, error=type(error).__name__)
        if not opened:
            raise ServerUnavailable

    async def _offer(self, client: Client) -> None:
        """List the server's tools, and offer them."""
        found = await all_tools(client, self._limits, self.server.alias)
        self.held = await self.admit(found)
        await self._take(found)

    async def _take(self, found: Sequence[Listed]) -> None:
        """Take over what a server lists; what is too large or too deep is left out."""
        naming = partial(
            named,
            self.server.alias,
            [each.tool for each in found],
            safe=self.server.safe_tools,
            trust_read_only=self.server.trust_read_only,
        )
        tools = await to_thread.run_sync(naming)  # many large schemas take a while
        digests = digests_of(each.definition for each in found)
        tools = tuple(replace(tool, digest=digests.get(key_of(tool.remote_name), "")) for tool in tools)
        pairs = list(zip(tools, found, strict=True))
        barred = self.server.barred_tools
        self._all = tuple(t for t, each in pairs if not (each.fault or t.remote_name in barred))
        self.left_out = {tool.name: each.fault for tool, each in pairs if each.fault}
        if self.left_out:
            log.warning("tools.left_out", alias=self.server.alias, tools=self.left_out)
        self._select()

    def _select(self) -> None:
        """Offer what is neither held back nor switched off."""
        barred = {*self.held, *self.server.disabled_tools}
        self.tools = tuple(
            tool for tool in self._all if tool.remote_name not in barred and self.verdict(tool) != "deny"
        )
        self.edition = next(_editions)
        if self.state == "open":
            self.tell(self, "tools")

    @property
    def problem(self) -> str:
        """Why it is not open, or nothing."""
        return str(self._failure) if self._failure and self.state == "lost" else ""

    @property
    def signed_in(self) -> bool:
        """Whether its user has signed in to it by OAuth."""
        return isinstance(self.auth, Bearer) and self.auth.signed_in

    @property
    def all_tools(self) -> tuple[Tool, ...]:
        """What it lists, be it used or not."""
        return self._all

    def _become(self, state: State, sign_in: str = "") -> None:
        changed = (state, sign_in) != (self.state, self.sign_in)
        self.state, self.sign_in = state, sign_in
        if changed:
            self.tell(self, state)

    def _turn_away(self, needed: SignInNeeded) -> None:
        """Tell whoever waits that its user must sign in, unless they have done so meanwhile."""
        if self._again.is_set():
            self._become("opening")
        else:
            self._become("sign_in", needed.url)
        self._opened.set()
        self._opened = anyio.Event()

    async def _watch(self, client: Client) -> None:
        """Return at the end; raise when the client is of no more use.

        A server that has forgotten the session, and a client that can no longer write, are told from a
        call that merely failed by asking once more.
        """
        while not self._stop.is_set():
            await self._doubt.wait()
            self._doubt, stale, self._stale = anyio.Event(), self._stale, False
            if not self._stop.is_set():
                with anyio.fail_after(self._connect_timeout):
                    await (self._offer(client) if stale else client.list_tools(cache_mode="bypass"))

    async def _reopen(self) -> bool:
        """Open it again; return whether it then stayed open for a while."""
        self._steady_at = math.inf
        try:
            await self._serve(anyio.TASK_STATUS_IGNORED)
        except SignInNeeded as error:
            self._turn_away(error)
        except ChatError as error:
            log.info("connection.refused", alias=self.server.alias, error=error.code)
            self._failure = error
            self._become("lost")
        self._tried.set()
        return anyio.current_time() >= self._steady_at

    def _lend(self, client: Client) -> None:
        self._began = True
        self._steady_at = anyio.current_time() + STEADY
        self._client = client
        self.offers = kinds(client.server_capabilities)
        self._failure = None
        self._become("open")
        self._tried.set()
        self._opened.set()

    def _take_back(self) -> None:
        """Let the next borrowers wait. Those who wait already must be woken by the same event."""
        self._client = None
        if self._opened.is_set():
            self._opened = anyio.Event()
        if not self._stop.is_set():
            self._become("lost")

    async def _rest(self, delay: float) -> None:
        """Wait before the next attempt; a call that needs the server shortens it, and so does the end."""
        with anyio.move_on_after(SHORTEST_REST):
            await self._stop.wait()
        if self._stop.is_set():
            return
        if self.state == "sign_in" or self._again.is_set():  # told so meanwhile
            await self._again.wait()
        else:
            with anyio.move_on_after(delay - SHORTEST_REST):
                await self._wanted.wait()
        self._again = anyio.Event()
        if not self._borrowers:
            self._wanted = anyio.Event()


def _untold(_: Connection, __: str) -> None:
    """Tell nobody."""
