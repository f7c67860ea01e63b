"""One user at their owner: takes commands up in order, runs turns, holds the connections."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import anyio
import structlog
from anyio.abc import TaskGroup

from mcp_chat.commands import Cancel, Command, Connect, DeleteSession, Disconnect, Send, is_recorded
from mcp_chat.config import config_of
from mcp_chat.conversations import Conversations
from mcp_chat.deed import Deed
from mcp_chat.docket import Docket
from mcp_chat.ends import ended_how, failed
from mcp_chat.equipment import Equipment
from mcp_chat.events import (
    Cancelled,
    Connected,
    Disconnected,
    Entry,
    Failed,
    Final,
    SessionDeleted,
    TakenOver,
    TurnFinished,
    is_final,
)
from mcp_chat.exceptions import (
    ChatError,
    Fenced,
    Interrupted,
    InvalidRequest,
    NotConnected,
    StoreUnavailable,
    Unexpected,
    codes,
)
from mcp_chat.message import new_id
from mcp_chat.metrics import Fence, Release
from mcp_chat.recovery import Past, begun, past_of
from mcp_chat.stores.base import Lease
from mcp_chat.stores.bells import LocalBell
from mcp_chat.trail import Trail
from mcp_chat.turn import Terms, Turn
from mcp_chat.turns import Turns
from mcp_chat.workshop import Workshop
from mcp_chat.writer import EventWriter

log = structlog.get_logger()

ATTEMPTS = 2
"""Owners that may die over one turn before it is given up."""


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
        self._writer = EventWriter(
            workshop.store.log, lease, deliver=workshop.deliver, held=workshop.held, regain=self.regain
        )
        self._trail = Trail(user=lease.user, worker=lease.worker, archive=workshop.archive)
        self._docket = Docket(lease, workshop.store, workshop.archive, self._writer)
        self._bell = LocalBell()
        self._broken: dict[str, Past] = {}
        self._given_up: set[str] = set()
        self._conversations = Conversations(lease, workshop)
        self._connecting: anyio.CancelScope | None = None
        self._connected = anyio.Event()
        self._tasks: TaskGroup
        self._aside: TaskGroup
        self._turns: Turns
        self._equipment: Equipment
        self._started = False
        self._left = anyio.Event()
        self._leaving = False
        self._look_again = False
        self._gone = anyio.Event()
        self._used = time.monotonic()
        self.why_left: Release = "crash"

    def ring(self) -> None:
        """Say that there may be a command."""
        self._bell.ring("")

    def check(self) -> None:
        """Say that there may be a command which only the record has."""
        self._look_again = True
        self.ring()

    def fence(self, where: Fence) -> None:
        """Say that another worker owns the user, and what has shown it."""
        if self.why_left != "fenced":
            self._shop.metrics.user_fenced(where)
            log.warning("user.fenced", user=self.user, epoch=self.lease.epoch, where=where)
        self.why_left = "fenced"
        self._left.set()
        self.ring()

    async def run(self) -> None:
        """Serve until the user disconnects, is idle for too long, or another owner has taken over."""
        try:
            async with anyio.create_task_group() as writing:
                writing.start_soon(self._writer.run)
                self._aside = writing
                async with anyio.create_task_group() as self._tasks:
                    self._equipment = Equipment(self.lease, self._shop, self._tasks, self._trail)
                    self._turns = Turns(
                        self._tasks,
                        self._turn,
                        self._shop.metrics,
                        at_once=self._shop.user_turns,
                        places=self._shop.places,
                    )
                    self._started = True
                    await self._recover()
                    await self._serve()
                    await self._close()
                writing.cancel_scope.cancel()
        except* ChatError as group:
            if Fenced.code in codes(group):
                self.fence("log")
            elif self.why_left != "fenced":
                self.why_left = "store"
            log.warning("actor.stopped", user=self.user, errors=sorted(codes(group)))
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                if self._started:
                    await self._equipment.close()
            self._gone.set()

    async def _close(self) -> None:
        if self.why_left == "fenced":
            self._turns.abandon()
        await self._equipment.close()
        if self.why_left == "fenced":
            self._tasks.cancel_scope.cancel()

    async def leave(self, grace: float) -> None:
        """Give turns some seconds to end, hand the others over, and wait until all is closed."""
        self._leaving = True
        if self._connecting:
            self._connecting.cancel()
        if self._started:
            await self._turns.leave(grace)
        self.why_left = "drain"
        self._left.set()
        self.ring()
        await self._gone.wait()

    # Recovery

    async def _recover(self) -> None:
        """Fence earlier owners, and see what they have left half done."""
        end = await self._shop.store.log.end(self.user)
        self._writer.emit("", TakenOver(worker=self.lease.worker, before=end))
        entries = await self._conversations.log()
        await self._docket.open()
        await self._conclude(entries)
        for turn_id, left in begun(entries).items():
            self._broken[turn_id] = past_of(left)
        self._docket.resume(self._broken.keys())
        for known in self._docket.ended:
            if not any(entry.command_id == known.id and is_final(entry.event) for entry in entries):
                self._broken.setdefault(known.id, Past())
        waiting = {command.id for command in self._docket.waiting}
        for turn_id in self._broken.keys() - waiting:
            await self._tell_end(turn_id)
        for turn_id in waiting:  # the log may have lost what it had
            self._broken.setdefault(turn_id, Past())

    async def _conclude(self, entries: list[Entry]) -> None:
        """Record the ends that the log tells and the record does not have."""
        ends = {entry.command_id: entry.event for entry in entries if is_final(entry.event)}
        for command in self._docket.waiting:
            event = ends.get(command.id)
            if event is not None and is_final(event):
                self._docket.drop(command)
                await self._docket.end(command.id, event, tell=False)

    async def _tell_end(self, turn_id: str) -> None:
        """Tell how a turn ended that the log has not heard the end of."""
        archive, past = self._shop.archive, self._broken.pop(turn_id)
        known = await archive.accepted(self.user, turn_id) if archive else None
        if known and known.run:
            written = await self._shop.history.record.turn(self.user, known.session_id, known.run)
            for event in past.missing(written):
                self._writer.emit(turn_id, event)
        outcome = known.outcome if known and known.outcome else failed(Interrupted())
        await self._docket.end(turn_id, outcome)

    async def regain(self) -> None:
        """Take the lease anew in a store that has lost everything, and tell it what is going on.

        Raises:
            Fenced: Somebody was faster.
        """
        if not await self._shop.is_latest(self.lease):
            raise Fenced
        self._turns.retell()  # first: nothing else is to come into the log before it
        self.check()  # nor is a command to be taken up before those that the inbox has lost
        if not await self._shop.store.leases.renew(self.lease, anew=True):
            raise Fenced
        if not await self._shop.is_latest_still(self.lease):
            raise Fenced
        log.warning("lease.regained", user=self.user, epoch=self.lease.epoch)

    # The docket

    async def _serve(self) -> None:
        while not self._left.is_set():
            news = await self._look()
            while self._takes and (command := self._next()):
                await self._take_up(command)
            if not news and not self._left.is_set():
                await self._bell.wait(1.0)
                if self._idle():
                    self.why_left = "idle"
                    self._left.set()

    @property
    def _takes(self) -> bool:
        """Whether a next command may be taken up."""
        return not (self._left.is_set() or self._leaving)

    async def _look(self) -> bool:
        """Read new commands; an actor that leaves reads none, so that the next owner does."""
        if self._leaving:
            return False
        try:
            if self._look_again:
                self._look_again = False
                await self._docket.open()
                return True
            return await self._docket.look()
        except StoreUnavailable:  # the writer decides when it has lasted too long
            self._look_again = True
            await anyio.sleep(0.5)
            return False
        except Fenced:
            if await self._is_forgotten():
                await self.regain()
            else:
                self.fence("inbox")
            return True

    async def _is_forgotten(self) -> bool:
        lease = await self._shop.store.leases.get(self.user)
        return lease is None or lease.epoch < self.lease.epoch

    def _next(self) -> Command | None:
        """Return the next command. During a connect only a cancel or a disconnect is one.

        Only a cancel is while one before it may have been lost, and the record does not say so.
        """
        if self._look_again:
            return self._docket.take(Cancel)
        return self._docket.take() if self._connecting is None else self._docket.take(Cancel, Disconnect)

    def _idle(self) -> bool:
        if len(self._turns):
            self._used = time.monotonic()
        return time.monotonic() - self._used > self._shop.idle_timeout

    async def _take_up(self, command: Command) -> None:
        self._used = time.monotonic()
        if isinstance(command, Send):
            await self._count(command)
            if not self._leaving:  # else it stays in inbox and record
                self._turns.start(command)
        elif isinstance(command, Connect):
            self._connecting = anyio.CancelScope()
            self._connected = anyio.Event()
            self._tasks.start_soon(self._connect_aside, command, self._connecting)
        else:
            await self._answer(command)

    async def _count(self, command: Send) -> None:
        """Count the owners that have died over a message, of which the record may know more than the log."""
        past = self._broken.get(command.id)
        if past is None or not (past.crashes or await self._has_begun(command, past)):
            return
        died = past.crashes
        if self._shop.archive and not past.orderly:
            died = await self._shop.archive.retry(self.user, command.id, epoch=self.lease.epoch)
        if died >= ATTEMPTS:
            self._given_up.add(command.id)
        log.info("turn.resumed", user=self.user, turn=command.id, crashes=died)

    async def _has_begun(self, command: Send, past: Past) -> bool:
        """Tell whether there is something of a turn of which the log knows nothing."""
        if past.starts:
            return False
        return bool(await self._shop.history.record.turn(self.user, command.session_id, command.run))

    async def _connect_aside(self, command: Connect, scope: anyio.CancelScope) -> None:
        """Connect in a task of its own: a server may take its time, and a turn can be stopped meanwhile."""
        event: Final = failed(InvalidRequest("A disconnect came in between."))
        try:
            with scope:
                event = await self._outcome(command)
            if not (scope.cancelled_caught and self._leaving):
                await self._ended(command, event)
        finally:
            self._connecting = None
            self._connected.set()
            self.ring()

    async def _answer(self, command: Command) -> None:
        """Carry a command out that is not a turn, and say how it went."""
        await self._ended(command, await self._outcome(command))

    async def _outcome(self, command: Command) -> Final:
        try:
            event = await self._carry_out(command)
        except ChatError as error:
            event = failed(error)
        except Exception:  # a command that nobody can carry out must not come back for ever
            log.exception("command.crashed", user=self.user, command=command.type)
            event = failed(Unexpected())
        log.info("command.done", user=self.user, command=command.type, outcome=event.type)
        return event

    async def _ended(self, command: Command, outcome: Final) -> None:
        """Record and tell an end; one that is another owner's to tell is left to them."""
        try:
            if isinstance(outcome, Failed) and outcome.code == Fenced.code:
                raise Fenced
            await self._docket.end(command.id, outcome, record=is_recorded(command))
        except Fenced:
            self.fence("record")

    async def _carry_out(self, command: Command) -> Final:
        match command:
            case Connect():
                return await self._connect(command)
            case Cancel():
                stopped = await self._turns.stop(command.session_id)
                return Cancelled(turns=stopped + await self._decline_overtaken(command.session_id))
            case Disconnect():
                return await self._disconnect(command)
            case DeleteSession():
                return await self._delete(command.session_id)
            case Send():
                raise InvalidRequest

    # Turns

    def _turn(self, command: Send) -> Turn:
        terms = Terms(
            scribe=self._conversations.scribe(command.session_id, self._equipment.backend),
            emit=partial(self._writer.emit, command.id),
            flush=self._writer.flush,
            end=partial(self._end_turn, command),
            prepare=self._equipment.prepare,
            held=self._shop.until_held,
            trail=self._trail,
            metrics=self._shop.metrics,
            limit=self._shop.turn_timeout,
            parallel_calls=self._shop.parallel_calls,
            budget=self._shop.budget,
        )
        past = self._broken.pop(command.id, None)
        return Turn(command, terms, past=past, give_up=command.id in self._given_up)

    async def _end_turn(self, command: Send, outcome: Final) -> None:
        await self._ended(command, outcome)
        self._shop.metrics.turn_ended(ended_how(outcome))
        ready, archive = self._equipment.ready, self._shop.archive
        if self._shop.summary and archive and ready:
            self._aside.start_soon(self._conversations.sum_up, command.session_id, archive, ready.agent)

    async def _decline_overtaken(self, session_id: str | None) -> int:
        """Stop messages that came before a cancel and still wait; return how many."""
        return await self._decline(self._docket.overtaken, session_id)

    async def _decline(self, commands: Sequence[Command], session_id: str | None) -> int:
        declined = 0
        for command in commands:
            if isinstance(command, Send) and session_id in (None, command.session_id):
                declined += 1
                self._docket.drop(command)
                await self._turn(command).decline(TurnFinished(stopped=True))
        return declined

    # Sessions

    async def _delete(self, session_id: str) -> SessionDeleted:
        """Delete a session; if it is the connected one, a new one takes its place."""
        await self._drop_waiting(session_id)
        existed = await self._erase(session_id)
        config = await self._equipment.config()
        if config and config.session_id == session_id:
            existed = True
            await self._equipment.rename_session(replace(config, session_id=new_id()))
        return SessionDeleted(existed=existed)

    async def _drop_waiting(self, session_id: str) -> None:
        """End messages that came behind a deletion: they would begin the session anew."""
        for command in self._docket.waiting:
            if isinstance(command, Send) and command.session_id == session_id:
                self._docket.drop(command)
                await self._docket.end(command.id, failed(Interrupted("The conversation was deleted.")))

    async def _erase(self, session_id: str, stopped: Collection[str] = ()) -> bool:
        """Take a session and all that was said in it out of record and log; tell whether there was one.

        Args:
            stopped: Turns that were stopped a moment ago: somebody may still wait for their ends.
        """
        stopped = {*stopped, *self._turns}
        await self._turns.stop(session_id)
        existed = await self._conversations.erase(session_id)
        self._docket.release(await self._conversations.erase_log(session_id, set(stopped)))
        return existed

    # Connections

    async def _connect(self, command: Connect) -> Connected:
        """Open the new connections first; only when they are proven does anything change."""
        config = config_of(self._shop.vault.open(command.sealed, user=self.user, field="connect"))
        ready = await self._equipment.open(config)
        config = replace(config, tools=tuple(tool.name for tool in ready.toolbox.tools))
        try:
            earlier = await self._equipment.config()
            with anyio.CancelScope(shield=True):  # from here on it is in force
                await self._equipment.store(config)
                stopped = set(self._turns)
                await self._turns.stop(None)
                await self._equipment.change(config, ready)
        except BaseException:  # cancelled or not: what was opened is closed
            await ready.aclose()
            raise
        if earlier and not self._shop.keep_history:
            await self._erase(earlier.session_id, stopped)
        await self._adopt(command.user_id, config.session_id)
        left_out = ready.toolbox.left_out
        return Connected(session_id=config.session_id, tools=config.tools, left_out=left_out)

    async def _adopt(self, user_id: str, session_id: str) -> None:
        """Take over what a gateway has kept; if that fails now, the next connect tries again."""
        try:
            await self._shop.history.adopt(user_id, session_id=session_id, epoch=self.lease.epoch)
        except StoreUnavailable:
            log.warning("history.not_adopted", user=self.user)

    async def _disconnect(self, disconnect: Disconnect) -> Disconnected:
        if self._connecting:
            self._connecting.cancel()
            await self._connected.wait()
        stopped = set(self._turns)
        await self._turns.stop(None)
        overtaken = await self._docket.before(disconnect)
        await self._decline(overtaken, None)
        for command in overtaken:
            if not isinstance(command, Send):
                self._docket.drop(command)
                await self._ended(command, failed(InvalidRequest("A disconnect came in between.")))
        config = await self._equipment.config()
        if config is None and not await self._shop.configs.stored(self.user):
            raise NotConnected
        session_id = config.session_id if config else ""  # of one that cannot be opened nobody knows it
        if self._shop.keep_history:
            await self._conversations.clear_windows(session_id)
        elif session_id:
            await self._erase(session_id, stopped)
        await self._equipment.forget()  # last: what fails can be tried again
        await self._trail.note([Deed(action="disconnect", session_id=session_id, outcome="succeeded")])
        self._writer.expire_in(self._shop.session_ttl)  # whoever waits for an end still reads it
        self.why_left = "disconnect"
        self._left.set()
        return Disconnected()
