"""The origin of apps: one page that shows an app, and nothing else of the chat."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from string import Template
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_chat.apps import domains_of, policy

KINDS = {
    "connect": "connectDomains",
    "load": "resourceDomains",
    "frame": "frameDomains",
    "base": "baseUriDomains",
}
"""The parameters of the page, and what a resource calls them."""

HEADERS = {
    "cache-control": "no-cache",
    "cross-origin-resource-policy": "cross-origin",  # the chat's page, which shows it, is elsewhere
    "permissions-policy": (
        "accelerometer=(), autoplay=(), bluetooth=(), camera=(), clipboard-read=(), clipboard-write=(), "
        "display-capture=(), encrypted-media=(), fullscreen=(), geolocation=(), gyroscope=(), hid=(), "
        "identity-credentials-get=(), magnetometer=(), microphone=(), midi=(), payment=(), "
        "picture-in-picture=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), usb=(), "
        "web-share=(), xr-spatial-tracking=()"
    ),
    "x-dns-prefetch-control": "off",
}


class AppsOrigin:
    """Answers what is asked of the apps' host; everything else goes on to the chat.

    The chat is never served there: so that host never gets a cookie, and a page of it is never the chat's.

    Args:
        origin: Where apps are shown.
        embedders: The chat's own origins, of which a port `*` is that of the request.
        ancestors: Whose pages may show the chat in a frame, and with it the frame of an app.
    """

    def __init__(
        self, app: ASGIApp, origin: str, embedders: Sequence[str], ancestors: Sequence[str] = ()
    ) -> None:
        self._app = app
        self._ancestors = ancestors
        self._host = urlsplit(origin).hostname
        self._embedders = embedders
        folder = files("mcp_chat") / "sandbox"
        self._page = Template((folder / "sandbox.html").read_text())
        self._script = (folder / "sandbox.js").read_text()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        answers = scope["type"] == "http" and _host_of(Request(scope)) == self._host
        await (self._answer(Request(scope)) if answers else self._app)(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        match request.method, request.scope["path"]:
            case "GET", "/sandbox":
                return self._sandbox(request)
            case "GET", "/sandbox.js":
                return Response(self._script, media_type="text/javascript", headers=HEADERS)
            case _:
                return PlainTextResponse("Apps are shown here, and nothing else.", 404)

    def _sandbox(self, request: Request) -> Response:
        asked = request.query_params
        domains = domains_of({name: asked.getlist(kind) for kind, name in KINDS.items()})
        port = urlsplit(f"//{request.headers['host']}").port
        own = f":{port}" if port else ""
        embedders = list(dict.fromkeys(each.replace(":*", own) for each in self._embedders))
        headers = {**HEADERS, "content-security-policy": policy(domains, [*embedders, *self._ancestors])}
        return HTMLResponse(self._page.substitute(chat=" ".join(embedders)), headers=headers)


def _host_of(request: Request) -> str | None:
    try:
        parts = urlsplit(f"//{request.headers.get('host', '')}")
        return parts.hostname if parts.port != 0 else None
    except ValueError:
        return None
