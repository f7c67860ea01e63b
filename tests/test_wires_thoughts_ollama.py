"""What Ollama's models think, through `langchain-ollama`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mcp_chat.models.base import REASONING
from mcp_chat.models.ending import ENDED
from tests.wires.heard import hear, opened
from tests.wires.wire import Wire, lines, wired

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


def line(done: str = "", **message: Any) -> dict[str, Any]:
    end = {"done_reason": done, "prompt_eval_count": 7, "eval_count": 3} if done else {}
    said = {"role": "assistant", "content": "", **message}
    return {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": said, "done": bool(done), **end}


@pytest.mark.parametrize(("options", "asked"), [({}, None), ({"reasoning": True}, True)])
async def test_thoughts_are_heard_asked_for_or_not(
    wire: Wire, options: dict[str, Any], asked: bool | None
) -> None:
    wire.will(lines(line(thinking="Let me"), line(thinking=" see"), line(content="Done."), line("length")))
    async with opened("ollama:m", wire, options=options) as model:
        heard = await hear(model)
    assert (heard.thoughts, heard.texts) == (["Let me", " see"], ["Done."])
    assert heard.message.metadata == {REASONING: "Let me see", ENDED: "length"}
    assert heard.answer.usage.output_tokens == 3
    assert wire.asked[-1].body.get("think") == asked
