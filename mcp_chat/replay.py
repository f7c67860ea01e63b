"""Runs a recorded turn again, without model and servers: what it tells now is compared with what it told.

The turn is the real one; the far sides are the recording. Where the recording ends, so does the turn:
stopped if it was, failed if it had. Questions to the user are not asked again: what came of their calls is
known.
"""

from __future__ import annotations

import json
import math
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from difflib import unified_diff
from functools import partial
from itertools import groupby
from typing import NoReturn

import anyio

from mcp_chat.agent import Agent
from mcp_chat.allowance import Allowance, Limits
from mcp_chat.calls import Calls
from mcp_chat.commands import Send
from mcp_chat.consent import APPROVAL, Consent, Leave
from mcp_chat.context import Budget
from mcp_chat.desk import Desk
from mcp_chat.events import (
    Event,
    Failed,
    Final,
    MessageAdded,
    TextDelta,
    ThoughtDelta,
    ToolFinished,
    ToolStarted,
    TurnFinished,
)
from mcp_chat.exceptions import ChatError, InvalidRequest, ModelFailed
from mcp_chat.grants import Grants
from mcp_chat.message import Message, ToolCall, Usage
from mcp_chat.meter import NO_BILL, Meter
from mcp_chat.metrics import Metrics
from mcp_chat.models.base import CallPiece, Piece, Request
from mcp_chat.papers import Papers
from mcp_chat.plugins.blocks import BLOCKED
from mcp_chat.prices import Bill
from mcp_chat.record import Record
from mcp_chat.recording import Failure, Recording, Step
from mcp_chat.results import ToolResult
from mcp_chat.scribe import Scribe
from mcp_chat.seat import NO_SEAT
from mcp_chat.spent import Spent
from mcp_chat.steering import Finish, Steering
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.story import Story
from mcp_chat.talk import CallTalk, Hours, Talks
from mcp_chat.terms import Terms
from mcp_chat.toolbox import Refusal, Toolbox
from mcp_chat.tools import Tool
from mcp_chat.trail import Trail
from mcp_chat.turn import Turn
from mcp_chat.vault import Vault

USER = "replay"
PATIENCE = 5
"""Seconds in which calls that were done come to their ends where the recording ends in others."""

MOST = 10_000
"""Messages and calls: as many as there are."""


class RecordedModel:
    """Says what a model has said.

    Args:
        recording: Where it stands.
        end: Is called where the recording ends although the turn goes on.
    """

    def __init__(self, recording: Recording, end: Callable[[], None]) -> None:
        self.name = recording.model
        self._failure = recording.failure
        self._steps: Iterator[Step] = iter(recording.steps)
        self._ids = iter([call.id for message in _messages(recording) for call in message.tool_calls])
        self._end = end

    async def stream(self, request: Request) -> AsyncGenerator[Piece]:
        """Say the next answer, whatever is asked; see `mcp_chat.models.base.Model`."""
        step = next(self._steps, None)
        begun: set[int | str] = set()
        for _, piece in step.pieces if step else ():
            yield replace(piece, calls=tuple(self._named(call, begun) for call in piece.calls))
        if failure := step.failure if step else self._failure:
            raise failure_of(failure)
        if step is None or not any(piece.end or piece.usage for _, piece in step.pieces):
            self._end()
            await anyio.sleep_forever()

    def _named(self, call: CallPiece, begun: set[int | str]) -> CallPiece:
        """Give a call the id that it had in the end: the model's own may be none, or not a new one."""
        if call.index in begun:
            return call
        if call.index is not None:
            begun.add(call.index)
        return replace(call, id=next(self._ids, call.id))

    async def aclose(self) -> None:
        """Hold nothing open."""


def _messages(recording: Recording) -> list[Message]:
    """Return what the model has said."""
    added = [event.message for _, event in recording.events if isinstance(event, MessageAdded)]
    return [message for message in added if message.role == "assistant"]


class RecordedTools(Toolbox):
    """Gives what the tools have given, in the order in which they were done.

    Args:
        recording: Where it stands.
        end: Is called where the recording ends although the turn goes on.
    """

    def __init__(self, recording: Recording, end: Callable[[], None]) -> None:
        super().__init__({})
        self._recording = recording
        self._done = {call_id: anyio.Event() for call_id in recording.results}
        begun = (event.call_id for _, event in recording.events if isinstance(event, ToolStarted))
        self._untold: set[tuple[type, str]] = {(ToolStarted, call_id) for call_id in begun}
        self._untold |= {(ToolFinished, call_id) for call_id in recording.results}
        self._told = anyio.Event()
        self._end = end

    @property
    def tools(self) -> tuple[Tool, ...]:
        """The tools that there were."""
        return tuple(self._recording.tools)

    def hear(self, event: Event) -> None:
        """Take down what is told of calls."""
        if isinstance(event, ToolStarted | ToolFinished):
            self._untold.discard((type(event), event.call_id))
        if not self._untold:
            self._told.set()

    async def _over(self) -> NoReturn:
        """End the turn, behind what the other calls have to tell."""
        with anyio.move_on_after(PATIENCE):
            await self._told.wait()
        self._end()
        await anyio.sleep_forever()
        raise AssertionError

    async def leave(self, call: ToolCall) -> Leave:
        """Return what was decided about a call, when it was begun."""
        events = [event for _, event in self._recording.events]
        if not any(isinstance(event, ToolStarted) and event.call_id == call.id for event in events):
            await self._over()
        called = self._recording.results.get(call.id)
        refusal = Refusal(reason=called.refused, text=called.text) if called and called.refused else None
        for event in events:
            if isinstance(event, MessageAdded) and event.message.tool_call_id == call.id:
                said = event.message.metadata.get(APPROVAL, {})
                return Leave(
                    args=said.get("arguments", call.args),
                    refusal=refusal,
                    choice=said.get("decision"),
                    edited=said.get("edited", False),
                )
        return Leave(args=call.args, refusal=refusal)

    async def result(self, call: ToolCall) -> ToolResult:
        """Return what came of a call."""
        called = self._recording.results.get(call.id)
        if called is None:
            await self._over()
        order = list(self._done)
        if place := order.index(call.id):
            await self._done[order[place - 1]].wait()
        self._done[call.id].set()
        return ToolResult(text=called.text, failed=called.failed, structured=called.structured)


def failure_of(failure: Failure) -> ChatError:
    """Return the error that a recording tells of."""
    kind: type[ModelFailed] = type("Recorded", (ModelFailed,), {"code": failure.code})
    return kind(failure.text)


class RecordedSteering(Steering):
    """Gives what the user said into the turn, each behind what it came behind.

    Args:
        command: The turn's own message.
        recording: Where it stands.
    """

    def __init__(self, command: Send, recording: Recording) -> None:
        super().__init__(command, _untold)
        before: set[str] = set()
        self._said: deque[tuple[set[str], Message]] = deque()
        for _, event in recording.events:
            if isinstance(event, MessageAdded):
                if event.message.id.startswith(f"{recording.run}-s"):
                    self._said.append((set(before), event.message))
                before.add(event.message.id)

    @property
    def waits(self) -> bool:
        """Whether a message is still to come in."""
        return bool(self._said)

    def close(self) -> bool:
        """Tell whether nothing more comes in."""
        return not self._said

    async def come_in(
        self,
        known: Collection[str],
        write: Callable[..., Awaitable[None]],
        tell: Callable[[Event], None],
        finish: Finish,
        *,
        last: bool = False,
    ) -> list[Message]:
        """Let come in what came in here."""
        there, found = set(known), list[Message]()
        while self._said and self._said[0][0] <= there:
            _, message = self._said.popleft()
            await write(message)
            tell(MessageAdded(message=message))
            there.add(message.id)
            found.append(message)
        return found


async def _untold(_: Send, __: Final) -> None:
    """Nobody waits for it."""


class RecordedCalls(Calls):
    """Tool calls that give what they gave.

    Args:
        recorded: What that was.
    """

    def __init__(
        self, recorded: RecordedTools, command: Send, terms: Terms, story: Story, *, resumed: bool
    ) -> None:
        super().__init__(command, terms, story, resumed=resumed)
        self._recorded = recorded

    async def _leave(self, call: ToolCall) -> Leave:
        return await self._recorded.leave(call)

    async def _make(self, call: ToolCall, talk: CallTalk, leave: Leave) -> ToolResult:
        return await self._recorded.result(call)


class ReplayedTurn(Turn):
    """A turn whose tool calls give what they gave, and which fails where it failed."""

    def __init__(self, command: Send, terms: Terms, tools: RecordedTools, recording: Recording) -> None:
        super().__init__(command, terms, make_calls=partial(RecordedCalls, tools))
        self._fails = recording.failure
        self._answers = len(recording.steps)

    async def record(self, message: Message, usage: Usage) -> Message:
        """Put the model's message into the history; the last one may be that with which it failed."""
        self._answers -= 1
        message = await super().record(message, usage)
        if self._fails_behind(message):
            assert self._fails
            raise failure_of(self._fails)
        return message

    def _closing(self, message: Message, spent: Sequence[Spent]) -> TurnFinished | None:
        return None if self._fails_behind(message) else super()._closing(message, spent)

    def _fails_behind(self, message: Message) -> bool:
        """Tell whether the turn has failed behind a message: calls are made first, as far as they were."""
        last = self._answers <= 0 and not self.steering.waits
        return bool(self._fails) and last and not message.tool_calls


async def replay(recording: Recording, tell: Callable[[Event], None] = lambda event: None) -> list[Event]:
    """Run a turn again, and return what it told.

    Args:
        tell: Takes each event as it comes.

    Raises:
        InvalidRequest: The recording has no question.
    """
    if recording.question is None:
        raise InvalidRequest("This recording has no question: there is nothing to run.")
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        tools.hear(event)
        tell(event)

    with anyio.CancelScope() as scope:
        tools = RecordedTools(recording, scope.cancel)
        agent = Agent(
            RecordedModel(recording, scope.cancel), tools.tools, rounds=len(recording.steps), silence=math.inf
        )
        command = Send(
            session_id=recording.session_id,
            text=recording.question.content,
            parts=recording.question.parts,
            metadata=recording.question.metadata,
            run=recording.run,
            id=recording.turn_id,
        )
        steering = RecordedSteering(command, recording)
        terms = await _terms(recording, agent, tools, emit, steering)
        turn = ReplayedTurn(command, terms, tools, recording)
        await turn.run(why_cancelled=lambda: _ended(recording), seat=NO_SEAT)
    return events


def _ended(recording: Recording) -> Final:
    """Return how a turn ends of which there is no more: as it did, or with a word about that."""
    for _, event in reversed(recording.events):
        if isinstance(event, TurnFinished | Failed):
            return event
    return Failed(code="recording_ended", text="The recording ends here.")


async def _terms(
    recording: Recording,
    agent: Agent,
    tools: RecordedTools,
    emit: Callable[[Event], None],
    steering: Steering,
) -> Terms:
    store = MemoryStore(max_messages=MOST)
    lease = await store.leases.claim(USER, USER, floor=1, seen=None)
    assert lease is not None  # nobody else is there
    scribe = Scribe(
        record=Record(store.window, None, max_messages=MOST),
        user=USER,
        session_id=recording.session_id,
        epoch=lease.epoch,
        backend=recording.model,
        quota=0,
        fresh=set(),
    )
    await scribe.write(*(message for message in recording.shown[:-1] if message.role != "system"))
    trail = Trail(user=USER, worker=USER, archive=None)
    papers = Papers(store.documents, Vault([secrets.token_bytes(32)]))
    talks = Talks(lease, Desk(papers), trail, Hours())

    metrics = Metrics()
    allowance = Allowance(USER, store.usages, Limits(), metrics)

    async def bill(model: str) -> Bill:
        return NO_BILL

    async def nothing() -> None:
        """All is held, and all is written."""

    async def end(outcome: Final, recorded: bool) -> None:
        emit(outcome)

    async def prepare(model: str) -> tuple[Agent, Toolbox]:
        return agent, tools

    return Terms(
        scribe=scribe,
        emit=emit,
        flush=nothing,
        end=end,
        prepare=prepare,
        held=nothing,
        trail=trail,
        metrics=metrics,
        meter=Meter(recording.run, recording.session_id, allowance, bill),
        bill=bill,
        limit=math.inf,
        parallel_calls=MOST,
        server_calls=MOST,
        talks=talks,
        consent=Consent(talks=talks, grants=Grants(papers=papers, seconds=MOST), on=False),
        budget=Budget(messages=MOST, tokens=10**9, result=10**9),
        steering=steering,
    )


# What differs


def differences(recorded: Sequence[Event], replayed: Sequence[Event]) -> list[str]:
    """Return in which lines two tellings of a turn differ, as a diff has them; times and questions aside."""
    return list(unified_diff(told(recorded), told(replayed), "recorded", "replayed", lineterm=""))


def told(events: Sequence[Event]) -> list[str]:
    """Return what was told as lines: pieces of text as one, and all of an answer's calls together."""
    lines: list[str] = []
    for kind, some in groupby(filter(_kind, events), _kind):
        match kind:
            case "text" | "thought":
                lines.append(f"{kind}: {''.join(map(_said, some)).strip()}")
            case "calls":
                lines += _calls(list(some))
            case _:
                lines += map(_said, some)
    return lines


def _calls(events: list[Event]) -> list[str]:
    """Return what was told of calls that are made side by side: which of them begins first is chance."""
    begun = (_said(event) for event in events if isinstance(event, ToolStarted))
    done = (_said(event) for event in events if isinstance(event, ToolFinished))
    return [
        *sorted(begun),
        *sorted(done),
        *(_said(event) for event in events if isinstance(event, MessageAdded)),
    ]


def _kind(event: Event) -> str:
    match event:
        case TextDelta():
            return "text"
        case ThoughtDelta():
            return "thought"
        case ToolStarted() | ToolFinished():
            return "calls"
        case MessageAdded(message=message) if BLOCKED in message.metadata and not message.content:
            return ""  # no plugin is asked in a replay
        case MessageAdded(message=message):
            return "calls" if message.role == "tool" else f"message {message.id}"
        case TurnFinished() | Failed():
            return "end"
    return ""


def _said(event: Event) -> str:
    match event:
        case TextDelta(text=text) | ThoughtDelta(text=text):
            return text
        case ToolStarted(call_id=call_id, name=name):
            return f"call {call_id}: {name}"
        case ToolFinished(call_id=call_id, output=output, failed=failed):
            return f"result {call_id}: {'failed, ' if failed else ''}{output}"
        case MessageAdded(message=message):
            calls = ", ".join(f"{call.name}{json.dumps(dict(call.args))}" for call in message.tool_calls)
            return f"{message.role}: {message.content} {calls}".rstrip()
        case TurnFinished(stopped=stopped):
            return "stopped" if stopped else "finished"
        case Failed(code=code, text=text):
            return f"failed, {code}: {text}"
    return ""
