"""The tool calls of one turn, each from the model's wish until its result is in the history."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import anyio

from mcp_chat.commands import Send
from mcp_chat.consent import FREE, Leave
from mcp_chat.deed import Deed, of_call
from mcp_chat.desk import CallState
from mcp_chat.edited import refused, seen_again
from mcp_chat.events import MessageAdded, ToolStarted
from mcp_chat.exceptions import BlockedByPlugin, Interrupted
from mcp_chat.message import Message, ToolCall, now, unreadable_in
from mcp_chat.outcomes import NO_RESULT, NOT_JSON, UNKNOWN, told_result
from mcp_chat.pause import Pause
from mcp_chat.places import Places
from mcp_chat.plugins import hooks
from mcp_chat.plugins.blocks import (
    BLOCKED,
    blocked_calls,
    noted,
    told_of,
    unseen,
    unseen_calls,
    with_blocked,
    with_unseen,
)
from mcp_chat.recovery import finished, unanswered
from mcp_chat.results import ToolResult
from mcp_chat.seat import NO_SEAT, Seat
from mcp_chat.story import Story
from mcp_chat.talk import CallTalk, Look
from mcp_chat.terms import Terms
from mcp_chat.together import together
from mcp_chat.toolbox import INVALID, Refusal, Toolbox


class Calls:
    """Makes a turn's calls; see `mcp_chat.talk.Around`.

    Args:
        command: The turn's message.
        terms: What it is run with.
        story: Tells of them.
        resumed: Whether an earlier owner may have made some.

    Attributes:
        session_id: Where the turn is.
        turn_id: Its command.
        run_id: What its messages' ids begin with.
        toolbox: The tools, as soon as they are ready.
        pause: The turn's time, which does not run while somebody is waited for.
        open: Calls without a result, by their ids.
    """

    def __init__(self, command: Send, terms: Terms, story: Story, *, resumed: bool) -> None:
        self.session_id = command.session_id
        self.turn_id = command.id
        self.run_id = command.run
        self.toolbox = Toolbox({})
        self.pause = Pause(anyio.CancelScope())
        self.open: dict[str, ToolCall] = {}
        self._terms = terms
        self._story = story
        self._resumed = resumed
        self._places = Places(terms.parallel_calls, terms.server_calls)
        self._unreadable: set[str] = set()
        self._unseen: set[str] = set()
        self._begun: set[str] = set()
        self._deeds: dict[str, Deed] = {}
        self._blocked: dict[str, BlockedByPlugin] = {}
        self._kept: dict[str, CallState] = {}
        self._seat: Seat = NO_SEAT
        self._stopped: Callable[[], bool] = lambda: False
        self._running = self._results = 0
        self._quiet = anyio.Event()

    def begin(self, seat: Seat, stopped: Callable[[], bool]) -> None:
        """Let the turn begin.

        Args:
            seat: Is given back while somebody is waited for.
            stopped: Tells whether it ends, and is not handed over.
        """
        self._seat, self._stopped = seat, stopped

    # Around

    def is_stopped(self) -> bool:
        """Tell whether the turn ends, and is not handed over; see `mcp_chat.talk.Around`."""
        return self._stopped()

    async def held(self) -> None:
        """Return when this worker may do what cannot be undone."""
        await self._terms.held()

    @asynccontextmanager
    async def away(self, *, resumable: bool) -> AsyncIterator[None]:
        """Wait for a person or a task; see `mcp_chat.talk.Around`."""
        with self.pause.paused():
            self._count(-resumable)
            try:
                async with self._seat.left():
                    yield
            finally:
                self._count(resumable)

    async def done(self) -> None:
        """Return when no call is on its way."""
        while self._running:
            await self._quiet.wait()

    def _count(self, more: int) -> None:
        self._running += more
        self._quiet.set()
        self._quiet = anyio.Event()

    # What an earlier owner has left

    async def recall(self, pending: Collection[str]) -> None:
        """Find out which calls have no result, and what is known of them.

        Args:
            pending: Ids of those that were certainly not made.
        """
        written = self._story.written
        self.open = {call.id: call for call in unanswered(written)}
        self._unreadable = {call_id for message in written for call_id in unreadable_in(message)}
        for message in written:
            self._blocked |= blocked_calls(message)
            self._unseen |= unseen_calls(message)
        self._begun = {call_id for call_id in self.open if call_id not in pending}
        recalled = await self._terms.consent.recalled(self.run_id, list(self.open.values()))
        self.open |= recalled.calls
        self._begun -= recalled.waiting
        begun = [call for call in self.open.values() if call.id in self._begun]
        self._kept = await self._terms.talks.kept(self.turn_id, self.run_id, begun)

    async def go_on(self) -> None:
        """Settle the calls that an earlier owner has left open.

        Raises:
            Interrupted: Of one it is not known whether it took effect, and it may not be made again.
        """
        lost = [call for call in self.open.values() if not self._may_repeat(call)]
        if self.open:
            self._terms.metrics.turn_resumed("unknown_outcome" if lost else "continued")
        again = [call for call in self.open.values() if call not in lost]
        await together(self.run(call) for call in again)
        if lost:
            names = ", ".join(call.name for call in lost)
            raise Interrupted(
                f"The turn was interrupted: its worker stopped while it called {names}. Whether that took "
                "effect is not known, and it was not tried again. Look before you send the message again."
            )

    def _may_repeat(self, call: ToolCall) -> bool:
        """Tell whether a call without a result may be made: it never was, it waits, or it is safe."""
        begun = call.id in self._begun and call.id not in self._unreadable
        return not begun or call.id in self._kept or self.toolbox.safe(call.name)

    @property
    def pending(self) -> tuple[str, ...]:
        """Ids of the calls that are recorded and certainly not made."""
        return tuple(call_id for call_id in self.open if call_id not in self._begun)

    # Each call

    async def looked_at(self, message: Message) -> Message:
        """Return a model's message as it is recorded: its calls with the arguments that plugins leave them.

        What is recorded is what the user is asked about and what runs; whoever goes on with the turn asks no
        plugin again about a call that is recorded.
        """
        door = self._terms.doors.tools
        if not (door.asks and message.tool_calls):
            return message
        unreadable, looked_at = unreadable_in(message), list[ToolCall]()
        blocked: dict[str, BlockedByPlugin] = {}
        away: list[str] = []
        for call in message.tool_calls:
            try:
                seen = call if call.id in unreadable else await self._seen(call)
            except BlockedByPlugin as error:
                blocked[call.id] = error
                seen = replace(call, args={})  # what was blocked is nowhere
            looked_at.append(seen or call)
            away += [] if seen else [call.id]
        return with_unseen(with_blocked(replace(message, tool_calls=tuple(looked_at)), blocked), away)

    async def _seen(self, call: ToolCall) -> ToolCall | None:
        """Return a call with the arguments that plugins leave it; None if its tool is not there now."""
        tool = self.toolbox.tool(call.name)
        connection = self.toolbox.connections.get(tool.alias) if tool else None
        if tool is None or connection is None:
            return None
        door = self._terms.doors.tools
        args = await door.before(call.id, tool.remote_name, call.args, server=connection.server)
        return replace(call, args=args)

    def want(self, message: Message) -> None:
        """Take in what the model wants: its message is in the history."""
        self.open |= {call.id: call for call in message.tool_calls}
        self._unreadable |= unreadable_in(message)
        self._blocked |= blocked_calls(message)
        self._unseen |= unseen_calls(message)

    async def run(self, call: ToolCall) -> Message:
        """Run a tool call; see `mcp_chat.agent.Loop`. Its intent was recorded with the model's message."""
        leave = await self._leave(call)  # the user may be asked, and no place is taken meanwhile
        call = leave.call(call)
        async with self._places.at(self.toolbox.server_of(call.name)):
            message = await self._placed(call, leave)
        self._terms.metrics.tool_called("failed" if message.status == "error" else "succeeded")
        self._story.announce(message.id)
        return message

    async def _placed(self, call: ToolCall, leave: Leave) -> Message:
        """Make a call that has its place."""
        began = time.monotonic()
        await self._terms.held()
        leave = await self._terms.consent.use(leave, self._story.tell)
        self._begun.add(call.id)
        self._count(1)
        try:
            return await self._written(call, leave, began)
        finally:
            self._terms.doors.tools.close(call.id)
            self._count(-1)

    async def _written(self, call: ToolCall, leave: Leave, began: float) -> Message:
        """Tell of a call, make it, and write its result down.

        Args:
            began: When it got its place, by the clock that only goes on.
        """
        tell, at = self._story.tell, now().isoformat()
        tell(ToolStarted(call_id=call.id, name=call.name, args=call.args, at=at))
        talk = CallTalk(self._terms.talks, call, self, tell, self._kept.get(call.id), self._look(call))
        result = await self._made(call, talk, leave)
        if tape := self._terms.tape:
            tape.result(call.id, leave.refused, result)
        elapsed = round((time.monotonic() - began) * 1000)
        metadata = {"elapsed_ms": elapsed, "started_at": at, **leave.metadata(), **self._block(call)}
        message = await self._story.writings.finish(self._close(call, result, metadata, leave))
        await talk.close()
        return message

    def _look(self, call: ToolCall) -> Look | None:
        """Return what looks at a call's result, if plugins do."""
        tool, door = self.toolbox.tool(call.name), self._terms.doors.tools
        connection = self.toolbox.connections.get(tool.alias) if tool else None
        if tool is None or connection is None or not door.hears:
            return None
        return partial(door.after, call.id, tool.remote_name, server=connection.server)

    async def _made(self, call: ToolCall, talk: CallTalk, leave: Leave) -> ToolResult:
        """Make a call; if plugins block it or its result, that is the result."""
        try:
            result = await self._make(call, talk, leave)
        except BlockedByPlugin as error:
            self._blocked[call.id] = error
            result = ToolResult(text=str(error), failed=True)
        if blocked := self._blocked.get(call.id):
            self._story.tell(told_of(blocked, call.id))
        return result

    def _block(self, call: ToolCall) -> dict[str, Any]:
        blocked = self._blocked.get(call.id)
        return {BLOCKED: noted(blocked)} if blocked else {}

    async def _leave(self, call: ToolCall) -> Leave:
        if blocked := self._blocked.get(call.id):
            return refused(Leave(args=call.args), blocked)
        leave = Leave(args=call.args)
        try:
            if call.id in self._unseen and self.toolbox.tool(call.name):  # it has come back: nobody is asked
                raise unseen(hooks.TOOL_PRE)
            leave = await self._allowed(call)
            if call.id in self._unseen and not leave.refusal:  # or meanwhile
                raise unseen(hooks.TOOL_PRE)
            return await seen_again(leave, partial(self._args, call))
        except BlockedByPlugin as error:
            self._blocked[call.id] = error
            return refused(leave, error)

    async def _args(self, call: ToolCall, args: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what plugins leave of other arguments for a call."""
        if seen := await self._seen(replace(call, args=args)):
            return seen.args
        raise unseen(hooks.TOOL_PRE)

    async def _allowed(self, call: ToolCall) -> Leave:
        if call.id in self._unreadable:
            return Leave(args=call.args, refusal=Refusal(reason=INVALID, text=NOT_JSON))
        if limit := self._terms.meter.refusal(call):  # nobody is asked about a call that is over a limit
            return Leave(args=call.args, refusal=Refusal(reason=limit.code, text=f"Not called: {limit}"))
        how = {"resumed": self._resumed, "under_way": call.id in self._kept}
        return await self._terms.consent.of(call, self.toolbox, self, self._story.tell, **how)

    async def _make(self, call: ToolCall, talk: CallTalk, leave: Leave) -> ToolResult:
        return await leave.make(call, self.toolbox, talk)

    async def _close(
        self, call: ToolCall, result: ToolResult, metadata: dict[str, Any], leave: Leave = FREE
    ) -> Message:
        """Write the result of a call, and with it its files and what the trail has of it."""
        kept = await self._terms.scribe.keep(result.media)
        self._results = max(self._results, self._story.place("t")) + 1  # several close at the same time
        message = told_result(f"{self.run_id}-t{self._results}", call, result, kept, metadata)
        await self._terms.scribe.write(message, deed=self._deed(call, message, leave))
        self.open.pop(call.id, None)
        self._story.untold[message.id] = (finished(call, message), MessageAdded(message=message))
        return message

    def _deed(self, call: ToolCall, result: Message, leave: Leave) -> Deed | None:
        """Return the trail's line of a call that was made, or may have been; the first one holds."""
        if call.id in self._begun and call.id not in self._deeds:
            whose = {"run": self.run_id, "turn": self.turn_id, "session_id": self._story.session.id}
            deed = of_call(call, result, **whose, refused=leave.refused, by=leave.by)
            self._terms.trail.say(deed)
            self._deeds[call.id] = deed
        return self._deeds.get(call.id)

    async def close_open(self, mark: Mapping[str, bool]) -> None:
        """Give each call without a result one that says so.

        Args:
            mark: Says how the turn came to its end.
        """
        for call in list(self.open.values()):
            await self._close_unanswered(call, mark)

    async def _close_unanswered(self, call: ToolCall, mark: Mapping[str, bool]) -> None:
        lost = self._resumed and call.id in self._begun
        if lost:
            self._terms.metrics.tool_called("unknown")
        result = UNKNOWN if lost else NO_RESULT
        message = await self._close(call, result, {**mark, "outcome": "unknown"} if lost else dict(mark))
        self._story.announce(message.id)


class MakeCalls(Protocol):
    """Makes what makes a turn's tool calls; see `Calls`."""

    def __call__(self, command: Send, terms: Terms, story: Story, *, resumed: bool) -> Calls:
        """Return it."""
        ...
