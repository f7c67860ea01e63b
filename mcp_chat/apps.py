"""MCP Apps: what a tool says of its app, what an app may load, and the policy that a browser holds it to."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import mcp_types as mcp
from mcp.client import advertise
from mcp.client.extension import ClientExtension
from pydantic import TypeAdapter

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import AppUnusable

EXTENSION: Final = "io.modelcontextprotocol/ui"
MEDIA_TYPE: Final = "text/html;profile=mcp-app"

MAX_DOMAINS = 16
"""Domains of one kind that an app may name."""

_URI = re.compile(r"ui://[\x21-\x7e]{1,500}")
_DOMAIN = re.compile(r"(https|wss)://(\*\.)?([a-z0-9]([a-z0-9-]{0,62})\.)+[a-z]{2,24}(:[0-9]{1,5})?", re.I)
"""An encrypted address by name: never one of this machine or network, never all of the web."""


@dataclass(frozen=True, slots=True)
class Face:
    """What a tool's definition says of apps.

    Attributes:
        uri: The resource that shows its results; empty if none does.
        model: Whether the model may call it.
        app: Whether an app of the same server may.
    """

    uri: str = ""
    model: bool = True
    app: bool = True

    def meta(self) -> dict[str, Any]:
        """Return it as a definition's `_meta`."""
        visibility = [name for name, seen in (("model", self.model), ("app", self.app)) if seen]
        return {"ui": {**({"resourceUri": self.uri} if self.uri else {}), "visibility": visibility}}


PLAIN = Face()


def face_of(meta: Mapping[str, Any] | None) -> Face:
    """Return what a definition's `_meta` says; what is malformed says nothing."""
    told = (meta or {}).get("ui")
    told = told if isinstance(told, Mapping) else {}
    uri = told.get("resourceUri") or (meta or {}).get("ui/resourceUri")
    seen = told.get("visibility")
    seen = seen if isinstance(seen, list) else ["model", "app"]
    good = isinstance(uri, str) and _URI.fullmatch(uri)
    return Face(uri=str(uri) if good else "", model="model" in seen, app="app" in seen)


def offered(server: ServerConfig) -> Sequence[ClientExtension]:
    """Return the extension, for a server that the operator allows it."""
    return [advertise(EXTENSION, {"mimeTypes": [MEDIA_TYPE]})] if server.apps else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Domains:
    """What an app may reach, each an origin; nothing if nothing is named."""

    connect: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    frame: tuple[str, ...] = ()
    base: tuple[str, ...] = ()


def domains_of(told: Any) -> Domains:
    """Return the domains of a resource's `csp`; what is not a domain is left out."""
    told = told if isinstance(told, Mapping) else {}
    return Domains(
        connect=_named(told.get("connectDomains"), ("https", "wss")),
        load=_named(told.get("resourceDomains"), ("https",)),
        frame=_named(told.get("frameDomains"), ("https",)),
        base=_named(told.get("baseUriDomains"), ("https",)),
    )


def _named(told: Any, schemes: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(told, list):
        return ()
    good = [each.lower() for each in told[: 4 * MAX_DOMAINS] if isinstance(each, str) and _is_domain(each)]
    return tuple(dict.fromkeys(each for each in good if each.split(":")[0] in schemes))[:MAX_DOMAINS]


def _is_domain(text: str) -> bool:
    return len(text) <= 160 and _DOMAIN.fullmatch(text) is not None


def policy(domains: Domains, embedders: Sequence[str]) -> str:
    """Return the content security policy of an app and of the page around it.

    Args:
        embedders: The origins of the chat: no other page may show it.
    """
    load = " ".join(domains.load)
    return "; ".join(
        " ".join(f"{name} {sources}".split())
        for name, sources in {
            "default-src": "'none'",
            "script-src": f"'self' 'unsafe-inline' {load}",
            "style-src": f"'unsafe-inline' {load}",
            "img-src": f"data: {load}",
            "font-src": f"data: {load}",
            "media-src": f"data: {load}",
            "connect-src": " ".join(domains.connect) or "'none'",
            "frame-src": " ".join(domains.frame) or "'none'",
            "base-uri": " ".join(domains.base) or "'none'",
            "object-src": "'none'",
            "form-action": "'none'",
            "frame-ancestors": " ".join(embedders) or "'none'",
        }.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """An app as it is shown.

    Attributes:
        border: Whether it wants one; None if it does not say.
    """

    html: str
    domains: Domains = Domains()
    border: bool | None = None


VIEW: TypeAdapter[View] = TypeAdapter(View)
"""Apps as JSON; only ever kept sealed."""


def view_of(answer: mcp.ReadResourceResult, uri: str, *, limit: int) -> View:
    """Return the app that a server has given for a resource.

    Args:
        limit: Bytes that it may have.

    Raises:
        AppUnusable: It is none, or too large.
    """
    for content in answer.contents:
        if content.uri == uri and _media_type(content.mime_type) == MEDIA_TYPE:
            told = (content.meta or {}).get("ui")
            told = told if isinstance(told, Mapping) else {}
            border = told.get("prefersBorder")
            return View(
                html=_html(content, limit),
                domains=domains_of(told.get("csp")),
                border=border if isinstance(border, bool) else None,
            )
    raise AppUnusable


def _media_type(text: str | None) -> str:
    return re.sub(r"\s", "", text or "").lower()


def _html(content: mcp.TextResourceContents | mcp.BlobResourceContents, limit: int) -> str:
    try:
        raw = (
            content.text.encode()
            if isinstance(content, mcp.TextResourceContents)
            else base64.b64decode(content.blob, validate=True)
        )
        html = raw.decode()
    except (UnicodeError, binascii.Error):
        raise AppUnusable from None
    if len(raw) > limit:
        raise AppUnusable(f"The tool's app is larger than {limit} bytes and is not shown.")
    return html
