"""One turn: a user's message until its answer is complete. Recorded first, announced second."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio
import structlog

from mcp_chat.agent import Agent, Emit
from mcp_chat.commands import Send
from mcp_chat.connections import Toolbox
from mcp_chat.context import Budget, may_be_cut, shown
from mcp_chat.deed import Deed, of_call
from mcp_chat.ends import ended_with, failed
from mcp_chat.events import (
    Event,
    Final,
    HandedOver,
    MessageAdded,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    fold,
)
from mcp_chat.exceptions import (
    ChatError,
    Interrupted,
    ModelFailed,
    ModelTimeout,
    StoreUnavailable,
    Unexpected,
)
from mcp_chat.message import Message, ToolCall, Usage, now, unreadable_in
from mcp_chat.metrics import Metrics, Resumption
from mcp_chat.progress import Progress
from mcp_chat.recovery import Past, Told, answered, retold, told_of, unanswered
from mcp_chat.scribe import Scribe
from mcp_chat.session import Session
from mcp_chat.tools import ToolResult
from mcp_chat.trail import Trail

log = structlog.get_logger()

NO_RESULT = ToolResult(text="No result: the turn ended before the call did.", failed=True)
NOT_JSON = "The arguments were not valid JSON. Call again with a JSON object."
UNKNOWN = ToolResult(
    text="Outcome unknown: the worker that made this call stopped before it had the result. It may have "
    "taken effect, and was not made again.",
    failed=True,
)
END_LIMIT = 8.0
"""Seconds for each of the last writes of a turn."""
RETRY_EVERY = 0.5
"""Seconds between two attempts at such a write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a turn is run with.

    Attributes:
        emit: Takes the turn's events; they are in the log after `flush`.
        flush: Waits until they are.
        end: Records and tells the final event.
        prepare: Gives the agent and the tools; may take a while, may fail.
        held: Returns when this worker may call a tool, or raises `StoreUnavailable`.
        trail: Takes down the tool calls.
        limit: Seconds the turn may take.
        parallel_calls: Tool calls that are made at a time.
        budget: How much of the conversation the model is shown.
    """

    scribe: Scribe
    emit: Emit
    flush: Callable[[], Awaitable[None]]
    end: Callable[[Final], Awaitable[None]]
    prepare: Callable[[], Awaitable[tuple[Agent, Toolbox]]]
    held: Callable[[], Awaitable[None]]
    trail: Trail
    metrics: Metrics
    limit: float
    parallel_calls: int
    budget: Budget


class Turn:
    """Runs one message to its end, whatever happens.

    Args:
        command: The user's message.
        terms: What it is run with.
        past: What an earlier owner has left of it.
        give_up: Whether that was too often: it is only brought to an end.
    """

    def __init__(
        self, command: Send, terms: Terms, *, past: Past | None = None, give_up: bool = False
    ) -> None:
        self._question = question(command)
        self._run = command.run
        self._turn_id = command.id
        self._terms = terms
        self._scribe = terms.scribe
        self._emit = terms.emit
        self._past = past
        self._give_up = give_up
        self._session = Session(id=command.session_id)
        self._written: list[Message] = []
        self._looked_back = past is None
        self._caught_up = past is None
        self._over = False
        self._announced: set[str] = set()
        self._told = past.told if past else Told()
        self._usage = past.usage if past else Usage()
        self._open: dict[str, ToolCall] = {}
        self._unreadable: set[str] = set()
        self._begun: set[str] = set()
        self._deeds: dict[str, Deed] = {}
        self._calling = 0
        self._results = 0
        self._quiet = anyio.Event()
        self._untold: dict[str, MessageAdded] = {}
        self._writing: set[asyncio.Task[Message]] = set()
        self._toolbox = Toolbox(())
        self._calls = anyio.CapacityLimiter(terms.parallel_calls)
        self._began = time.monotonic()

    async def run(self, *, why_cancelled: Callable[[], Final | None]) -> None:
        """Run to the end; when this returns or raises, the end is told or the turn is handed over.

        Args:
            why_cancelled: Asked for the final event if the turn is cancelled; None hands it over.
        """
        outcome: Final | None = None
        try:
            outcome = await self._attempt()
        finally:
            with anyio.CancelScope(shield=True):
                await self._finish(why_cancelled() if outcome is None else outcome)

    async def decline(self, outcome: Final) -> None:
        """End it before it has begun: the message stays in the history."""
        await self._end(outcome, patience=RETRY_EVERY)  # others wait behind it

    async def calls_done(self) -> None:
        """Return when no tool call is on its way."""
        while self._calling:
            await self._quiet.wait()

    def retell(self) -> None:
        """Tell all anew: the log has lost what it had."""
        if self._over:
            return
        self._emit(TurnStarted(session_id=self._session.id, run=self._run))
        if self._past and not self._caught_up:
            self._past.lost = True  # what there is to tell is read first
            return
        for event in retold(self._written, self._told.partial):
            self._emit(event)

    async def _attempt(self) -> Final:
        try:
            with anyio.move_on_after(self._terms.limit) as limit:
                self._emit(TurnStarted(session_id=self._session.id, run=self._run))
                await self._terms.flush()
                return await self._converse()
        except ChatError as error:
            await self._terms.trail.note_refusal(error, session_id=self._session.id, turn=self._turn_id)
            return failed(error)
        except Exception:  # a bug in one turn must not end the others
            log.exception("turn.crashed")
            return failed(Unexpected())
        assert limit.cancelled_caught
        return failed(ModelTimeout(f"The turn took longer than {self._terms.limit:g} seconds and was ended."))

    async def _converse(self) -> Final:
        self._session, _ = await asyncio.gather(self._scribe.session(), self._look_back())
        if self._past:
            self._count(self._past)
            if self._give_up and not answered(self._written):
                raise Interrupted
            self._catch_up(self._past)
            if last := answered(self._written):
                return ended_with(last)
        if not self._written:
            await self._ask()
        agent = await self._equip()
        messages = self._shown()
        async for event in agent.run(messages, await self._scribe.files(messages), self):
            self._tell(event)
        if not any(message.role == "assistant" and message.content for message in self._written):
            raise ModelFailed("The model gave an empty answer. Please try again.")
        return TurnFinished()

    def _count(self, past: Past) -> None:
        how: Resumption = "retried" if past.told.partial else "continued"
        if answered(self._written):
            how = "answered"
        elif self._give_up:
            how = "given_up"
        elif unanswered(self._written):
            return  # counted when it is known whether they can be made again
        if past.starts or self._written:
            self._terms.metrics.turn_resumed(how)

    def _shown(self) -> list[Message]:
        """Return what the model is shown: this turn comes last, whatever was said since it was broken off."""
        own = {message.id for message in self._written}
        ordered = sorted(self._session.messages, key=lambda message: message.id in own)
        session = replace(self._session, messages=tuple(ordered))
        cut = may_be_cut(session, self._terms.budget)
        return list(shown(session, self._terms.budget, cut=cut).messages)

    async def _ask(self) -> None:
        """Write the user's message."""
        await self._scribe.write(self._question)
        self._tell(MessageAdded(message=self._question))

    def _catch_up(self, past: Past) -> None:
        """Void what readers were told and is not recorded, and tell them what they were not told."""
        self._caught_up = True
        for event in past.missing(self._written):
            self._emit(event)
        self._told = told_of(self._written)
        self._announced = {message.id for message in self._written}

    async def _look_back(self) -> None:
        """Read what earlier owners have written, and which calls they have left open."""
        past = self._past
        if past is None:
            return
        self._written = await self._scribe.turn(self._run)
        self._open = {call.id: call for call in unanswered(self._written)}
        self._unreadable = {call_id for message in self._written for call_id in unreadable_in(message)}
        self._begun = {call_id for call_id in self._open if call_id not in past.pending}
        self._looked_back = True

    async def _equip(self) -> Agent:
        """Return the agent, when the calls that an earlier owner left open are settled."""
        agent, self._toolbox = await self._terms.prepare()
        lost = [call for call in self._open.values() if not self._may_repeat(call)]
        if self._open:
            self._terms.metrics.turn_resumed("unknown_outcome" if lost else "continued")
        for call in list(self._open.values()):
            if call not in lost:
                await self.run_call(call, self._tell)
        if lost:
            names = ", ".join(call.name for call in lost)
            raise Interrupted(
                f"The turn was interrupted: its worker stopped while it called {names}. Whether that took "
                "effect is not known, and it was not tried again. Look before you send the message again."
            )
        return agent

    def _may_repeat(self, call: ToolCall) -> bool:
        """Tell whether a call without a result may be made: it never was, or the operator says it is safe."""
        return call.id not in self._begun or call.id in self._unreadable or self._toolbox.safe(call.name)

    def _tell(self, event: Event) -> None:
        """Say what has happened, to readers and to the session here."""
        if isinstance(event, TextDelta):
            event = TextDelta(text=self._told.say(event.text))
        elif isinstance(event, ToolStarted):
            self._told.broken = True
        elif isinstance(event, MessageAdded):
            self._untold.pop(event.message.id, None)
            self._usage += event.usage
            self._told.add(event.message)
            self._announced.add(event.message.id)
            if event.message.id not in {message.id for message in self._written}:
                self._written.append(event.message)
        self._session = fold(self._session, event)
        self._emit(event)

    async def _finish(self, outcome: Final | None) -> None:
        """Keep what was said so far, then end: whatever fails, the turn has an end."""
        await self._settle()
        if outcome is None:
            await self._hand_over()
        else:
            await self._end(outcome)

    async def _end(self, outcome: Final, *, patience: float = END_LIMIT) -> None:
        stopped = isinstance(outcome, TurnFinished) and outcome.stopped
        with anyio.move_on_after(END_LIMIT):  # the turn ends in any case
            await self._try_to_make_whole(time.monotonic() + patience)
        if self._told.partial or self._open:
            outcome = await self._keep({"stopped": True} if stopped else {"interrupted": True}, outcome)
        elapsed = int((time.monotonic() - self._began) * 1000)
        if isinstance(outcome, TurnFinished):
            outcome = TurnFinished(stopped=outcome.stopped, elapsed_ms=elapsed, usage=self._usage)
        self._over = True
        with anyio.move_on_after(END_LIMIT):
            await self._terms.end(outcome)
        log.info("turn.ended", outcome=outcome.type, stopped=stopped, ms=elapsed)

    async def _try_to_make_whole(self, until: float) -> None:
        with contextlib.suppress(ChatError):
            while True:
                try:
                    return await self._make_whole()
                except StoreUnavailable:
                    if time.monotonic() + RETRY_EVERY > until:
                        raise
                    await anyio.sleep(RETRY_EVERY)

    async def _make_whole(self) -> None:
        """See to it that the user's message is in the history, and that readers know what else is."""
        if not self._looked_back:
            await self._look_back()
        announced = self._past.announced if self._past else set()
        missing = not announced.issuperset(message.id for message in self._written)
        if self._past and not self._caught_up and (missing or self._past.lost):
            self._catch_up(self._past)  # what readers have is not what is recorded
        for message in self._written:
            if message.id not in announced and message.id not in self._announced:
                self._tell(MessageAdded(message=message))
        if not self._written:
            await self._ask()

    async def _hand_over(self) -> None:
        """Leave the turn as it is; the next owner goes on."""
        pending = tuple(call_id for call_id in self._open if call_id not in self._begun)
        self._emit(HandedOver(pending=pending))
        with anyio.move_on_after(END_LIMIT), contextlib.suppress(StoreUnavailable):
            await self._terms.flush()
        self._terms.metrics.turn_ended("handed_over")
        log.info("turn.handed_over")

    async def _settle(self) -> None:
        """Wait for what is being written, and tell what LangGraph, being stopped, did not hand on."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=END_LIMIT)
        for event in list(self._untold.values()):
            self._tell(event)

    async def _undisturbed(self, writing: Coroutine[Any, Any, Message]) -> Message:
        """Write in a task of its own: LangGraph cancels its tasks in the middle of what they do."""
        task = asyncio.create_task(writing)
        self._writing.add(task)
        task.add_done_callback(self._written_aside)
        return await asyncio.shield(task)

    def _written_aside(self, task: asyncio.Task[Message]) -> None:
        self._writing.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _keep(self, mark: dict[str, bool], outcome: Final) -> Final:
        """Write what there is of a turn that did not come to its end; each call gets a result."""
        try:
            with anyio.fail_after(END_LIMIT):
                for call in list(self._open.values()):
                    await self._close_unanswered(call, mark)
                if text := self._told.partial:
                    message = partial(self._run, self._place("a"), text, mark)
                    await self._scribe.write(message)
                    self._tell(MessageAdded(message=message))
        except TimeoutError:
            return failed(StoreUnavailable())
        except ChatError as error:
            return failed(error)
        return outcome

    async def _close_unanswered(self, call: ToolCall, mark: Mapping[str, bool]) -> None:
        lost = bool(self._past) and call.id in self._begun
        if lost:
            self._terms.metrics.tool_called("unknown")
        result = UNKNOWN if lost else NO_RESULT
        message = await self._close(call, result, {**mark, "outcome": "unknown"} if lost else dict(mark))
        self._tell(finished(call, result, message))
        self._tell(MessageAdded(message=message))

    def _place(self, kind: str) -> int:
        """Return the number of the turn's next message of a kind, as its id says it."""
        begin = f"{self._run}-{kind}"
        ids = {message.id for message in self._written} | set(self._untold)
        return sum(id_.startswith(begin) for id_ in ids)

    async def record(self, message: Message, usage: Usage, emit: Emit) -> None:
        """Put the model's message into the history; see `mcp_chat.agent.Loop`."""
        message = await self._undisturbed(self._record(message, usage))
        emit(MessageAdded(message=message, usage=usage))

    async def _record(self, message: Message, usage: Usage) -> Message:
        message = replace(message, id=f"{self._run}-a{self._place('a')}")
        if message.content or message.tool_calls:
            await self._scribe.write(message, usage)
            self._untold[message.id] = MessageAdded(message=message, usage=usage)
            self._open |= {call.id: call for call in message.tool_calls}
            self._unreadable |= unreadable_in(message)
        return message

    async def _close(
        self, call: ToolCall, result: ToolResult, metadata: dict[str, Any], *, refused: str = ""
    ) -> Message:
        """Write the result of a call, and with it what the trail has of it."""
        self._results = max(self._results, self._place("t")) + 1  # several close at the same time
        message = Message(
            id=f"{self._run}-t{self._results}",
            role="tool",
            content=result.text,
            tool_call_id=call.id,
            name=call.name,
            status="error" if result.failed else "success",
            metadata=metadata,
        )
        await self._scribe.write(message, deed=self._deed(call, message, refused))
        self._open.pop(call.id, None)
        self._untold[message.id] = MessageAdded(message=message)
        return message

    def _deed(self, call: ToolCall, result: Message, refused: str) -> Deed | None:
        """Return the trail's line of a call that was made, or may have been; the first one holds."""
        if call.id in self._begun and call.id not in self._deeds:
            deed = of_call(
                call, result, run=self._run, turn=self._turn_id, session_id=self._session.id, refused=refused
            )
            self._terms.trail.say(deed)
            self._deeds[call.id] = deed
        return self._deeds.get(call.id)

    async def run_call(self, call: ToolCall, emit: Emit) -> Message:
        """Run a tool call; see `mcp_chat.agent.Loop`. Its intent was recorded with the model's message."""
        async with self._calls:
            began = time.monotonic()
            await self._terms.held()
            self._begun.add(call.id)
            self._calling += 1
            try:
                at = now().isoformat()
                emit(ToolStarted(call_id=call.id, name=call.name, args=call.args, at=at))
                unreadable = call.id in self._unreadable
                refused = "invalid_arguments" if unreadable else self._toolbox.refuses(call.name)
                result = (
                    ToolResult(text=NOT_JSON, failed=True)
                    if unreadable
                    else await self._toolbox.call(call.name, call.args, Progress(call, emit))
                )
                elapsed = round((time.monotonic() - began) * 1000)
                message = await self._undisturbed(
                    self._close(call, result, {"elapsed_ms": elapsed, "started_at": at}, refused=refused)
                )
            finally:
                self._calling -= 1
                self._quiet.set()
                self._quiet = anyio.Event()
        self._terms.metrics.tool_called("failed" if result.failed else "succeeded")
        emit(finished(call, result, message))
        emit(MessageAdded(message=message))
        return message


def finished(call: ToolCall, result: ToolResult, message: Message) -> ToolFinished:
    """Return the event that tells of a call's result."""
    return ToolFinished(
        call_id=call.id,
        name=call.name,
        output=result.text,
        failed=result.failed,
        at=message.created_at.isoformat(),
    )


def question(command: Send) -> Message:
    """Return the message that a turn begins with."""
    return Message(id=f"{command.run}-q", role="user", content=command.text, parts=command.parts)


def partial(run: str, answers: int, text: str, mark: dict[str, bool]) -> Message:
    """Return the message that keeps an unfinished answer, in the place of the finished one."""
    return Message(id=f"{run}-a{answers}", role="assistant", content=text, metadata=mark)
