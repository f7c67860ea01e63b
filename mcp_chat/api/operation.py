"""What can be asked over HTTP, as a value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcp_chat.api.bodies import Body

Endpoint = Callable[[Request], Awaitable[Response]]

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What can be asked over HTTP.

    Attributes:
        raw: Media types of a body that is taken as it is, instead of `body`.
        status: Of a good answer.
        answers: Media types of a good answer.
        errors: Status codes of its own, and those that follow from `body`, `raw` and `public`.
        query: Names of its query parameters.
        headers: Names of the headers that it reads.
        public: Needs nobody to be signed in.
    """

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    body: type[Body] | None = None
    raw: Sequence[str] = ()
    status: int = 200
    answers: Sequence[str] = (JSON,)
    errors: Sequence[int] = ()
    query: Sequence[str] = ()
    headers: Sequence[str] = ()
    public: bool = False

    def route(self) -> Route:
        """Return its route."""
        return Route(self.path, self.endpoint, methods=[self.method])
