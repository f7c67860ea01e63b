"""What is at the far end of the wires that users' URLs lead to."""

from __future__ import annotations

from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.model_server import ModelServer


class World:
    """An MCP server of either transport and a model, at every path of every host; no connection is kept.

    Attributes:
        seen: The head of each request, as one text in which everything that was sent can be found.
        redirect: Status and location with which everything is answered instead.
    """

    def __init__(self) -> None:
        server = MCPServer("world")
        server.add_tool(lambda text: text, name="echo")
        trusting = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self.model = ModelServer()
        self.seen: list[str] = []
        self.redirect: tuple[int, str] | None = None
        self._http = server.streamable_http_app(
            json_response=True, stateless_http=True, transport_security=trusting
        )
        self._sse = server.sse_app(transport_security=trusting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve whoever is meant."""
        if scope["type"] == "lifespan":
            return await self._http(scope, receive, send)

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        self.seen.append(_head(scope))
        if self.redirect:
            return await RedirectResponse(self.redirect[1], self.redirect[0])(scope, receive, closing)
        app, path = self._meant(scope)
        return await app({**scope, "path": path, "raw_path": path.encode()}, receive, closing)

    @property
    def authorizations(self) -> set[str]:
        """What requests have presented; an empty text if they have nothing."""
        return {
            "|".join(line[15:] for line in head.split("\n") if line.startswith("authorization: "))
            for head in self.seen
        }

    def _meant(self, scope: Scope) -> tuple[ASGIApp, str]:
        if b"chat/completions" in scope["raw_path"] + scope["query_string"]:
            return self.model.app, "/v1/chat/completions"
        if scope["path"].startswith("/messages"):
            return self._sse, scope["path"]
        return (self._sse, "/sse") if scope["method"] == "GET" else (self._http, "/mcp")


def _head(scope: Scope) -> str:
    target = (scope["raw_path"] + b"?" + scope["query_string"]).decode("latin-1")
    lines = (f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in scope["headers"])
    return "\n".join([f"{scope['method']} {target}", *lines])
