"""One user at their owner: takes commands up in order, runs turns, holds the connections."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import anyio
import structlog
from anyio.abc import TaskGroup

from mcp_chat.allowance import Allowance
from mcp_chat.commands import (
    Answer,
    Cancel,
    ChangeServers,
    Command,
    Connect,
    DeleteSession,
    Disconnect,
    Send,
    SignedIn,
    SignedOut,
    SwitchBranch,
    is_recorded,
)
from mcp_chat.config import config_of
from mcp_chat.consent import Consent
from mcp_chat.consultations import Consultation, Consultations
from mcp_chat.conversations import Conversations
from mcp_chat.deed import Deed
from mcp_chat.desk import Desk
from mcp_chat.docket import Docket
from mcp_chat.ends import ended_how, failed
from mcp_chat.equipment import Equipment
from mcp_chat.errands import Errands
from mcp_chat.estate import Estate
from mcp_chat.events import (
    Answered,
    BranchSwitched,
    Cancelled,
    Connected,
    Disconnected,
    Failed,
    Final,
    SessionDeleted,
    TurnFinished,
)
from mcp_chat.exceptions import (
    ChatError,
    Fenced,
    Interrupted,
    InvalidRequest,
    NotConnected,
    StoreUnavailable,
    TurnRunning,
    Unexpected,
    codes,
)
from mcp_chat.message import new_id
from mcp_chat.meter import Meter
from mcp_chat.metrics import Fence, Release
from mcp_chat.plugins.base import Occasion
from mcp_chat.plugins.doors import doors_of
from mcp_chat.plugins.visits import Visits
from mcp_chat.recording import Tape
from mcp_chat.steering import Steering
from mcp_chat.stores.base import Lease
from mcp_chat.stores.bells import LocalBell
from mcp_chat.talk import Talks
from mcp_chat.tapes import Tapes
from mcp_chat.terms import Terms
from mcp_chat.trail import Trail
from mcp_chat.turn import Turn
from mcp_chat.turns import Turns
from mcp_chat.workshop import Workshop
from mcp_chat.writer import EventWriter

log = structlog.get_logger()

LAST_SECONDS = 5.0
"""For what still goes on when all is closed."""


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
        self._talks = Talks(lease, Desk(workshop.papers), self._trail, workshop.hours)
        self._consent = Consent(talks=self._talks, grants=workshop.grants, on=workshop.approvals)
        self._tapes = Tapes(lease=lease, papers=workshop.papers, which=workshop.record_turns)
        self._docket = Docket(lease, workshop.store, workshop.archive, self._writer)
        self._bell = LocalBell()
        self._allowance = Allowance(
            lease.user, workshop.usages, workshop.spending, workshop.metrics, workshop.clock
        )
        self._conversations = Conversations(lease, workshop)
        self._estate = Estate(lease, workshop, self._writer, self._docket, self._conversations)
        self._visits = Visits(workshop.plugins, self._trail)
        self._connecting: anyio.CancelScope | None = None
        self._connected = anyio.Event()
        self._tasks: TaskGroup
        self._aside: TaskGroup
        self._turns: Turns
        self._equipment: Equipment
        self._errands: Errands
        self._consultations: Consultations
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
                    shop, tell = self._shop, partial(self._writer.emit, "")
                    self._equipment = Equipment(self.lease, shop, self._tasks, self._trail, tell)
                    self._errands = Errands(
                        self.lease, shop, self._equipment, self._consent, self._trail, tell, self._visits
                    )
                    self._turns = Turns(
                        self._tasks, self._turn, shop.metrics, at_once=shop.user_turns, places=shop.places
                    )
                    self._consultations = Consultations(self._tasks, self._answer)
                    self._started = True
                    await self._estate.take_over()
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
        self._consultations.stop()
        if self.why_left == "fenced":
            self._turns.abandon()
        await self._equipment.close()
        seconds = 0.0 if self.why_left == "fenced" else LAST_SECONDS
        self._tasks.cancel_scope.deadline = anyio.current_time() + seconds

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
                await self._equipment.rest()
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
        return (
            self._docket.take() if self._connecting is None else self._docket.take(Cancel, Disconnect, Answer)
        )

    def _idle(self) -> bool:
        if len(self._turns) or len(self._consultations):
            self._used = time.monotonic()
        return time.monotonic() - self._used > self._shop.idle_timeout

    async def _take_up(self, command: Command) -> None:
        self._used = time.monotonic()
        if isinstance(command, Send):
            await self._estate.count(command)
            if end := await self._estate.came_in(command):
                await self._ended(command, end)
            elif not self._leaving and not self._turns.steer(command):  # else it stays in inbox and record
                self._turns.start(command)
        elif isinstance(command, SignedIn | SignedOut):
            self._tasks.start_soon(self._answer, command)
        elif isinstance(command, Connect | ChangeServers):
            self._connecting = anyio.CancelScope()
            self._connected = anyio.Event()
            self._tasks.start_soon(self._connect_aside, command, self._connecting)
        elif isinstance(command, Consultation):
            self._consultations.start(command)
        else:
            await self._answer(command)

    async def _connect_aside(self, command: Connect | ChangeServers, scope: anyio.CancelScope) -> None:
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

    async def _ended(self, command: Command, outcome: Final, *, recorded: bool = False) -> None:
        """Record and tell an end; one that is another owner's to tell is left to them."""
        try:
            if isinstance(outcome, Failed) and outcome.code == Fenced.code:
                raise Fenced
            await self._docket.end(command.id, outcome, record=is_recorded(command) and not recorded)
        except Fenced:
            self.fence("record")

    async def _carry_out(self, command: Command) -> Final:
        match command:
            case Connect():
                return await self._connect(command)
            case Cancel():
                stopped = await self._turns.stop(command.session_id)
                return Cancelled(turns=stopped + await self._decline_overtaken(command.session_id))
            case Answer(question_id=question_id):
                self._talks.ring(question_id)
                return Answered()
            case Disconnect():
                return await self._disconnect(command)
            case DeleteSession():
                return await self._delete(command.session_id)
            case SwitchBranch():
                return await self._switch(command)
            case Send():
                raise InvalidRequest
            case _:
                return await self._errands.run(command)

    # Turns

    def _turn(self, command: Send) -> Turn:
        past, give_up = self._estate.past(command), self._estate.gave_up(command)
        tape = self._tapes.begin(command, model=self._equipment.backend, resumed=past is not None)
        emit = partial(self._writer.emit, command.id)
        terms = Terms(
            scribe=self._conversations.scribe(command.session_id, self._equipment.backend),
            emit=tape.through(emit) if tape else emit,
            flush=self._writer.flush,
            end=partial(self._end_turn, command, tape),
            prepare=self._equipment.prepare,
            held=self._shop.until_held,
            trail=self._trail,
            metrics=self._shop.metrics,
            limit=self._shop.turn_timeout,
            parallel_calls=self._shop.parallel_calls,
            talks=self._talks,
            consent=self._consent,
            meter=Meter(command.run, command.session_id, self._allowance, self._equipment.bill),
            bill=self._equipment.bill,
            server_calls=self._shop.server_calls,
            budget=self._shop.budget,
            steering=Steering(command, self._ended),
            doors=doors_of(
                self._shop.plugins,
                Occasion(request_id=command.id, user=self.user, session_id=command.session_id),
                hold=self._shop.plugin_hold,
                most=self._shop.model_limits.message_bytes,
            ),
            system_prompt=self._shop.system_prompt,
            tape=tape,
        )
        return Turn(command, terms, past=past, give_up=give_up)

    async def _end_turn(self, command: Send, tape: Tape | None, outcome: Final, recorded: bool) -> None:
        await self._tapes.keep(command, tape, outcome)
        await self._ended(command, outcome, recorded=recorded)
        self._shop.metrics.turn_ended(ended_how(outcome))
        ready, archive = self._equipment.ready, self._shop.archive
        agent = ready.agents.any if ready else None
        if self._shop.summary and archive and agent:
            meter = Meter("summary", command.session_id, self._allowance, self._equipment.bill)
            self._aside.start_soon(self._conversations.sum_up, command.session_id, archive, agent, meter)

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

    async def _switch(self, command: SwitchBranch) -> BranchSwitched:
        """Show another branch of a session; no turn begins while this goes on."""
        if self._turns.runs_in(command.session_id):
            raise TurnRunning
        await self._conversations.switch(command.session_id, command.message_id)
        return BranchSwitched(session_id=command.session_id, message_id=command.message_id)

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
        await self._shop.grants.drop_session(self.user, session_id)
        await self._tapes.drop_session(session_id)
        self._docket.release(await self._conversations.erase_log(session_id, set(stopped)))
        return existed

    # Connections

    async def _connect(self, command: Connect) -> Connected:
        """Open the new connections first; only when they are proven does anything change."""
        config = config_of(self._shop.vault.open(command.sealed, user=self.user, field="connect"))
        await self._visits.before_connect(command.id, config)
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
        await self._conversations.adopt(command.user_id, config.session_id)
        self._visits.connected(command.id, config)
        return Connected(
            session_id=config.session_id,
            tools=config.tools,
            left_out=ready.toolbox.left_out,
            sign_in={alias: each.sign_in for alias, each in ready.connections.items() if each.sign_in},
        )

    async def _disconnect(self, disconnect: Disconnect) -> Disconnected:
        config = await self._equipment.config()
        await self._visits.before_disconnect(disconnect.id, config.session_id if config else "")
        if self._connecting:
            self._connecting.cancel()
            await self._connected.wait()
        stopped = set(self._turns)
        await self._turns.stop(None)
        for consult in self._consultations.stop():
            await self._ended(consult, failed(InvalidRequest("A disconnect came in between.")))
        await self._talks.over("", {}, resumed=True)  # what was asked for apps
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
