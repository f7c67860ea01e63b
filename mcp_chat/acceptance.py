"""What a user has accepted of a server's tools: a definition that changed since then is held back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import mcp_types as mcp
from anyio import to_thread
from pydantic import ValidationError

from mcp_chat.config import ServerConfig
from mcp_chat.connections import Held
from mcp_chat.definitions import (
    Accepted,
    Change,
    accepted_of,
    compare,
    difference,
    identity_of,
    nothing_accepted,
)
from mcp_chat.limits import ServerLimits
from mcp_chat.papers import Papers
from mcp_chat.tools import Listed, listed

KIND = "tools"
KEPT = 90 * 86_400.0
"""Seconds for which it is known what was accepted, from the last change of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """One user's, of one server.

    Attributes:
        limits: What a server may list.
        epoch: The owner's.
    """

    papers: Papers
    user: str
    server: ServerConfig
    limits: ServerLimits
    epoch: int

    async def recall(self) -> list[Listed] | None:
        """Return what the user has accepted as it was listed last, None if they never have."""
        accepted = await self._known()
        if accepted is None:
            return None
        return await to_thread.run_sync(partial(_listed, accepted, self.limits))

    async def admit(self, found: Sequence[Listed], /) -> Mapping[str, Held]:
        """Accept what is new, and return what has changed since, by its name at the server."""
        known = await self._known()
        accepted = known or nothing_accepted(identity_of(self.server))
        comparison = compare(accepted, [each.definition for each in found if each.definition])
        fine = [*comparison.unchanged, *comparison.new]
        listed = frozenset(each.name for each in fine)
        if known is None or comparison.new or listed != accepted.listed:
            await self._keep(replace(accepted.with_(fine), listed=listed))
        held = {change.after.name: _held(change) for change in comparison.changed}
        return {each.tool.name: held[name] for each in found if (name := _name(each)) in held}

    async def accept(self, held: Iterable[Held]) -> None:
        """Accept changed definitions."""
        accepted = await self._known() or nothing_accepted(identity_of(self.server))
        definitions = [each.definition for each in held]
        listed = accepted.listed | {each.name for each in definitions}
        await self._keep(replace(accepted.with_(definitions), listed=listed))

    async def forget(self) -> None:
        """Forget what was accepted."""
        await self.papers.drop(self.user, KIND, identity_of(self.server))

    async def _known(self) -> Accepted | None:
        identity = identity_of(self.server)
        kept = await self.papers.get(self.user, KIND, identity)
        accepted = accepted_of(kept.text) if kept else None
        return accepted if accepted and accepted.knows(identity) else None

    async def _keep(self, accepted: Accepted) -> None:
        text = await to_thread.run_sync(accepted.text)
        await self.papers.put(self.user, KIND, accepted.server, text, seconds=KEPT, epoch=self.epoch)


def _name(found: Listed) -> str:
    return found.definition.name if found.definition else ""


def _held(change: Change) -> Held:
    found = difference(change.before, change.after)
    return Held(definition=change.after, difference=tuple(found))


def _listed(accepted: Accepted, limits: ServerLimits) -> list[Listed]:
    known = [each for name, each in accepted.tools.items() if name in accepted.listed]
    pairs = [(each, tool) for each in known for tool in _tools(each.text)]
    found = listed([tool for _, tool in pairs], limits)
    return [
        replace(each, definition=definition if each.definition else None)  # as it was on the wire
        for each, (definition, _) in zip(found, pairs, strict=True)
    ]


def _tools(text: str) -> list[mcp.Tool]:
    """Return the tool of a definition that is kept in full, none of another one."""
    read: Any = json.loads(text) if text else None
    try:
        return [mcp.Tool.model_validate(read)] if isinstance(read, dict) else []
    except ValidationError:
        return []
