"""One turn's messages, and what of them was told: to its readers, and to the session here."""

from __future__ import annotations

from collections.abc import Sequence

from mcp_chat.agent import Emit
from mcp_chat.commands import Send
from mcp_chat.early import Early
from mcp_chat.events import (
    Asked,
    AskEnded,
    Event,
    MessageAdded,
    TextDelta,
    ThoughtDelta,
    ToolStarted,
    fold,
)
from mcp_chat.message import Message
from mcp_chat.metrics import Metrics
from mcp_chat.questions import Question
from mcp_chat.recovery import Told, told_of
from mcp_chat.session import Session
from mcp_chat.writings import Writings


class Story:
    """Tells a turn, and knows what was told.

    Args:
        command: The user's message.
        emit: Takes the events.
        metrics: Counts the user's decisions.
        told: What readers have of an earlier owner's.

    Attributes:
        session: With what was told so far.
        told: The text as readers have it.
        written: The turn's messages in the history that are told, or known from before.
        untold: What tells of those that are in the history and that nobody was told of, by their ids.
        announced: Ids of those that readers have been told of here.
        asking: The questions that are open, by their ids.
        early: Holds back what the model says before the question is written.
        writings: What is on its way into the history.
    """

    def __init__(self, command: Send, emit: Emit, metrics: Metrics, told: Told) -> None:
        self.session = Session(id=command.session_id)
        self.told = told
        self.written: list[Message] = []
        self.untold: dict[str, tuple[Event, ...]] = {}
        self.announced: set[str] = set()
        self.asking: dict[str, Question] = {}
        self.early = Early()
        self.writings = Writings()
        self._run = command.run
        self._emit = emit
        self._metrics = metrics

    @property
    def ids(self) -> set[str]:
        """The ids of the turn's messages that are told, or known from before."""
        return {message.id for message in self.written}

    def place(self, kind: str) -> int:
        """Return the number of the turn's next message of a kind, as its id says it."""
        begin = f"{self._run}-{kind}"
        return sum(id_.startswith(begin) for id_ in self.ids | set(self.untold))

    def tell(self, event: Event) -> None:
        """Say what has happened, to readers and to the session here."""
        if self.early.holds(event):
            return
        if isinstance(event, TextDelta):
            event = TextDelta(text=self.told.say(event.text))
        elif isinstance(event, ThoughtDelta):
            self.told.thought += event.text
        elif isinstance(event, ToolStarted):
            self.told.broken = True
        elif isinstance(event, Asked):
            self.asking[event.question.id] = event.question
        elif isinstance(event, AskEnded):
            self.asking.pop(event.question_id, None)
            self._metrics.approval_ended(event.decision)
        elif isinstance(event, MessageAdded):
            self._told_of(event.message)
        self.tell_before(event)

    def announce(self, message_id: str) -> None:
        """Tell of a message that is in the history, unless it was told of."""
        for event in self.untold.get(message_id, ()):
            self.tell(event)

    def tell_before(self, event: Event) -> None:
        """Say what belongs to the conversation, and is none of the turn's own."""
        self.session = fold(self.session, event)
        self._emit(event)

    def _told_of(self, message: Message) -> None:
        self.untold.pop(message.id, None)
        self.told.add(message)
        self.announced.add(message.id)
        if message.id not in self.ids:
            self.written.append(message)

    def catch_up(self, missing: Sequence[Event]) -> None:
        """Bring readers to what is written.

        Args:
            missing: What says so.
        """
        for event in missing:
            self._emit(event)
        self.told = told_of(self.written)
        self.announced = self.ids

    async def settle(self, seconds: float) -> None:
        """Wait for what is being written, and tell what nobody waited for any more."""
        await self.writings.wait(seconds)
        for message_id in list(self.untold):
            self.announce(message_id)
