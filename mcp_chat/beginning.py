"""What a turn begins with: the user's message, which is written once, into a branch if it is said anew."""

from __future__ import annotations

from mcp_chat.agent import Emit
from mcp_chat.commands import Send
from mcp_chat.events import Branched, MessageAdded
from mcp_chat.message import Message
from mcp_chat.outcomes import question
from mcp_chat.scribe import Scribe
from mcp_chat.story import Story


class Beginning:
    """Puts the user's message into the history.

    Args:
        command: The message.
        scribe: Writes it.
        emit: Takes events that are none of the turn's own.
        story: Tells of it.

    Attributes:
        messages: The user's message, and those that come before it.
        replaces: The message that it is said instead of, if there is one.
        forked: Whether there is nothing to be put into a branch, any more.
    """

    def __init__(self, command: Send, scribe: Scribe, emit: Emit, story: Story) -> None:
        self.messages = (*command.opening, question(command))
        self.replaces = command.replaces
        self.forked = not command.replaces
        self._run = command.run
        self._scribe = scribe
        self._emit = emit
        self._story = story

    async def fork(self) -> None:
        """Put what the message is said instead of into a branch: once, however often this is begun."""
        if self.forked:
            return
        if not self._story.written:  # else it was done before
            await self._scribe.fork(self.replaces, self._run)
            self._emit(Branched(session_id=self._story.session.id, message_id=self.replaces))
        self.forked = True

    async def write(self) -> Message:
        """Write the message, with those that come before it, all or none; return it."""
        await self.fork()
        *before, said = self.messages
        await self._scribe.write(*self.messages)
        for message in before:  # they are nobody's answer, so the turn does not count them as its own
            self._story.tell_before(MessageAdded(message=message))
        self._story.tell(MessageAdded(message=said))
        for event in self._story.early.end():
            self._story.tell(event)
        return said
