"""What a user says into a turn that runs: it comes before the next thing that the model is asked, in order.

A message is written into the history at its place, under an id that is made of the turn's and of its own
command's: however often it is taken up, and by whomever, it is there once.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any

from mcp_chat.commands import Send
from mcp_chat.events import Event, Final, MessageAdded, Steered
from mcp_chat.message import Message
from mcp_chat.outcomes import question

STEER = "steer"
"""In the metadata of a user's message that was said into a turn: the command that brought it."""

TURN = "turn"
"""In the same metadata: the turn."""

End = Callable[[Send, Final], Awaitable[None]]
Finish = Callable[[Coroutine[Any, Any, Message]], Awaitable[Message]]


class Steering:
    """The messages that are on their way into one turn.

    Args:
        command: The turn's own message.
        end: Tells that a message has come in.
    """

    def __init__(self, command: Send, end: End) -> None:
        self._turn = command
        self._end = end
        self._waiting: deque[Send] = deque()
        self._closed = False

    def take(self, command: Send) -> bool:
        """Take a message, unless nothing more comes into the turn."""
        if not self._closed:
            self._waiting.append(command)
        return not self._closed

    @property
    def waits(self) -> bool:
        """Whether a message is to come in."""
        return bool(self._waiting)

    def close(self) -> bool:
        """Take nothing more, unless something waits; tell whether that is so."""
        self._closed = self._closed or not self._waiting
        return self._closed and not self._waiting

    async def come_in(
        self,
        known: Collection[str],
        write: Callable[..., Awaitable[None]],
        tell: Callable[[Event], None],
        finish: Finish,
        *,
        last: bool = False,
    ) -> list[Message]:
        """Let what waits come into the history, and return it; what is known there is only ended.

        Args:
            write: Writes messages into the history, all or none.
            finish: Does something to its end, even if the turn is stopped meanwhile.
            last: If nothing waits, nothing more is taken: the turn is over.
        """
        found: list[Message] = []
        while self._waiting:
            messages = self._messages(self._waiting[0])
            new = messages if messages[-1].id not in known else []
            await finish(self._come_in(self._waiting[0], messages[-1], new, write, tell))
            found += new
        self._closed = self._closed or (last and not found)
        return found

    async def _come_in(
        self,
        command: Send,
        message: Message,
        new: list[Message],
        write: Callable[..., Awaitable[None]],
        tell: Callable[[Event], None],
    ) -> Message:
        if new:
            await write(*new)
        for each in new:
            tell(MessageAdded(message=each))
        await self._came_in(command)
        return message

    async def _came_in(self, command: Send) -> None:
        if command in self._waiting:  # else it was ended meanwhile
            self._waiting.remove(command)
            await self._end(command, Steered(turn_id=self._turn.id, message_id=self._id(command)))

    def _messages(self, command: Send) -> list[Message]:
        """Return what a message comes to in the history: those that a prompt begins with, and itself last."""
        begin = self._id(command)
        opening = [replace(each, id=f"{begin}-{n}") for n, each in enumerate(command.opening)]
        said = question(command)
        metadata = {**said.metadata, STEER: command.id, TURN: self._turn.id}
        return [*opening, replace(said, id=begin, metadata=metadata)]

    async def settle(self, written: Collection[str]) -> None:
        """Take nothing more, and end the messages that are in the history already."""
        self._closed = True
        for command in [each for each in self._waiting if self._id(each) in written]:
            await self._came_in(command)

    def left(self) -> list[Send]:
        """Return the messages that have not come in and never will."""
        self._closed = True
        return list(self._waiting)

    def _id(self, command: Send) -> str:
        return f"{self._turn.run}-s{hashlib.sha256(command.id.encode()).hexdigest()[:24]}"


def said_into(messages: Collection[Message], command_id: str) -> Steered | None:
    """Return the end of a message that is in the history, in a turn that has ended since."""
    for message in messages:
        if message.metadata.get(STEER) == command_id:
            return Steered(turn_id=str(message.metadata.get(TURN, "")), message_id=message.id)
    return None
