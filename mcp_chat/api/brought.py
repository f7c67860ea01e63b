"""What a message brings along from servers: a prompt that it begins with, and resources that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio

from mcp_chat.api.bodies import ChatBody, PromptBody
from mcp_chat.commands import Consult
from mcp_chat.consult import Ask, GetPrompt, ReadResource
from mcp_chat.dispatch import Dispatch
from mcp_chat.events import Consulted, Failed, Final
from mcp_chat.exceptions import ChatError, InvalidRequest, TooLarge
from mcp_chat.message import Message, Part


class Unbrought(Exception):
    """What was to go with the message could not be read.

    Attributes:
        failed: Why.
    """

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.text)
        self.failed = failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """A message with what it brings along.

    Attributes:
        opening: Messages that come before it: those that a prompt begins with.
        metadata: From which prompt it is.
    """

    text: str
    parts: tuple[Part, ...] = ()
    opening: tuple[Message, ...] = ()
    metadata: Mapping[str, Any]


async def bring(dispatch: Dispatch, user: str, body: ChatBody, run: str) -> Brought:
    """Get what a message is to bring along, all of it or nothing.

    Args:
        run: Begins the ids of the messages that the turn writes.

    Raises:
        Unbrought: A server did not give it.
        InvalidRequest: It cannot be put into a message.
    """
    asked: list[tuple[str, Ask]] = [
        (each.server, ReadResource(uri=each.uri, keep=True)) for each in body.resources
    ]
    if body.prompt:
        asked.append((body.prompt.server, GetPrompt(name=body.prompt.name, arguments=body.prompt.arguments)))
    results = await _all(dispatch, user, asked)
    prompt = _spoken(body.prompt, results.pop(), run) if body.prompt else Brought(text="", metadata={})
    text = "\n\n".join(each for each in (prompt.text, body.message) if each.strip())
    parts = [Part(**each["file"]) for result in results for each in result["contents"]]
    if not (text or prompt.parts or parts):
        raise InvalidRequest("The prompt ends with words of the assistant's: write a message to follow them.")
    return Brought(text=text, parts=(*prompt.parts, *parts), opening=prompt.opening, metadata=prompt.metadata)


async def _all(dispatch: Dispatch, user: str, asked: Sequence[tuple[str, Ask]]) -> list[Mapping[str, Any]]:
    """Ask all servers at a time."""
    outcomes: list[Final | ChatError | None] = [None] * len(asked)

    async def one(place: int, command: Consult) -> None:
        try:
            outcomes[place] = await dispatch.outcome(user, command)
        except ChatError as error:
            outcomes[place] = error

    async with anyio.create_task_group() as asking:
        for place, (alias, ask) in enumerate(asked):
            asking.start_soon(one, place, Consult(alias=alias, ask=ask))
    return [_result(outcome) for outcome in outcomes]


def _result(outcome: Final | ChatError | None) -> Mapping[str, Any]:
    match outcome:
        case Consulted(result=result):
            return result
        case Failed():
            raise Unbrought(outcome)
        case ChatError():
            raise outcome
        case _:
            raise InvalidRequest


def _spoken(asked: PromptBody, result: Mapping[str, Any], run: str) -> Brought:
    """Return a prompt as messages: what the user says at its end is the message, the others come before."""
    said = list(result["messages"])
    metadata = {"prompt": {"server": asked.server, "name": asked.name, "arguments": dict(asked.arguments)}}
    last = len(said)
    while last and said[last - 1]["role"] == "user":
        last -= 1
    opening = tuple(
        Message(
            id=f"p{run}-{place}",
            role=each["role"],
            content=each.get("text") or f"[{each['file']['media_type']}]",
            parts=_parts([each]),
            metadata=metadata,
        )
        for place, each in enumerate(said[:last])
    )
    text = "\n\n".join(each["text"] for each in said[last:] if "text" in each)
    return Brought(text=text, parts=_parts(said[last:]), opening=opening, metadata=metadata)


def _parts(said: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(Part(**each["file"]) for each in said if "file" in each)


def check_size(brought: Brought, most: int) -> None:
    """Refuse a message that has become too long.

    Raises:
        TooLarge: It has.
    """
    size = sum(len(each.content.encode()) for each in brought.opening) + len(brought.text.encode())
    if size > most:
        raise TooLarge(f"With its prompt the message is longer than {most} bytes. Choose another prompt.")
