"""Messages as they are answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mcp_chat.api.transcript import failure_of
from mcp_chat.branch import Branch, siblings_in
from mcp_chat.events import Failed
from mcp_chat.message import MESSAGE, Message, public


def said_with(
    branches: Sequence[Branch], messages: Iterable[Message], failures: Mapping[str, Failed]
) -> list[Any]:
    """Return messages as they are answered.

    Args:
        branches: Messages that begin one of several say so.
        failures: Messages with which turns have failed say why, as the turn's stream did.
    """
    siblings = siblings_in(branches)
    found: list[Any] = []
    for message in messages:
        said = MESSAGE.dump_python(public(message), mode="json")
        if mine := siblings.get(message.id):
            said["branches"] = asdict(mine)
        if why := failures.get(message.id):
            said["failure"] = failure_of(why)
        found.append(said)
    return found
