"""One turn: a user's message until its answer is complete. Recorded first, announced second."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
import structlog

from mcp_chat.agent import Agent, Emit
from mcp_chat.commands import Send
from mcp_chat.connections import Toolbox
from mcp_chat.context import Budget, may_be_cut, shown
from mcp_chat.events import (
    Event,
    Failed,
    Final,
    MessageAdded,
    TextDelta,
    ToolFinished,
    ToolProgressed,
    ToolStarted,
    TurnFinished,
    TurnStarted,
    fold,
)
from mcp_chat.exceptions import ChatError, ModelFailed, ModelTimeout, StoreUnavailable, Unexpected
from mcp_chat.message import Message, ToolCall, Usage, now, wellformed
from mcp_chat.record import Record
from mcp_chat.session import Session
from mcp_chat.tools import ToolResult
from mcp_chat.upload import Upload

log = structlog.get_logger()

PARALLEL_CALLS = 8
PROGRESS_EVERY = 0.1
NO_RESULT = ToolResult(text="No result: the turn ended before the call did.", failed=True)
END_LIMIT = 8.0
"""Seconds for each of the last writes of a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scribe:
    """Writes a session's messages for the owner who holds this epoch.

    Attributes:
        backend: The user's model, as far as it is known.
        fresh: Sessions whose windows this owner knows to be complete; an earlier owner may have failed.
    """

    record: Record
    user: str
    session_id: str
    epoch: int
    backend: str
    fresh: set[str]

    async def session(self) -> Session:
        """Return the session with the messages of which the model may be shown some."""
        stale = self.session_id not in self.fresh
        recent = await self.record.recent(self.user, self.session_id, epoch=self.epoch, refill=stale)
        self.fresh.add(self.session_id)
        found = await self.record.session(self.user, self.session_id, recent)
        return found or Session(id=self.session_id)

    async def write(self, message: Message, usage: Usage | None = None) -> None:
        """Add a message; when this returns it is committed. One whose id is there already is not added."""
        whole = False  # whatever comes in between: the archive may have it then, and the window not
        try:
            whole = await self.record.add(
                self.user, self.session_id, [message], usage=usage, backend=self.backend, epoch=self.epoch
            )
        finally:
            if not whole:
                self.fresh.discard(self.session_id)

    async def files(self, messages: Sequence[Message]) -> dict[str, Upload]:
        """Return the files that go with the messages, as far as they are kept."""
        return await self.record.files(self.user, messages)


def failed(error: ChatError) -> Failed:
    """Return an error as the event that ends its command."""
    return Failed(
        code=error.code,
        text=str(error),
        retryable=error.retryable,
        retry_after=getattr(error, "retry_after", None),
    )


class Turn:
    """Runs one message to its end, whatever happens.

    Args:
        question: The user's message.
        run: Begins the ids of its messages.
        scribe: Where messages go.
        emit: Takes the turn's events; they are in the log after `flush`.
        flush: Waits until they are.
        prepare: Gives the agent and the tools; may take a while, may fail.
        taken: Called when the message is in the history: it need not be kept elsewhere any more.
        limit: Seconds the turn may take.
        budget: How much of the conversation the model is shown.
    """

    def __init__(
        self,
        question: Message,
        *,
        run: str,
        scribe: Scribe,
        emit: Emit,
        flush: Callable[[], Awaitable[None]],
        prepare: Callable[[], Awaitable[tuple[Agent, Toolbox]]],
        taken: Callable[[], Awaitable[None]],
        limit: float,
        budget: Budget,
    ) -> None:
        self._question = question
        self._run = run
        self._scribe = scribe
        self._emit = emit
        self._flush = flush
        self._prepare = prepare
        self._taken = taken
        self._limit = limit
        self._budget = budget
        self._session = Session(id=scribe.session_id)
        self._usage = Usage()
        self._partial = ""
        self._answers = 0
        self._results = 0
        self._open: dict[str, ToolCall] = {}
        self._untold: dict[str, MessageAdded] = {}
        self._writing: set[asyncio.Task[Message]] = set()
        self._answered = False
        self._toolbox = Toolbox(())
        self._calls = anyio.CapacityLimiter(PARALLEL_CALLS)
        self._began = time.monotonic()

    async def run(self, *, why_cancelled: Callable[[], Final]) -> Final:
        """Run to the end and return the final event, which is in the log then.

        Args:
            why_cancelled: Asked for the final event if the turn is cancelled.
        """
        outcome: Final | None = None
        try:
            outcome = await self._attempt()
        finally:
            with anyio.CancelScope(shield=True):
                outcome = await self._finish(why_cancelled() if outcome is None else outcome)
        return outcome

    async def _attempt(self) -> Final:
        try:
            with anyio.move_on_after(self._limit) as limit:
                self._emit(TurnStarted(session_id=self._session.id, run=self._run))
                await self._flush()
                await self._converse()
        except ChatError as error:
            return failed(error)
        except Exception:  # a bug in one turn must not end the others
            log.exception("turn.crashed")
            return failed(Unexpected())
        if limit.cancelled_caught:
            return failed(ModelTimeout(f"The turn took longer than {self._limit:g} seconds and was ended."))
        return TurnFinished()

    async def _converse(self) -> None:
        self._session = await self._scribe.session()
        await self._scribe.write(self._question)
        await self._taken()
        self._tell(MessageAdded(message=self._question))
        agent, self._toolbox = await self._prepare()
        cut = may_be_cut(self._session, self._budget)
        messages = shown(self._session, self._budget, cut=cut).messages
        async for event in agent.run(messages, await self._scribe.files(messages), self):
            self._tell(event)
        if not self._answered:
            raise ModelFailed("The model gave an empty answer. Please try again.")

    def _tell(self, event: Event) -> None:
        """Say what has happened, to readers and to the session here."""
        if isinstance(event, TextDelta):
            self._partial += event.text
        elif isinstance(event, MessageAdded):
            self._untold.pop(event.message.id, None)
            self._usage += event.usage
            self._partial = "" if event.message.role == "assistant" else self._partial
        self._session = fold(self._session, event)
        self._emit(event)

    async def _finish(self, outcome: Final) -> Final:
        """Keep what was said so far, then end: whatever fails, the turn has an end."""
        stopped = isinstance(outcome, TurnFinished) and outcome.stopped
        await self._settle()
        if self._partial or self._open:
            outcome = await self._keep({"stopped": True} if stopped else {"interrupted": True}, outcome)
        elapsed = int((time.monotonic() - self._began) * 1000)
        if isinstance(outcome, TurnFinished):
            outcome = TurnFinished(stopped=outcome.stopped, elapsed_ms=elapsed, usage=self._usage)
        self._emit(outcome)
        with anyio.move_on_after(END_LIMIT):
            await self._flush()
        log.info("turn.ended", outcome=outcome.type, stopped=stopped, ms=elapsed)
        return outcome

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
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)

    async def _keep(self, mark: dict[str, bool], outcome: Final) -> Final:
        """Write what there is of a turn that did not come to its end; each call gets a result."""
        try:
            with anyio.fail_after(END_LIMIT):
                for call in list(self._open.values()):
                    self._tell(MessageAdded(message=await self._close(call, NO_RESULT, dict(mark))))
                if self._partial:
                    message = partial(self._run, self._answers, self._partial, mark)
                    await self._scribe.write(message)
                    self._tell(MessageAdded(message=message))
        except TimeoutError:
            return failed(StoreUnavailable())
        except ChatError as error:
            return failed(error)
        return outcome

    async def record(self, message: Message, usage: Usage, emit: Emit) -> None:
        """Put the model's message into the history; see `mcp_chat.agent.Loop`."""
        message = await self._undisturbed(self._record(message, usage))
        emit(MessageAdded(message=message, usage=usage))

    async def _record(self, message: Message, usage: Usage) -> Message:
        message = replace(message, id=f"{self._run}-a{self._answers}")
        if message.content or message.tool_calls:
            await self._scribe.write(message, usage)
            self._untold[message.id] = MessageAdded(message=message, usage=usage)
            self._answers += 1
            self._open |= {call.id: call for call in message.tool_calls}
            self._answered |= bool(message.content)
        return message

    async def _close(self, call: ToolCall, result: ToolResult, metadata: dict[str, Any]) -> Message:
        """Write the result of a call."""
        self._open.pop(call.id, None)
        self._results += 1
        message = Message(
            id=f"{self._run}-t{self._results}",
            role="tool",
            content=result.text,
            tool_call_id=call.id,
            name=call.name,
            status="error" if result.failed else "success",
            metadata=metadata,
        )
        await self._scribe.write(message)
        self._untold[message.id] = MessageAdded(message=message)
        return message

    async def run_call(self, call: ToolCall, problem: str | None, emit: Emit) -> Message:
        """Run a tool call; see `mcp_chat.agent.Loop`. Its intent was recorded with the model's message."""
        async with self._calls:
            began = time.monotonic()
            emit(ToolStarted(call_id=call.id, name=call.name, args=call.args, at=now().isoformat()))
            result = (
                ToolResult(text=problem, failed=True)
                if problem
                else await self._toolbox.call(call.name, call.args, Progress(call, emit))
            )
        elapsed = round((time.monotonic() - began) * 1000)
        message = await self._undisturbed(self._close(call, result, {"elapsed_ms": elapsed}))
        emit(
            ToolFinished(
                call_id=call.id,
                name=call.name,
                output=result.text,
                failed=result.failed,
                at=now().isoformat(),
            )
        )
        emit(MessageAdded(message=message))
        return message


class Progress:
    """Hands a server's progress on, ten times a second at most."""

    def __init__(self, call: ToolCall, emit: Emit) -> None:
        self._call = call
        self._emit = emit
        self._last = 0.0

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        if time.monotonic() - self._last < PROGRESS_EVERY or not math.isfinite(progress):
            return
        self._last = time.monotonic()
        self._emit(
            ToolProgressed(
                call_id=self._call.id,
                name=self._call.name,
                progress=progress,
                total=total if total is not None and math.isfinite(total) else None,
                message=wellformed(message or "")[:500] or None,
            )
        )


def question(run: str, command: Send) -> Message:
    """Return the message that a turn begins with."""
    return Message(id=f"{run}-q", role="user", content=command.text, parts=command.parts)


def partial(run: str, answers: int, text: str, mark: dict[str, bool]) -> Message:
    """Return the message that keeps an unfinished answer, in the place of the finished one."""
    return Message(id=f"{run}-a{answers}", role="assistant", content=text, metadata=mark)


def unfinished(run: str, events: Sequence[Event]) -> Message | None:
    """Return the message that keeps what a turn said before it was broken off, if that is not in one yet."""
    text, answers = "", 0
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, MessageAdded) and event.message.role == "assistant":
            text = ""
            answers += bool(event.message.content or event.message.tool_calls)
    return partial(run, answers, text, {"interrupted": True}) if text else None
