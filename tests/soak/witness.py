"""What a far side has seen: whose credentials came with whose text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.soak.canary import SECRETS, creditor, found

MOST: Final = 100
"""Violations that are kept; all are counted."""


class Witness:
    """Looks at every request before the far side answers it; ``GET /tally`` tells.

    Args:
        app: The far side.
        kind: The only kind of secret that may come here.
        place: Last digit of the numbers of the secrets that may come here.
    """

    def __init__(self, app: ASGIApp, kind: str, place: int) -> None:
        self._app = app
        self._kind = kind
        self._place = place
        self._requests = 0
        self._count = 0
        self._violations: list[str] = []
        self._sessions: dict[bytes, set[int]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["path"] == "/tally":
            return await _json(send, self._tally())
        body = await _whole(receive)
        self._note(scope, body)
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            return next(messages, None) or await receive()

        return await self._app(scope, again, send)

    def _tally(self) -> dict[str, Any]:
        return {"requests": self._requests, "count": self._count, "violations": self._violations}

    def _note(self, scope: Scope, body: bytes) -> None:
        self._requests += 1
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        head = b"\n".join([scope["path"].encode(), scope["query_string"], *(b": ".join(h) for h in headers)])
        for violation in (*wrong(head, body, self._kind, self._place), *self._strangers(dict(headers), head)):
            self._count += 1
            if len(self._violations) < MOST:
                self._violations.append(violation)

    def _strangers(self, headers: dict[bytes, bytes], head: bytes) -> Iterator[str]:
        """A session of the protocol belongs to one user's connection."""
        if session := headers.get(b"mcp-session-id"):
            users = self._sessions.setdefault(session, set())
            users |= {canary.user for canary in found(head)}
            if len(users) > 1:
                yield f"one session of the protocol has users {sorted(users)}"


def wrong(head: bytes, body: bytes, kind: str, place: int) -> Iterator[str]:
    """Say what is wrong with a request: each has exactly one credential, for here, of the user it is for."""
    credentials = {canary for canary in found(head) if canary.kind in SECRETS}
    others = {canary for canary in found(head + b"\n" + body) if canary not in credentials}
    if len(credentials) != 1:
        yield f"a request has the credentials {sorted(map(str, credentials))}"
    for credential in sorted(credentials):
        if credential.kind != kind or credential.number % 10 != place:
            yield f"{credential} was sent to {kind} {place}"
    if len(users := {canary.user for canary in others}) > 1:
        yield f"a request has texts of users {sorted(users)}"
    for canary in sorted(others):
        if canary.kind in SECRETS or {creditor(canary.user)} != {each.user for each in credentials}:
            yield f"{canary} came with {sorted(map(str, credentials))}"


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _json(send: Send, value: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(value)})
