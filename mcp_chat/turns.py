"""The turns of one user at their owner: one at a time in a session, in the order of their messages.

Of all sessions only some run at a time, so that one user does not take all of the worker's places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import anyio
import structlog
from anyio import CapacityLimiter
from anyio.abc import TaskGroup

from mcp_chat.commands import Send
from mcp_chat.ends import failed
from mcp_chat.events import Final, TurnFinished
from mcp_chat.exceptions import Interrupted
from mcp_chat.metrics import Metrics
from mcp_chat.seat import Seat
from mcp_chat.turn import Turn

log = structlog.get_logger()

Make = Callable[[Send], Turn]
CALL_LIMIT = 10.0
"""Seconds that tool calls get to end when their worker stops, after the turns' own grace."""


@dataclass(slots=True)
class Running:
    """A turn that runs or waits: for its session's turn to end, and then for a place.

    Attributes:
        before: Set when the turn before it in its session has ended.
        stopped: The user wants it to end.
        handed_over: The next owner is to go on with it.
    """

    command: Send
    turn: Turn
    seat: Seat
    before: anyio.Event | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    began: bool = False
    stopped: bool = False
    handed_over: bool = False

    def stop(self) -> None:
        """Stop it because the user wants so."""
        self.stopped = True
        self.scope.cancel()

    async def hand_over(self) -> None:
        """Leave it to the next owner: at once, or when its tool calls have their results."""
        with anyio.move_on_after(CALL_LIMIT) as limit:
            await self.turn.calls.done()
        self.handed_over = not limit.cancelled_caught
        self.scope.cancel()

    def why_cancelled(self) -> Final | None:
        """Return the event that ends a cancelled turn; None for one that the next owner goes on with."""
        if self.stopped:
            return TurnFinished(stopped=True)
        return None if self.handed_over else failed(Interrupted())


class Turns:
    """Runs turns.

    Args:
        tasks: Runs them, whoever reads them.
        make: Makes a turn of a message.
        at_once: Turns of this user that run at a time.
        places: Those of the worker, for all users. Whoever waits is let in in the order of coming.
    """

    def __init__(
        self, tasks: TaskGroup, make: Make, metrics: Metrics, *, at_once: int, places: CapacityLimiter
    ) -> None:
        self._tasks = tasks
        self._metrics = metrics
        self._make = make
        self._own_places = CapacityLimiter(at_once)
        self._places = places
        self._running: dict[str, Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._running))

    def start(self, command: Send) -> None:
        """Begin a turn, or let it wait for its session's; one that interrupts stops those before it."""
        earlier = self._of(command.session_id)
        for running in earlier if command.interrupt else ():
            running.stop()
        before = earlier[-1].ended if earlier else None
        running = self._running[command.id] = Running(
            command, self._make(command), Seat((self._own_places, self._places)), before
        )
        self._tasks.start_soon(self._run, running)

    def steer(self, command: Send) -> bool:
        """Say a message into its session's turn, if it wants that and there is one that listens."""
        running = next(iter(self._of(command.session_id)), None) if command.steer else None
        return running is not None and not running.stopped and running.turn.steering.take(command)

    def runs_in(self, session_id: str) -> bool:
        """Tell whether a turn runs or waits in a session."""
        return bool(self._of(session_id))

    async def stop(self, session_id: str | None) -> int:
        """Stop a session's turns, or all, and wait until they have ended; return how many."""
        stopped = self._of(session_id)
        for running in stopped:
            running.stop()
        for running in stopped:
            await running.ended.wait()
        return len(stopped)

    async def leave(self, grace: float) -> None:
        """Give turns some seconds to end, and leave the others to the next owner."""
        waiting = [running for running in self._running.values() if not running.began]
        for running in waiting:
            running.handed_over = True
            running.scope.cancel()
        with anyio.move_on_after(grace):
            for running in self._of(None):
                await running.ended.wait()
        async with anyio.create_task_group() as leaving:
            for running in self._of(None):
                leaving.start_soon(running.hand_over)
        for running in self._of(None):
            await running.ended.wait()

    def abandon(self) -> None:
        """Leave all turns as they are: they are somebody else's."""
        for running in self._running.values():
            running.handed_over = True
            running.scope.cancel()

    def retell(self) -> None:
        """Tell all running turns anew: the log has lost what it had of them."""
        for running in self._running.values():
            if running.began:
                running.turn.retell()

    def _of(self, session_id: str | None) -> list[Running]:
        return [r for r in self._running.values() if session_id in (None, r.command.session_id)]

    async def _run(self, running: Running) -> None:
        command = running.command
        try:
            with running.scope:
                if running.before:
                    await running.before.wait()
                async with running.seat.taken():
                    running.began = True
                    await self._begin(running)
        finally:
            if not running.began and running.stopped:
                await self._decline(running)
            await self._leave_over(running)
            self._running.pop(command.id, None)
            running.ended.set()

    async def _leave_over(self, running: Running) -> None:
        """See to what was said into a turn and did not come in: it ends with it, or is a turn of its own."""
        for command in running.turn.steering.left():
            if running.stopped:
                with anyio.CancelScope(shield=True):
                    await self._make(command).decline(TurnFinished(stopped=True))
            elif not running.handed_over:  # else it is in inbox and record
                self.start(command)

    async def _decline(self, running: Running) -> None:
        """End a turn that was stopped before it began, behind the ends of those before it."""
        with anyio.CancelScope(shield=True):
            if running.before:
                await running.before.wait()  # each ends within its own limits
            await running.turn.decline(TurnFinished(stopped=True))

    async def _begin(self, running: Running) -> None:
        command = running.command
        bound = structlog.contextvars.bound_contextvars(session=command.session_id, turn=command.id)
        with bound, self._metrics.running():
            await running.turn.run(why_cancelled=running.why_cancelled, seat=running.seat)
