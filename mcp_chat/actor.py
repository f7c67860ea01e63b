"""One user at their owner: takes commands up in order, runs turns, holds the connections."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import structlog
from anyio import to_thread
from anyio.abc import TaskGroup

from mcp_chat.agent import Agent
from mcp_chat.commands import Cancel, Command, Connect, DeleteSession, Disconnect, Send
from mcp_chat.config import CONFIG, ServerConfig, UserConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.connections import Connection, Toolbox, close_all, open_all
from mcp_chat.context import Budget
from mcp_chat.events import (
    Cancelled,
    Connected,
    Disconnected,
    Entry,
    Event,
    Failed,
    Final,
    MessageAdded,
    SessionDeleted,
    TurnFinished,
    TurnStarted,
    is_final,
)
from mcp_chat.exceptions import (
    ChatError,
    Fenced,
    Interrupted,
    InvalidRequest,
    NotConnected,
    ServerUnavailable,
    StoreUnavailable,
    Unexpected,
)
from mcp_chat.history import ChatHistoryManager
from mcp_chat.message import new_id
from mcp_chat.providers import Model, Providers
from mcp_chat.stores.base import START, Archive, Lease, Store, Waiting
from mcp_chat.stores.bells import LocalBell
from mcp_chat.summary import TASK, sum_up
from mcp_chat.turn import Scribe, Turn, failed, question, unfinished
from mcp_chat.vault import Vault
from mcp_chat.writer import EventWriter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every actor of a worker works with."""

    store: Store
    archive: Archive | None
    configs: UserConfigs
    history: ChatHistoryManager
    vault: Vault
    providers: Providers
    connection: Callable[[ServerConfig], Connection]
    turn_timeout: float
    model_timeout: float
    tool_rounds: int
    idle_timeout: float
    budget: Budget
    keep_history: bool
    summary: bool


@dataclass(frozen=True, slots=True)
class Ready:
    """An open model, its agent, and the open connections whose tools it has."""

    model: Model
    agent: Agent
    toolbox: Toolbox

    async def aclose(self) -> None:
        """Close connections and model."""
        await close_all(self.toolbox.connections)
        await self.model.aclose()


@dataclass(slots=True)
class Running:
    """A turn that runs or waits for its session's turn to end."""

    session_id: str
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    stopped: bool = False

    def stop(self) -> None:
        """Stop it because the user wants so."""
        self.stopped = True
        self.scope.cancel()

    def why_cancelled(self) -> Final:
        """Return the event that ends a cancelled turn."""
        return TurnFinished(stopped=True) if self.stopped else failed(Interrupted())


class Actor:
    """Serves one user for as long as the lease is held, and is used by nobody else.

    Args:
        lease: The user and the epoch.
        workshop: What it works with.
    """

    def __init__(self, lease: Lease, workshop: Workshop) -> None:
        self.lease = lease
        self.user = lease.user
        self._shop = workshop
        self._writer = EventWriter(workshop.store.log, lease)
        self._bell = LocalBell()
        self._place = START
        self._seen: set[str] = set()
        self._broken: dict[str, TurnStarted] = {}
        self._fresh: set[str] = set()
        self._held: list[Waiting] = []
        self._connecting: anyio.CancelScope | None = None
        self._turns: dict[str, Running] = {}
        self._locks: dict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._preparing = anyio.Lock()
        self._config: UserConfig | None = None
        self._ready: Ready | None = None
        self._tasks: TaskGroup | None = None
        self._aside: TaskGroup
        self._summing: set[str] = set()
        self._left = anyio.Event()
        self._leaving = False
        self._gone = anyio.Event()
        self._used = time.monotonic()

    def ring(self) -> None:
        """Say that there may be a command."""
        self._bell.ring("")

    async def run(self) -> None:
        """Serve until the user disconnects, is idle for too long, or another owner has taken over."""
        try:
            async with anyio.create_task_group() as writing:
                writing.start_soon(self._writer.run)
                self._aside = writing
                async with anyio.create_task_group() as self._tasks:
                    await self._recover()
                    await self._serve()
                    await self._let_go()
                writing.cancel_scope.cancel()
        except* ChatError as group:
            log.warning("actor.stopped", user=self.user, errors=sorted(codes(group)))
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await self._let_go()
            self._gone.set()

    async def leave(self, grace: float) -> None:
        """Give turns some seconds to end, interrupt the others, and wait until all is closed."""
        self._leaving = True
        with anyio.move_on_after(grace):
            for running in list(self._turns.values()):
                await running.ended.wait()
        self._left.set()
        for running in list(self._turns.values()):
            running.scope.cancel()
        self.ring()
        await self._gone.wait()

    # Recovery

    async def _recover(self) -> None:
        """End what an earlier owner left half done; remember what is not to be taken up again."""
        turns: dict[str, tuple[TurnStarted, list[Event]]] = {}
        for entry in await self._whole_log():
            if isinstance(entry.event, TurnStarted):
                turns[entry.command_id] = (entry.event, [])
            elif is_final(entry.event):
                turns.pop(entry.command_id, None)
                self._seen.add(entry.command_id)
            elif entry.command_id in turns:
                turns[entry.command_id][1].append(entry.event)
        for turn_id, (started, events) in turns.items():
            self._broken[turn_id] = started
            await self._interrupt(turn_id, started, events)

    async def _whole_log(self) -> list[Entry]:
        entries: list[Entry] = []
        while page := await self._shop.store.log.read(self.user, entries[-1].id if entries else START):
            entries += page
        return entries

    async def _interrupt(self, turn_id: str, started: TurnStarted, events: list[Event]) -> None:
        message = unfinished(started.run, events)
        if message:
            await self._scribe(started.session_id).write(message)
            self._writer.emit(turn_id, MessageAdded(message=message))
        self._writer.emit(turn_id, failed(Interrupted()))
        await self._writer.flush()
        log.info("turn.interrupted", user=self.user, turn=turn_id)

    # The inbox

    async def _serve(self) -> None:
        while not self._left.is_set():
            waiting = await self._waiting()
            self._held += waiting
            self._place = waiting[-1].place if waiting else self._place
            while not self._left.is_set() and (command := self._next()):
                await self._take_up(command)
            if not waiting and not self._left.is_set():
                await self._bell.wait(1.0)
                if self._idle():
                    self._left.set()

    def _next(self) -> Waiting | None:
        """Return the next command. During a connect only a cancel or a disconnect is one."""
        for place, each in enumerate(self._held):
            if self._connecting is None or isinstance(each.command, Cancel | Disconnect):
                return self._held.pop(place)
        return None

    async def _waiting(self) -> list[Waiting]:
        """Return new commands; an actor that leaves takes up none, so that the next owner does.

        Raises:
            Fenced: They are for another owner: the lease was taken, or the store has forgotten it.
        """
        if self._leaving:
            return []
        try:
            waiting = await self._shop.store.inbox.read(self.user, self._place)
            if waiting and await self._shop.store.leases.get(self.user) != self.lease:
                raise Fenced
            return waiting
        except StoreUnavailable:  # the writer decides when it has lasted too long
            await anyio.sleep(0.5)
            return []

    def _idle(self) -> bool:
        if self._turns:
            self._used = time.monotonic()
        return time.monotonic() - self._used > self._shop.idle_timeout

    async def _take_up(self, waiting: Waiting) -> None:
        self._used = time.monotonic()
        command = waiting.command
        if isinstance(command, Send) and command.id in self._broken:
            started = self._broken[command.id]  # it may have been broken off before the message was written
            await self._scribe(started.session_id).write(question(started.run, command))
        elif isinstance(command, Send) and command.id not in self._seen:
            running = self._turns[command.id] = Running(command.session_id)
            self._group.start_soon(self._turn, command, waiting.place, running)
            return  # the turn forgets it, when the message is in the history
        elif isinstance(command, Connect) and command.id not in self._seen:
            self._connecting = anyio.CancelScope()
            self._group.start_soon(self._connect_aside, waiting, self._connecting)
            return
        elif command.id not in self._seen:
            await self._answer(command)
        await self._forget(waiting.place)

    async def _connect_aside(self, waiting: Waiting, scope: anyio.CancelScope) -> None:
        """Connect in a task of its own: a server may take its time, and a turn can be stopped meanwhile."""
        try:
            with scope:
                await self._answer(waiting.command)
            if scope.cancelled_caught:
                self._writer.emit(waiting.command.id, failed(InvalidRequest("A disconnect came in between.")))
                await self._writer.flush()
            await self._forget(waiting.place)
        finally:
            self._connecting = None
            self.ring()

    async def _forget(self, place: str) -> None:
        """Take a command out of the inbox. If that fails, the log still tells that it was taken up."""
        with contextlib.suppress(StoreUnavailable):
            await self._shop.store.inbox.remove(self.user, place)

    async def _answer(self, command: Command) -> None:
        """Carry a command out that is not a turn, and say how it went."""
        try:
            event = await self._carry_out(command)
        except ChatError as error:
            event = failed(error)
        except Exception:  # a command that nobody can carry out must not come back for ever
            log.exception("command.crashed", user=self.user, command=command.type)
            event = failed(Unexpected())
        self._writer.emit(command.id, event)
        await self._writer.flush()
        self._mind(event)
        log.info("command.done", user=self.user, command=command.type, outcome=event.type)

    def _mind(self, outcome: Final) -> None:
        """Leave when the archive knows a newer owner: the store may have heard of none."""
        if isinstance(outcome, Failed) and outcome.code == Fenced.code:
            self._left.set()
            self.ring()

    async def _carry_out(self, command: Command) -> Final:
        match command:
            case Connect():
                return await self._connect(command)
            case Cancel():
                return Cancelled(turns=await self._cancel(command.session_id))
            case Disconnect():
                return await self._disconnect()
            case DeleteSession():
                return await self._delete(command.session_id)
            case Send():
                raise InvalidRequest

    # Turns

    async def _turn(self, command: Send, place: str, running: Running) -> None:
        """One turn at a time in a session, in the order in which the messages came."""
        structlog.contextvars.bind_contextvars(user=self.user, session=command.session_id, turn=command.id)
        started = False
        try:
            with running.scope:
                async with self._locks[command.session_id]:
                    started = True
                    await self._run_turn(command, place, running)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                if not started:
                    await self._decline(command, place, running)
            self._turns.pop(command.id, None)
            if not any(other.session_id == command.session_id for other in self._turns.values()):
                self._locks.pop(command.session_id, None)
            running.ended.set()

    async def _run_turn(self, command: Send, place: str, running: Running) -> None:
        run = new_id()
        turn = Turn(
            question(run, command),
            run=run,
            scribe=self._scribe(command.session_id),
            emit=self._emit(command.id),
            flush=self._writer.flush,
            prepare=self._prepare,
            taken=partial(self._forget, place),
            limit=self._shop.turn_timeout,
            budget=self._shop.budget,
        )
        self._mind(await turn.run(why_cancelled=running.why_cancelled))
        await self._forget(place)
        if self._shop.summary and self._shop.archive and self._ready:
            self._aside.start_soon(self._sum_up, command.session_id, self._shop.archive, self._ready.agent)

    async def _sum_up(self, session_id: str, archive: Archive, agent: Agent) -> None:
        """Sum up what the next turn will not be shown; nobody waits for it, and a failure costs nothing."""
        if session_id in self._summing:
            return
        self._summing.add(session_id)
        try:
            session = await self._shop.history.record.session(self.user, session_id)
            if session:
                say = partial(agent.sum_up, TASK)
                await sum_up(archive, self.user, session, self._shop.budget, say, self.lease.epoch)
        except ChatError as error:
            log.warning("summary.failed", user=self.user, error=error.code)
        except Exception:  # nobody waits for it, and nobody is to suffer from it
            log.exception("summary.crashed", user=self.user)
        finally:
            self._summing.discard(session_id)

    async def _decline(self, command: Send, place: str, running: Running) -> None:
        """End a turn that was stopped before it began. One that was not stopped stays in the inbox."""
        if running.stopped:
            self._writer.emit(command.id, TurnFinished(stopped=True))
            await self._writer.flush()
            await self._forget(place)

    def _emit(self, command_id: str) -> Callable[[Event], None]:
        return lambda event: self._writer.emit(command_id, event)

    def _scribe(self, session_id: str) -> Scribe:
        return Scribe(
            record=self._shop.history.record,
            user=self.user,
            session_id=session_id,
            epoch=self.lease.epoch,
            backend=self._config.backend if self._config else "",
            fresh=self._fresh,
        )

    async def _cancel(self, session_id: str | None) -> int:
        """Stop turns and wait until they have ended."""
        turns = [t for t in self._turns.values() if session_id in (None, t.session_id)]
        for running in turns:
            running.stop()
        for running in turns:
            await running.ended.wait()
        return len(turns)

    async def _delete(self, session_id: str) -> SessionDeleted:
        """Delete a session; if it is the connected one, a new one takes its place."""
        existed = await self._erase(session_id)
        config = self._config or await self._shop.configs.get(self.user)
        if config and config.session_id == session_id:
            existed = True
            config = replace(config, session_id=new_id())
            await self._shop.configs.put(self.user, config, epoch=self.lease.epoch)
            self._config = config if self._ready else None
        return SessionDeleted(existed=existed)

    async def _erase(self, session_id: str, stopped: Collection[str] = ()) -> bool:
        """Take a session and all that was said in it out of record and log; tell whether there was one.

        Args:
            stopped: Turns that were stopped a moment ago: somebody may still wait for their ends.
        """
        stopped = {*stopped, *self._turns}
        await self._cancel(session_id)
        existed = await self._shop.history.record.delete(self.user, session_id, epoch=self.lease.epoch)
        self._fresh.discard(session_id)
        await self._erase_log(session_id, set(stopped))
        return existed

    async def _erase_log(self, session_id: str, awaited: set[str]) -> None:
        """Take what was said in a session out of the log, but for the ends that somebody waits for."""
        entries = await self._whole_log()
        turns = {
            entry.command_id
            for entry in entries
            if isinstance(entry.event, TurnStarted) and entry.event.session_id == session_id
        }
        said = [
            entry
            for entry in entries
            if entry.command_id in turns and not (entry.command_id in awaited and is_final(entry.event))
        ]
        await self._shop.store.log.erase(self.user, said, turns - awaited)
        self._seen -= turns

    # Connections

    async def _connect(self, command: Connect) -> Connected:
        """Open the new connections first; only when they are proven does anything change."""
        wanted = self._shop.vault.open(command.sealed, user=self.user, field="connect")
        config = CONFIG.validate_json(wanted)
        ready = await self._open(config)
        earlier = self._config or await self._shop.configs.get(self.user)
        config = replace(config, tools=tuple(tool.name for tool in ready.toolbox.tools))
        try:
            await self._shop.configs.put(self.user, config, epoch=self.lease.epoch)
            stopped = set(self._turns)
            await self._cancel(None)
        except BaseException:  # cancelled or not: what was opened is closed
            await closed(ready)
            raise
        before, self._config, self._ready = self._ready, config, ready
        await closed(before)
        if earlier and not self._shop.keep_history:
            await self._erase(earlier.session_id, stopped)
        await self._adopt(command.user_id, config.session_id)
        return Connected(session_id=config.session_id, tools=config.tools)

    async def _adopt(self, user_id: str, session_id: str) -> None:
        """Take over what a gateway has kept; if that fails now, the next connect tries again."""
        try:
            await self._shop.history.adopt(user_id, session_id=session_id, epoch=self.lease.epoch)
        except StoreUnavailable:
            log.warning("history.not_adopted", user=self.user)

    async def _open(self, config: UserConfig) -> Ready:
        connections = [self._shop.connection(server) for server in config.servers]
        model = await to_thread.run_sync(self._shop.providers.open, config.model)
        try:
            await open_all(connections, self._group)
            return await to_thread.run_sync(self._equip, model, Toolbox(connections))
        except BaseException:  # cancelled or not: what was opened is closed
            with anyio.CancelScope(shield=True):
                await close_all(connections)
                await model.aclose()
            raise

    def _equip(self, model: Model, toolbox: Toolbox) -> Ready:
        """Build the agent: with many tools that takes a while, so it is done off the event loop."""
        shop = self._shop
        agent = Agent(model.chat, toolbox.tools, rounds=shop.tool_rounds, silence=shop.model_timeout)
        return Ready(model, agent, toolbox)

    async def _prepare(self) -> tuple[Agent, Toolbox]:
        """Return agent and tools; after a rest or a takeover they are made anew."""
        async with self._preparing:
            await self._shop.configs.touch(self.user, epoch=self.lease.epoch)
            if self._ready is None:
                self._config = await self._shop.configs.get(self.user)
                if self._config is None:
                    raise NotConnected
                try:
                    self._ready = await self._open(self._config)
                except ServerUnavailable:
                    raise ServerUnavailable("Lost connection to MCP server. Please reconnect.") from None
            return self._ready.agent, self._ready.toolbox

    async def _disconnect(self) -> Disconnected:
        if self._connecting:
            self._connecting.cancel()
        stopped = set(self._turns)
        await self._cancel(None)
        config = self._config or await self._shop.configs.get(self.user)
        if config is None:
            raise NotConnected
        epoch = self.lease.epoch
        if self._shop.keep_history:
            await self._shop.history.record.clear(self.user, config.session_id, epoch=epoch)
        else:
            await self._erase(config.session_id, stopped)
        await self._shop.configs.forget(self.user, epoch=epoch)  # last: what fails can be tried again
        await self._let_go()
        self._left.set()
        return Disconnected()

    async def _let_go(self) -> None:
        """Close what is open; the configuration stays where it is stored."""
        before, self._config, self._ready = self._ready, None, None
        await closed(before)

    @property
    def _group(self) -> TaskGroup:
        assert self._tasks is not None, "the actor runs"
        return self._tasks


async def closed(ready: Ready | None) -> None:
    """Close what was ready, even while being cancelled."""
    if ready:
        with anyio.CancelScope(shield=True):
            await ready.aclose()


def codes(group: BaseExceptionGroup[ChatError]) -> set[str]:
    """Return the codes of all errors in a group."""
    return {
        code
        for error in group.exceptions
        for code in (codes(error) if isinstance(error, BaseExceptionGroup) else {error.code})
    }
