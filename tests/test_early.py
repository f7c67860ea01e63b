"""What a turn has to tell before its question is written comes behind it, whatever it is."""

from __future__ import annotations

import pytest

from mcp_chat.commands import Send
from mcp_chat.events import Event, MessageAdded, Noticed, TextDelta, ThoughtDelta
from mcp_chat.message import Message
from mcp_chat.metrics import Metrics
from mcp_chat.recovery import Told
from mcp_chat.story import Story

QUESTION = MessageAdded(message=Message(id="r-u", role="user", content="hello"))


@pytest.mark.parametrize(
    "early",
    [
        TextDelta(text="Hi"),
        ThoughtDelta(text="Well"),
        Noticed(code="model_retry", text="Trying again in 2 s.", seconds=2),
    ],
)
def test_nothing_is_told_before_the_question(early: Event) -> None:
    told: list[Event] = []
    story = Story(Send(session_id="s", text="hello", run="r"), told.append, Metrics(), Told())
    story.early.begin()
    story.tell(early)
    assert told == []
    story.tell(QUESTION)
    for event in story.early.end():
        story.tell(event)
    assert told == [QUESTION, early]
    story.tell(early)
    assert told == [QUESTION, early, early]
