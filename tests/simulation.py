"""Several workers in one event loop with virtual time, each of whose steps may be held up, lost or the last.

A `World` has one shared in-memory store, one archive (a dictionary twin of SQL's) and any number of workers,
each put together as `mcp_chat.assembly` does it. What a worker does outside itself (a call of store or
archive, a word of its model, a tool call) goes through its `Process`, which can be stopped there, killed
there, or cut off. The `Journal` is what somebody sees who stands beside the store.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from random import Random
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal, cast
from unittest.mock import patch

import anyio
import anyio.to_thread
import structlog
from anyio.abc import TaskStatus

from mcp_chat.agent import Loop
from mcp_chat.agents import UNKNOWN
from mcp_chat.assembly import HELD
from mcp_chat.branch import Side, Tree
from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.commands import Command, Connect, Send
from mcp_chat.config import CONFIG, ModelConfig, ServerConfig, UserConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.connections import Connection, Held
from mcp_chat.context import Budget
from mcp_chat.deed import Deed
from mcp_chat.dispatch import Dispatch
from mcp_chat.events import Entry, Final, TextDelta, is_final, order
from mcp_chat.exceptions import ChatError, Fenced, StoreUnavailable
from mcp_chat.feed import Feed, Gap
from mcp_chat.grants import Grants
from mcp_chat.heart import LoopHeart
from mcp_chat.history import ChatHistoryManager
from mcp_chat.limits import ModelLimits, ServerLimits
from mcp_chat.message import UNREADABLE, Message, ToolCall, Usage
from mcp_chat.metrics import Metrics
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Piece, Request
from mcp_chat.models.window import Window
from mcp_chat.netguard import Lookups, Policy
from mcp_chat.news import News
from mcp_chat.oauth.sign_ins import SignIns
from mcp_chat.ownership import Ownership
from mcp_chat.papers import Papers
from mcp_chat.providers import Providers
from mcp_chat.results import ToolResult
from mcp_chat.session import Session
from mcp_chat.stores.base import Accepted, Addition, Archive, Lease, Store
from mcp_chat.stores.bells import LocalBells
from mcp_chat.stores.memory import MemoryDocuments, MemoryLeases, MemoryLog, MemoryStore
from mcp_chat.stores.usages import MemoryUsages
from mcp_chat.together import together
from mcp_chat.tools import Listed, Tool
from mcp_chat.upload import Upload
from mcp_chat.vault import Vault
from mcp_chat.workshop import Workshop

EPOCH_TIME = 1_800_000_000.0
"""What the clock on the wall says when a world begins."""

VAULT = Vault([b"k" * 32])
Part = Literal["store", "archive"]


# Time


class _Leap(selectors.DefaultSelector):
    """Waits for nothing: it puts the clock forward instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("Nothing is going to happen any more.")
        self.now += max(timeout, 1e-5)  # a turn of the loop takes its time: whoever spins gets somewhere
        return super().select(0)


class _Task(asyncio.Task[Any]):
    """A task whose place in a set is the same in each run."""

    numbers = itertools.count()

    def __init__(self, *args: Any, **options: Any) -> None:
        self._number = next(self.numbers)
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which a pause takes no time."""

    def __init__(self) -> None:
        self._leap = _Leap()
        super().__init__(self._leap)
        self.set_task_factory(lambda loop, work, **options: _Task(work, loop=loop, **options))

    def time(self) -> float:
        return self._leap.now


# The store and the archive, and what is seen beside them


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """An entry as it was accepted.

    Attributes:
        tick: Orders all that happens in a world.
    """

    tick: int
    worker: str
    entry: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """A tool call that has reached its server."""

    tick: int
    worker: str
    name: str
    call_id: str


@dataclass(slots=True, kw_only=True)
class Asked:
    """A command and what became of it, as its sender sees it.

    Attributes:
        accepted: When it was acknowledged; None if it was not.
        answered: When its end was heard.
    """

    user: str
    command: Command
    begun: int
    accepted: int | None = None
    answered: int | None = None
    seen: list[Entry] = field(default_factory=list)
    final: Final | None = None
    error: str = ""


@dataclass(slots=True, kw_only=True)
class Reading:
    """What one reader was given behind a place, until it broke off."""

    user: str
    after: str
    process: Process
    found: list[Entry | Gap] = field(default_factory=list)
    broken: bool = False


class Journal:
    """What happened, in one order."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1)
        self.logged: dict[str, list[Logged]] = defaultdict(list)
        self.called: list[Called] = []
        self.asked: list[Asked] = []
        self.readings: list[Reading] = []
        self.crashes: list[str] = []
        self.losses = 0

    def tick(self) -> int:
        """Return the next moment."""
        return next(self._ticks)


class SimLeases(MemoryLeases):
    """As Redis: it is the lease that fences, so whoever loses it loses the fence."""

    fencing = True

    def check(self, user: str, epoch: int | None) -> None:
        lease = self._leases.get(user)
        if self.fencing and epoch is not None and lease and lease.epoch > epoch:
            raise Fenced

    async def renew(self, lease: Lease, *, anew: bool = False) -> bool:
        return await super().renew(lease, anew=anew) or not self.fencing

    def drop_lease(self, user: str) -> None:
        """Let a lease expire, and with it what it fences."""
        self._leases.pop(user, None)
        self._epochs.pop(user, None)

    def drop_beat(self, worker: str) -> None:
        """Let a heartbeat expire."""
        if worker in self._beats:
            self._beats[worker] = 0.0

    def flush(self) -> None:
        """Forget everything."""
        for each in (self._leases, self._epochs, self._beats, self._locks, self._users, self._away):
            each.clear()


class SimBells(LocalBells):
    """Bells that may be lost."""

    lost = False

    def ring_local(self, name: str, note: str = "") -> None:
        if not self.lost:
            super().ring_local(name, note)


class SimLog(MemoryLog):
    """As Redis: it refuses what is below its end, and knows when it has lost its data."""

    def __init__(self, leases: SimLeases, bells: SimBells, journal: Journal) -> None:
        super().__init__(leases, bells, 100_000)
        self._sim_leases = leases
        self._journal = journal
        self.acting = ""

    async def append(
        self, user: str, epoch: int, entries: Sequence[Entry], *, ttl: int | None = None
    ) -> None:
        if self._sim_leases.fencing:
            if order(self.end_now(user))[0] > epoch:
                raise Fenced
            fresh = [entry for entry in entries if order(entry.id) > order(self.end_now(user))]
            await super().append(user, epoch, entries)
        else:
            fresh = list(entries)
            self._entries[user] += entries
        known = {logged.entry.id: logged.entry for logged in self._journal.logged[user]}
        for entry in fresh:
            if known.get(entry.id) != entry:  # what a flush has taken may be said again
                seen = Logged(tick=self._journal.tick(), worker=self.acting, entry=entry)
                self._journal.logged[user].append(seen)

    def flush(self) -> None:
        """Forget everything."""
        for each in (self._entries, self._ends, self.seen):
            each.clear()


class SimStore(MemoryStore):
    """The store that all workers share."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock, max_messages=10_000)
        self.sim_leases = self.leases = SimLeases(clock)
        self.sim_bells = self.bells = SimBells()
        self.sim_log = self.log = SimLog(self.sim_leases, self.sim_bells, journal)
        for part in (self.inbox, self.window, self.configs, self.documents):
            part._leases = self.leases
        self.usages = MemoryUsages(self.leases)
        self.inbox._log = self.log
        self._journal = journal

    def flush(self) -> None:
        """FLUSHALL."""
        self._journal.losses += 1
        self.sim_leases.flush()
        self.sim_log.flush()
        for each in (self.inbox._waiting, self.window._messages, self.configs._configs, self.documents):
            each.clear()


@dataclass(slots=True)
class _Row:
    user: str
    command: Command
    at: float
    outcome: Final | None = None
    attempts: int = 0
    again: bool = False


class SimArchive:
    """SQL's twin in dictionaries, as far as owners need it."""

    fencing = True

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.epochs: dict[str, int] = defaultdict(int)
        self.configs: dict[str, str] = {}
        self.commands: dict[tuple[str, str], _Row] = {}
        self.messages: dict[tuple[str, str], dict[str, Message]] = defaultdict(dict)
        self.sides: dict[tuple[str, str], tuple[Side, ...]] = defaultdict(tuple)
        self.trail: dict[tuple[str, str], Deed] = {}
        self.documents = MemoryDocuments(self, clock)
        self.get_document = self.documents.get_document
        self.list_documents = self.documents.list_documents
        self.put_document = self.documents.put_document
        self.drop_document = self.documents.drop_document
        self.usages = MemoryUsages(self)
        self.spend, self.steps, self.sums = self.usages.spend, self.usages.steps, self.usages.sums

    def check(self, user: str, epoch: int | None) -> None:
        """Refuse an epoch that is not the newest."""
        self._hold(user, epoch)

    def _hold(self, user: str, epoch: int | None) -> None:
        if epoch is not None and self.fencing and epoch < self.epochs[user]:
            raise Fenced
        self.epochs[user] = max(self.epochs[user], epoch or 0)

    async def epoch(self, user: str) -> int:
        return self.epochs[user]

    async def next_epoch(self, user: str, floor: int) -> int:
        self.epochs[user] = max(self.epochs[user] + 1, floor)
        return self.epochs[user]

    async def get(self, user: str) -> str | None:
        return self.configs.get(user)

    async def put(self, user: str, sealed: str, *, epoch: int) -> None:
        self._hold(user, epoch)
        self.configs[user] = sealed

    async def delete(self, user: str, *, epoch: int) -> None:
        self._hold(user, epoch)
        self.configs.pop(user, None)

    async def accept(self, user: str, command: Command) -> Accepted:
        new = (user, command.id) not in self.commands
        row = self.commands.setdefault((user, command.id), _Row(user, command, self._clock()))
        row.again |= not new
        return replace(_accepted(row), new=new)

    async def withdraw(self, user: str, command_id: str) -> None:
        row = self.commands.get((user, command_id))
        if row and row.outcome is None and not row.again:
            del self.commands[user, command_id]

    async def accepted(self, user: str, command_id: str) -> Accepted | None:
        row = self.commands.get((user, command_id))
        return _accepted(row) if row else None

    async def open_commands(self, user: str) -> list[Command]:
        return [row.command for row in self.commands.values() if row.user == user and row.outcome is None]

    async def retry(self, user: str, command_id: str, *, epoch: int) -> int:
        self._hold(user, epoch)
        row = self.commands.get((user, command_id))
        if row is None or row.outcome is not None:
            return 0
        row.attempts += 1
        return row.attempts

    async def end(self, user: str, command_id: str, outcome: Final, *, epoch: int) -> None:
        self._hold(user, epoch)
        row = self.commands.get((user, command_id))
        if row and row.outcome is None:
            row.outcome = outcome

    async def neglected(self, *, seconds: float, limit: int = 1000) -> list[str]:
        since = self._clock() - seconds
        return list({row.user: 0 for row in self.commands.values() if row.outcome is None and row.at < since})

    async def add(self, addition: Addition) -> None:
        self._hold(addition.user, addition.epoch)
        messages = self.messages[addition.user, addition.session_id]
        for message in addition.messages:
            messages.setdefault(message.id, message)
        if addition.epoch is not None:
            await self.usages.spend(addition.user, addition.spent, epoch=addition.epoch)
        if addition.ends and addition.epoch is not None:
            await self.end(addition.user, *addition.ends, epoch=addition.epoch)
        await self.note(addition.user, addition.deeds)

    async def note(self, user: str, deeds: Sequence[Deed]) -> None:
        for deed in deeds:
            self.trail.setdefault((user, deed.id), deed)

    async def read(self, user: str, session_id: str, *, limit: int) -> list[Message]:
        return list(self.messages[user, session_id].values())[-limit:]

    async def cut(self, user: str, session_id: str, message_id: str, *, side: str, epoch: int | None) -> None:
        self._hold(user, epoch)
        self._grow(user, session_id, self.tree(user, session_id).cut(message_id, side))

    async def switch(self, user: str, session_id: str, message_id: str, *, epoch: int | None) -> None:
        self._hold(user, epoch)
        self._grow(user, session_id, self.tree(user, session_id).switch(message_id))

    def tree(self, user: str, session_id: str) -> Tree:
        """What is shown of a session, and what is not."""
        key = (user, session_id)
        return Tree(line=tuple(self.messages[key].values()), sides=self.sides[key])

    def _grow(self, user: str, session_id: str, tree: Tree) -> None:
        self.messages[user, session_id] = {message.id: message for message in tree.line}
        self.sides[user, session_id] = tree.sides

    async def turn(self, user: str, session_id: str, run: str) -> list[Message]:
        tree = self.tree(user, session_id)
        found = [*tree.line, *(message for side in tree.sides for message in side.messages)]
        return [message for message in found if message.id.startswith(f"{run}-")]

    async def sessions(self, user: str, *, limit: int, **_: Any) -> list[Session]:
        return [Session(id=id_) for name, id_ in self.messages if name == user][:limit]

    async def session(self, user: str, session_id: str) -> Session | None:
        return Session(id=session_id) if self.messages[user, session_id] else None

    async def standing(self, user: str, session_id: str, ids: Sequence[str]) -> list[Any]:
        return []


def _accepted(row: _Row) -> Accepted:
    send = row.command if isinstance(row.command, Send) else None
    return Accepted(
        id=row.command.id,
        session_id=send.session_id if send else "",
        run=send.run if send else "",
        command=None if row.outcome else row.command,
        outcome=row.outcome,
    )


# A worker


class Process:
    """What can be done to a worker from outside.

    Attributes:
        trap: Asked after each call of store and archive whether the worker dies of it.
        countdown: Steps until `then` is done to it.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.trap: Callable[[str, tuple[Any, ...]], bool] = lambda name, args: False
        self.countdown = -1
        self.then: Callable[[], None] = self.stop
        self.clients: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()
        self.draining = asyncio.Event()
        self.ended = asyncio.Event()
        self.reports: asyncio.Queue[str] = asyncio.Queue()
        self._go_on = asyncio.Event()
        self._go_on.set()
        self.heart: LoopHeart
        self.feed: Feed
        self.ownership: Ownership
        self.dispatch: Dispatch

    @property
    def stopped(self) -> bool:
        """Whether it does nothing."""
        return not self._go_on.is_set()

    def stop(self) -> None:
        """SIGSTOP."""
        self._go_on.clear()

    def go_on(self) -> None:
        """SIGCONT, unless it is dead."""
        if not self.dead:
            self.countdown = -1
            self._go_on.set()

    def kill(self) -> None:
        """SIGKILL: whatever it is about to do is never done."""
        self.dead = True
        self.stop()
        for client in self.clients:
            client.cancel()
        if hasattr(self, "heart") and self.heart._task:
            self.heart._task.cancel()

    async def step(self) -> None:
        """Come to a place where it can be stopped."""
        if self.countdown >= 0:
            self.countdown -= 1
            if self.countdown < 0:
                self.then()
        while not self._go_on.is_set():
            if self.world.over:
                raise asyncio.CancelledError
            await self._go_on.wait()

    async def sleep(self, seconds: float) -> None:
        """Let time pass, and maybe more of it than was asked for."""
        await asyncio.sleep(seconds)
        await self.step()

    async def live(self) -> None:
        """Be a worker, from start to end; see `mcp_chat.app.create_app`."""
        world = self.world
        store = cast(Store, Reach(self, world.store, "store"))
        archive = cast(Archive, Reach(self, world.archive, "archive")) if world.archive else None
        async with anyio.create_task_group() as tasks:
            self.heart = LoopHeart(self.name, store.leases, clock=world.loop.time)
            self.feed = Feed(store.log, store.bells, tasks, world.metrics)
            self.feed.start()
            shop = self._workshop(store, archive)
            self.ownership = Ownership(shop, self.heart, tasks)
            await self.ownership.start()
            tasks.start_soon(self.ownership.hear_deaths, self._deaths())
            record = shop.history.record
            self.dispatch = Dispatch(store, archive, record, self.ownership, self.feed, patience=120)
            self.ready.set()
            await self.draining.wait()
            await self.ownership.stop(2)
            tasks.cancel_scope.cancel()
        self.ended.set()
        self.kill()

    def _workshop(self, store: Store, archive: Archive | None) -> Workshop:
        budget, lookups = Budget(), Lookups()
        papers = Papers(archive or store.documents, VAULT)
        return Workshop(
            store=store,
            archive=archive,
            configs=UserConfigs(store.configs, archive, VAULT),
            history=ChatHistoryManager(
                None, 50, 3600, archive, window=store.window, budget=budget, usages=store.usages
            ),
            vault=VAULT,
            providers=cast(
                Providers,
                SimpleNamespace(
                    open=lambda config, _: Voice(self),
                    prove=_accept,
                    known=_nothing_known,
                    fallbacks=lambda _: [],
                    whereabouts=lambda _: "",
                ),
            ),
            connection=lambda server, _: cast(Connection, Line(self, server)),
            held=lambda: self.heart.beats(HELD),
            deliver=self.feed.deliver,
            metrics=self.world.metrics,
            turn_timeout=60,
            model_timeout=30,
            tool_rounds=8,
            model_limits=ModelLimits(),
            server_limits=ServerLimits(),
            parallel_calls=8,
            server_calls=8,
            upload_quota=10**6,
            user_turns=4,
            places=anyio.CapacityLimiter(self.world.turns),
            idle_timeout=self.world.idle_timeout,
            session_ttl=3600,
            budget=budget,
            keep_history=True,
            summary=False,
            max_app=2**20,
            papers=papers,
            sign_ins=SignIns(papers, Policy(), lookups, redirect_uri="", client_url=None, timeout=1),
            lookups=lookups,
            grants=Grants(papers=papers, seconds=3600),
            approvals=False,
            max_upload=2**20,
        )

    async def _deaths(self) -> AsyncIterator[str]:
        while True:
            yield await self.reports.get()


class Reach:
    """A worker's way to a store, to the archive, or to a part of them."""

    def __init__(self, process: Process, to: Any, part: Part, name: str = "") -> None:
        self._process = process
        self._to = to
        self._part = part
        self._name = name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._to, name)
        if asyncio.iscoroutinefunction(found):
            found = self._through(f"{self._name}.{name}".lstrip("."), found)
        elif name in ("leases", "inbox", "log", "window", "configs", "bells", "documents", "usages"):
            found = Reach(self._process, found, self._part, name)
        setattr(self, name, found)
        return found

    def _through(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        process, world = self._process, self._process.world

        async def call(*args: Any, **kwargs: Any) -> Any:
            await process.sleep(world.latency())
            if world.away(self._part):
                raise StoreUnavailable
            world.store.sim_log.acting = process.name
            answer = await method(*args, **kwargs)
            if process.trap(name, args):
                process.kill()
            await process.sleep(world.latency())
            if world.away(self._part) and world.random.random() < 0.5:
                raise StoreUnavailable  # it was done, and nobody here knows
            return answer

        return call


class Line:
    """A connection to a server that journals each call."""

    tools = tuple(
        Tool(name=f"t__{name}", alias="t", remote_name=name, description="", schema={}, safe=name == "safe")
        for name in ("once", "safe")
    )
    all_tools = tools
    left_out: Mapping[str, str] = MappingProxyType({})
    held: Mapping[str, Held] = MappingProxyType({})
    edition = 1
    sign_in = ""
    signed_in = False

    def __init__(self, process: Process, server: ServerConfig) -> None:
        self.server = server
        self.news = News()
        self._process = process
        self._open = anyio.Event()
        self._stop = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        await self._process.sleep(0.1)
        task_status.started()
        self._open.set()
        await self._stop.wait()

    async def resume(self) -> None:
        await self.run()

    async def first_attempt(self) -> None:
        await self._open.wait()

    async def know(self, found: Sequence[Listed]) -> None:
        """Its tools are known."""

    async def close(self) -> None:
        self._stop.set()

    async def call(self, tool: Tool, args: Mapping[str, Any], on_progress: Any) -> ToolResult:
        process, journal = self._process, self._process.world.journal
        await process.sleep(0.005)
        called = Called(
            tick=journal.tick(),
            worker=process.name,
            name=tool.remote_name,
            call_id=args["id"],
        )
        journal.called.append(called)
        if process.trap("tool.call", ()):
            process.kill()
        await process.sleep(0.2)
        return ToolResult(text=f"done by {process.name}")


async def _accept(_config: ModelConfig) -> None:
    """Every model can be made."""


async def _nothing_known(_config: ModelConfig, _resolver: object) -> CatalogueEntry:
    """Nobody knows anything of them."""
    return UNKNOWN


@dataclass(frozen=True, slots=True)
class Voice:
    """The model of a process: what it says, `Parrot` says."""

    process: Process

    async def aclose(self) -> None:
        """Hold nothing open."""


class Parrot:
    """Stands in for `mcp_chat.agent.Agent`: the question says how many words and which tool calls come.

    ``"3 once 2 once,safe 4"``: three words and a call, two words and two calls, four words. A call with a
    ``?`` behind it has arguments that nobody can read.
    """

    def __init__(self, model: Voice, tools: Sequence[Tool], **_limits: Any) -> None:
        self._process = model.process
        self.window = Window()

    async def run(
        self, messages: Sequence[Message], files: Mapping[str, Upload], loop: Loop, **_settings: Any
    ) -> Message:
        asked = max(n for n, message in enumerate(messages) if message.role == "user")
        plan, run = messages[asked].content.split(), messages[asked].id
        request = Request(messages=messages)
        done = sum(bool(message.tool_calls) for message in messages[asked:])
        for n in range(done, len(plan) // 2):
            said = await self._say(int(plan[2 * n]), loop, request)
            names = plan[2 * n + 1].split(",")
            calls = tuple(
                ToolCall(id=f"{run}-{n}-{m}", name=f"t__{name.rstrip('?')}", args={"id": f"{run}-{n}-{m}"})
                for m, name in enumerate(names)
            )
            bad = [call.id for call, name in zip(calls, names, strict=True) if name.endswith("?")]
            metadata = {UNREADABLE: bad} if bad else {}
            asking = Message(role="assistant", content=said, tool_calls=calls, metadata=metadata)
            await loop.record(asking, Usage(output_tokens=1))
            await together(loop.run_call(call) for call in calls)
        said = await self._say(int(plan[-1]), loop, request)
        return await loop.record(Message(role="assistant", content=said), Usage(output_tokens=1))

    async def _say(self, words: int, loop: Loop, request: Request) -> str:
        said, answer = "", Answer(ModelLimits())
        await loop.allow(request, answer, "sim:voice")
        for n in range(words):
            await self._process.sleep(0.03)
            word = f"{self._process.name}{n} "
            said += word
            answer.add(Piece(text=word))
            loop.tell(TextDelta(text=word))
        return said


# All of it


class World:
    """A store, an archive, workers, and those who use them. Used as a context, and by one thread.

    Args:
        seed: Of all delays.
        archive: Whether there is a database.
        idle_timeout: Seconds after which an actor rests.
        fencing: Whether stores refuse what an earlier epoch writes.
        turns: That each worker runs at a time.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        archive: bool = True,
        idle_timeout: float = 3600,
        fencing: bool = True,
        turns: int = 256,
    ) -> None:
        self.loop = VirtualLoop()
        self.random = Random(seed)
        self.journal = Journal()
        self.store = SimStore(self.journal, self.loop.time)
        self.archive = SimArchive(self.loop.time) if archive else None
        self.store.sim_leases.fencing = fencing
        if self.archive:
            self.archive.fencing = fencing
        self.metrics = Metrics()
        self.idle_timeout = idle_timeout
        self.turns = turns
        self.over = False
        self.workers: list[Process] = []
        self.logs: list[Any] = []
        self._outages: dict[Part, float] = {"store": 0.0, "archive": 0.0}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._patches = ExitStack()

    def __enter__(self) -> World:
        clock = SimpleNamespace(
            monotonic=self.loop.time,
            time=lambda: EPOCH_TIME + self.loop.time(),
            perf_counter=time.perf_counter,
        )
        for name, module in list(sys.modules.items()):
            if name.startswith("mcp_chat.") and getattr(module, "time", None) is time:
                self._patches.enter_context(patch.object(module, "time", clock))
        self._patches.enter_context(patch("mcp_chat.agents.Agent", Parrot))
        self._patches.enter_context(patch("anyio.to_thread.run_sync", _at_once))
        self.logs = self._patches.enter_context(structlog.testing.capture_logs())
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.over = True
            for worker in self.workers:
                worker.stop()
            while pending := asyncio.all_tasks(self.loop):
                for task in pending:
                    task.cancel()
                self.loop.run_until_complete(asyncio.wait(pending, timeout=0.01))
            self.loop.close()
        finally:
            self._patches.close()

    def latency(self) -> float:
        """Return how long a message is on its way."""
        return self.random.choice((0.0, 0.0002, 0.001, 0.004))

    def away(self, part: Part) -> bool:
        """Tell whether a part does not answer."""
        return self.loop.time() < self._outages[part]

    def cut(self, part: Part, seconds: float) -> None:
        """Let a part not answer for a while."""
        self._outages[part] = self.loop.time() + seconds

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def until(self, true: Callable[[], bool], limit: float = 60) -> bool:
        """Let time pass until something is true; tell whether it has become so."""
        end = self.loop.time() + limit
        while not true() and self.loop.time() < end:
            self.run(0.05)
        return true()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something, and return what comes of it."""
        return self.loop.run_until_complete(work)

    def begin(self, work: Coroutine[Any, Any, None], name: str = "") -> asyncio.Task[None]:
        """Begin something that nobody waits for; an error in it is a crash."""
        task = self.loop.create_task(work)
        self._tasks.add(task)

        def note(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            if not done.cancelled() and (error := done.exception()):
                self.journal.crashes.append(f"{name}: {error!r} {getattr(error, 'exceptions', '')}")

        task.add_done_callback(note)
        return task

    def start(self) -> Process:
        """Start a worker."""
        worker = Process(self, f"w{len(self.workers)}")
        self.workers.append(worker)
        self.begin(self._live(worker), worker.name)
        return worker

    async def _live(self, worker: Process) -> None:
        try:
            await worker.live()
        except StoreUnavailable:
            worker.kill()
        except BaseExceptionGroup as group:
            if worker.ready.is_set() or group.split(StoreUnavailable)[1]:
                raise
            worker.kill()  # it could not start

    @property
    def alive(self) -> list[Process]:
        """The workers that are not dead."""
        return [worker for worker in self.workers if not worker.dead]

    @property
    def open(self) -> list[Process]:
        """The workers that take requests."""
        return [worker for worker in self.alive if worker.ready.is_set() and not worker.draining.is_set()]

    def bury(self, worker: Process) -> None:
        """Tell one worker of another's death, as their master does."""
        for other in self.open[:1]:
            other.reports.put_nowait(worker.name)

    def ask(self, worker: Process, user: str, command: Command) -> Asked:
        """Send a command at one worker's door, and follow it to its end."""
        asked = Asked(user=user, command=command, begun=self.journal.tick())
        self.journal.asked.append(asked)
        client = self.begin(self._ask(worker, asked), "client")
        worker.clients.add(client)
        return asked

    async def _ask(self, worker: Process, asked: Asked) -> None:
        try:
            repeatable = isinstance(asked.command, Send)  # by `Workers.send_again`
            ticket = await worker.dispatch.submit(asked.user, asked.command, repeatable=repeatable)
            asked.accepted = self.journal.tick()
            async with aclosing(worker.dispatch.follow(asked.user, ticket)) as entries:
                async for entry in entries:
                    if entry:
                        asked.seen.append(entry)
                        if is_final(entry.event):
                            asked.final = entry.event
                            asked.answered = self.journal.tick()
        except ChatError as error:
            asked.error = error.code

    def read(self, worker: Process, user: str, after: str) -> Reading:
        """Read a log at one worker's door."""
        reading = Reading(user=user, after=after, process=worker)
        self.journal.readings.append(reading)
        worker.clients.add(self.begin(self._read(worker, reading), "reader"))
        return reading

    async def _read(self, worker: Process, reading: Reading) -> None:
        try:
            async with aclosing(worker.feed.follow(reading.user, reading.after)) as batches:
                async for batch in batches:
                    reading.found += [batch] if isinstance(batch, Gap) else batch
        except StoreUnavailable:
            reading.broken = True

    def config(self) -> UserConfig:
        """Return a new configuration."""
        return UserConfig(
            servers=(ServerConfig(alias="t", url="https://t.example/mcp"),),
            model=ModelConfig(provider="openai", model="parrot"),
        )

    def connect(self, user: str) -> Connect:
        """Return the command that connects a user."""
        text = CONFIG.dump_json(self.config()).decode()
        return Connect(sealed=VAULT.seal(text, user=user, field="connect"))


async def _at_once(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Stands in for a thread, which knows nothing of virtual time."""
    return function(*args)
