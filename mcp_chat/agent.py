"""A model with tools: asks it, tells what it says, and runs what it asks for until it has answered.

The loop is that of LangChain's `create_agent`, held to it by a test; docs/architecture.md says
why it is ours.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Protocol

import anyio

from mcp_chat.events import Event, TextDelta, ThoughtDelta
from mcp_chat.exceptions import ModelFailed, ModelTimeout
from mcp_chat.limits import ModelLimits
from mcp_chat.message import Message, ToolCall, Usage, wellformed
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Model, Piece, Request
from mcp_chat.models.persistent import Persistence
from mcp_chat.models.window import Window
from mcp_chat.recording import Tape
from mcp_chat.together import together
from mcp_chat.tools import Tool
from mcp_chat.upload import Upload

Emit = Callable[[Event], None]

SUM_UP_LIMIT = 120.0

SLACK = 0.1
"""Seconds that a model may be silent beyond the limit."""


class Purse(Protocol):
    """Pays for what a model is asked, and looks at it."""

    async def allow(self, request: Request, answer: Answer, model: str) -> Request:
        """See that a model may be asked, and return what it may be asked; what comes of it is counted.

        Raises:
            ChatError: It may not.
        """
        ...

    def answered(self, pieces: AsyncGenerator[Piece], hear: Callable[[Piece], None]) -> AsyncGenerator[Piece]:
        """Return what a model says as it may be told, recorded and shown to it again.

        Args:
            hear: Is given what the model says where less of it may be told.
        """
        ...


class Loop(Purse, Protocol):
    """What a turn does for the agent inside the loop.

    Attributes:
        tape: Takes the model's answers down, if the turn is recorded.
    """

    tape: Tape | None

    def tell(self, event: Event) -> None:
        """Say what the model has said."""
        ...

    def fewer(self, tokens: int) -> Sequence[Message]:
        """Return what the model is shown now within so many tokens; nothing if it cannot be less."""
        ...

    def left(self) -> float:
        """Return the seconds that the turn may still take."""
        ...

    async def steered(self, *, last: bool = False) -> Sequence[Message]:
        """Return what the user has said meanwhile, which is in the history then.

        Args:
            last: If it is nothing, the turn is over.
        """
        ...

    async def record(self, message: Message, usage: Usage) -> Message:
        """Put the model's message into the history; when this returns it is committed, with its id."""
        ...

    async def run_call(self, call: ToolCall) -> Message:
        """Run a tool call, or answer it with what is wrong with it; return the recorded result."""
        ...


class Agent:
    """A model with tools, ready to answer.

    Args:
        model: The chat model.
        tools: What it may ask for.
        rounds: Rounds of tool calls in one turn.
        silence: Seconds the model may say nothing.
        limits: How much it may say at once.
        window: How much it takes at once.
        persistence: How hard an answer is tried for.
    """

    def __init__(
        self,
        model: Model,
        tools: Sequence[Tool],
        *,
        rounds: int,
        silence: float,
        limits: ModelLimits = ModelLimits(),  # noqa: B008 - a value
        window: Window = Window(),  # noqa: B008 - a value
        persistence: Persistence | None = None,
    ) -> None:
        self.window = window.beside(tools)
        self._model = model
        self._tools = tuple(tools)
        self._rounds = rounds
        self._silence = silence
        self._limits = limits
        self._persistence = persistence or Persistence()

    async def run(
        self,
        messages: Sequence[Message],
        files: Mapping[str, Upload],
        loop: Loop,
        *,
        temperature: float | None = None,
    ) -> Message:
        """Answer the last message; return what the model has said last, which may be nothing.

        Args:
            messages: What the model is shown, complete.
            files: What is in the files that go with them.
            loop: Is told what the model says, records its messages and runs its calls.
            temperature: Instead of the model's own.

        Raises:
            ModelFailed: The provider refused, broke off, was silent, or asked for too much.
        """
        shown = list(messages)
        seen = {call.id for message in shown for call in message.tool_calls}
        rounds = 0
        while True:
            shown += await loop.steered()
            request = Request(messages=shown, files=files, tools=self._tools, temperature=temperature)
            answer, shown = await self._answer(request, loop)
            message = await loop.record(answer.message(seen), answer.usage)
            if not message.tool_calls:
                if not (steered := await loop.steered(last=True)):
                    return message
                shown += [*([message] if message.content else ()), *steered]
                continue
            rounds += 1
            if rounds > self._rounds:
                raise ModelFailed(
                    "The model asked for tools again and again without an answer. Ask for less at once."
                )
            shown += [message, *await together(loop.run_call(call) for call in message.tool_calls)]

    async def _answer(self, request: Request, loop: Loop) -> tuple[Answer, list[Message]]:
        """Get an answer; return it, and what the model was shown for it."""
        asking = _Asking(request, self._silence, loop, loop)
        answer = await self._persistence.answer(self._model, request, self._limits, asking)
        return answer, list(asking.request.messages)

    async def sum_up(self, task: str, text: str, purse: Purse) -> tuple[str, Usage]:
        """Ask the model for one text, without tools.

        Raises:
            ModelFailed: It did not answer.
        """
        asked = (Message(role="system", content=task), Message(role="user", content=text))
        request = Request(messages=asked)
        asking = _Asking(request, self._silence, purse)
        with anyio.move_on_after(SUM_UP_LIMIT) as scope:
            answer = await self._persistence.answer(self._model, request, self._limits, asking)
        if scope.cancelled_caught:
            raise ModelTimeout
        return answer.message(set()).content, answer.usage


class _Asking:
    """Makes the attempts at one answer; see `mcp_chat.models.persistent.Asker`.

    Args:
        loop: Hears of it; without one nobody does.

    Attributes:
        request: What was asked last.
    """

    def __init__(self, request: Request, silence: float, purse: Purse, loop: Loop | None = None) -> None:
        self.request = request
        self._silence = silence
        self._purse = purse
        self._loop = loop
        self._tape = loop.tape if loop else None
        self._asked = False

    def tell(self, event: Event) -> None:
        """Say what is going on."""
        if self._loop:
            self._loop.tell(event)

    def fewer(self, tokens: int) -> Sequence[Message]:
        """Return what the model is shown within so many tokens, if it can be less."""
        return self._loop.fewer(tokens) if self._loop else ()

    def left(self) -> float:
        """Return the seconds that there are still."""
        return self._loop.left() if self._loop else SUM_UP_LIMIT

    async def ask(self, model: Model, request: Request, answer: Answer) -> None:
        """Make one attempt; each piece is told as it comes."""
        self.request = request
        if self._tape and self._asked:
            self._tape.again()
        self._asked = True
        request = await self._purse.allow(request, answer, model.name)
        heard = time.monotonic()
        with anyio.CancelScope(deadline=anyio.current_time() + self._silence) as scope:
            stream = self._purse.answered(model.stream(request), answer.hear)
            stream = self._tape.listen(stream) if self._tape else stream
            async with contextlib.aclosing(stream) as pieces:
                async for piece in pieces:
                    if time.monotonic() > heard + SLACK:  # to move the deadline costs more than the piece
                        heard = time.monotonic()
                        scope.deadline = anyio.current_time() + self._silence + SLACK
                    answer.add(piece)
                    if piece.thought:
                        self.tell(ThoughtDelta(text=wellformed(piece.thought)))
                    if piece.text:
                        self.tell(TextDelta(text=wellformed(piece.text)))
        if scope.cancelled_caught:
            raise ModelTimeout
