"""What a turn writes and tells of calls and answers that came to something, or to nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcp_chat.commands import Send
from mcp_chat.context import shorter
from mcp_chat.message import Message, Part, ToolCall
from mcp_chat.models.base import LONGEST_REASONING, REASONING
from mcp_chat.recovery import Told
from mcp_chat.results import STRUCTURED, Loss, ToolResult, noted

NO_RESULT = ToolResult(text="No result: the turn ended before the call did.", failed=True)
NOT_JSON = "The arguments were not valid JSON. Call again with a JSON object."
UNKNOWN = ToolResult(
    text="Outcome unknown: the worker that made this call stopped before it had the result. It may have "
    "taken effect, and was not made again.",
    failed=True,
)


def question(command: Send) -> Message:
    """Return the message that a turn begins with."""
    return Message(
        id=f"{command.run}-q",
        role="user",
        content=command.text,
        parts=command.parts,
        metadata=command.metadata,
    )


def told_result(
    message_id: str,
    call: ToolCall,
    result: ToolResult,
    kept: Sequence[Part | Loss],
    metadata: Mapping[str, Any],
) -> Message:
    """Return the message of a call's result.

    Args:
        kept: What became of each of its files.
    """
    result = noted(result, kept)
    structured = {} if result.structured is None else {STRUCTURED: result.structured}
    return Message(
        id=message_id,
        role="tool",
        content=result.text,
        parts=tuple(each for each in kept if isinstance(each, Part)),
        tool_call_id=call.id,
        name=call.name,
        status="error" if result.failed else "success",
        metadata={**metadata, **structured},
    )


def partial(run: str, answers: int, told: Told, mark: Mapping[str, Any]) -> Message:
    """Return the message that keeps an unfinished answer, in the place of the finished one."""
    thought = {REASONING: shorter(told.thought, LONGEST_REASONING)} if told.thought else {}
    return Message(
        id=f"{run}-a{answers}", role="assistant", content=told.partial, metadata={**mark, **thought}
    )
