"""What servers offer besides tools, as plain JSON within limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import mcp_types as mcp
import orjson

from mcp_chat.message import wellformed
from mcp_chat.unseen import seen

LONGEST = 4096
"""Characters of a name or a URI: one that is longer cannot be asked for, so it is left out."""

MOST_PROSE = 1024
"""Characters of a title or a description."""

MOST_ARGUMENTS = 64
MOST_LISTED = 500
LISTED_BYTES = 196_608
"""Of one list; what is over is left out, and the answer says so."""


def kinds(told: mcp.ServerCapabilities) -> tuple[str, ...]:
    """Return which kinds of things a server offers besides tools, as it tells of itself."""
    kinds = {"prompts": told.prompts, "resources": told.resources, "completions": told.completions}
    return tuple(kind for kind, there in kinds.items() if there is not None)


def prose(text: str | None) -> str:
    """Return a server's words for a person: nothing unseen, and not without end."""
    return seen(wellformed(text or ""))[:MOST_PROSE]


def prompt(of: mcp.Prompt) -> dict[str, Any] | None:
    """Return a prompt as it is listed."""
    arguments = [
        {
            "name": each.name,
            "title": prose(each.title),
            "description": prose(each.description),
            "required": bool(each.required),
        }
        for each in (of.arguments or [])[:MOST_ARGUMENTS]
        if fits(each.name)
    ]
    if not fits(of.name):
        return None
    return {"name": of.name, **_told(of), "arguments": arguments}


def resource(of: mcp.Resource) -> dict[str, Any] | None:
    """Return a resource as it is listed."""
    if not fits(of.uri):
        return None
    size = of.size if of.size is not None and 0 <= of.size < 2**53 else None
    kind = prose(of.mime_type)
    return {"uri": of.uri, "name": prose(of.name), **_told(of), "media_type": kind, "size": size}


def template(of: mcp.ResourceTemplate) -> dict[str, Any] | None:
    """Return a template as it is listed."""
    if not fits(of.uri_template):
        return None
    kind = prose(of.mime_type)
    return {"template": of.uri_template, "name": prose(of.name), **_told(of), "media_type": kind}


def _told(of: mcp.Prompt | mcp.Resource | mcp.ResourceTemplate) -> dict[str, str]:
    return {"title": prose(of.title), "description": prose(of.description)}


def fits(text: str) -> bool:
    """Tell whether a name or a URI can be asked for."""
    return 0 < len(text) <= LONGEST and wellformed(text) == text


class Listing:
    """A list that grows page by page, within its limits.

    Attributes:
        items: What is in it.
        left_out: What did not fit, as far as it was read.
        full: Whether more need not be read.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.left_out = 0
        self.full = False
        self._bytes = 0

    def add(self, found: Iterable[Mapping[str, Any] | None]) -> None:
        """Take a page in."""
        for each in found:
            size = len(orjson.dumps(each))
            if each is None or self.full or size > LISTED_BYTES // 4:
                self.left_out += 1
            elif len(self.items) >= MOST_LISTED or self._bytes + size > LISTED_BYTES:
                self.full = True
                self.left_out += 1
            else:
                self.items.append(dict(each))
                self._bytes += size
