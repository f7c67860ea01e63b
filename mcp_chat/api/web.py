"""The chat tab's files, and the headers that keep a page to itself."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chat.api.assets import Assets

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "media-src 'self' data:",
        "font-src 'self'",  # of formulas
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",  # the tab sends its forms itself
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",  # HTML is the sanitiser's, or none
    )
)

HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}

DOCUMENT_HEADERS = {
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}

PIECES = ("text/javascript", "text/css", "font/")
"""What is never a document: a policy means nothing there, and each page asks for dozens."""


class SecurityHeaders:
    """Puts the security headers on every answer.

    Args:
        apps_origin: Where apps are shown; empty if nowhere.
        frame_origins: Whose pages may show ours in a frame.
    """

    def __init__(self, app: ASGIApp, apps_origin: str = "", frame_origins: Sequence[str] = ()) -> None:
        self._app = app
        ancestors = " ".join(frame_origins) or "'none'"
        frames = f"; frame-src {apps_origin}" if apps_origin else ""
        policy = f"{POLICY}; frame-ancestors {ancestors}{frames}"
        self._headers = {**HEADERS, **DOCUMENT_HEADERS, "content-security-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                piece = headers.get("content-type", "").startswith(PIECES)
                for name, value in (HEADERS if piece else self._headers).items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


class BasePath:
    """Serves below a path what is served at the root, too: a proxy may leave the path there or take it off.

    Args:
        path: As ``/chat``.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        path = scope.get("path", "")
        if path == self._path and scope["type"] == "http":
            return await _to_folder(scope)(scope, receive, send)
        if path.startswith(f"{self._path}/"):
            scope = {**scope, "root_path": self._path}
        return await self._app(scope, receive, send)


def _to_folder(scope: Scope) -> RedirectResponse:
    """Return the way to the path with a slash: without it the page's relative addresses lead elsewhere."""
    query = scope.get("query_string", b"").decode("latin-1")
    folder = scope["path"].rpartition("/")[2]
    return RedirectResponse(f"{folder}/?{query}" if query else f"{folder}/", status_code=308)


def routes() -> list[BaseRoute]:
    """Return the routes of the tab."""
    assets = Assets(Path(str(files("mcp_chat") / "web")))
    files_below = [Route("/element.js", assets.element), Route("/{path:path}", assets.file)]
    return [Route("/", assets.index), Mount("/web", routes=files_below)]
