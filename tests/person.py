"""Someone at the HTTP door, as `curl` or a browser would be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import httpx

Frame = tuple[str, dict[str, Any]]

SILENCE = 30.0
"""Seconds after which a test that follows events will not hear any more."""


class Event(NamedTuple):
    """A frame with its place in the log."""

    id: str
    name: str
    data: dict[str, Any]


class Person:
    """A user signed in by the demo's cookie, or by a bearer token."""

    def __init__(self, base_url: str, name: str, *, token: str | None = None) -> None:
        self.name = name
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(
            base_url=base_url,
            headers=headers,
            timeout=60,
            limits=httpx.Limits(keepalive_expiry=None),  # one connection, as long as the server keeps it
            trust_env=False,
            verify=False,
        )
        if token is None:
            self.http.post("/auth/demo", json={"user": name}).raise_for_status()

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.http.close()

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Post to the dialect, as this user."""
        return self.http.post(f"/llmchat/{path}", json={"user_id": self.name, **body})

    def taken_up(self) -> None:
        """Wait until the owner has what was sent before: it takes commands in order; this stops nothing."""
        assert self.post("cancel", session_id="none-of-these").json()["status"] == "no_running_turn"

    def keyed(self, path: str, key: str, **body: Any) -> httpx.Response:
        """Post with an id of the request's own."""
        content = {"user_id": self.name, **body}
        return self.http.post(f"/llmchat/{path}", json=content, headers={"idempotency-key": key})

    def get(self, path: str) -> httpx.Response:
        """Get from the dialect; `{me}` in the path stands for the user."""
        return self.http.get(f"/llmchat/{path.format(me=self.name)}")

    def connect(self, *, model: str = "openai:scripted", **body: Any) -> dict[str, Any]:
        """Connect and return the answer, which must be good."""
        response = self.post("connect", **{"llm": {"model": model}, **body})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def say(self, message: str, **body: Any) -> dict[str, Any]:
        """Chat without streaming and return the answer, which must be good."""
        response = self.post("chat", message=message, **body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def stream(self, message: str, **body: Any) -> list[Frame]:
        """Chat with streaming and return all frames."""
        with self.streaming(message, **body) as frames:
            return list(frames)

    @contextmanager
    def streaming(self, message: str, **body: Any) -> Iterator[Iterator[Frame]]:
        """Chat with streaming; leaving the context hangs up."""
        with self.sending(message, **body) as events:
            yield ((event.name, event.data) for event in events)

    @contextmanager
    def sending(self, message: str, *, key: str = "", **body: Any) -> Iterator[Iterator[Event]]:
        """Chat with streaming, and see the places of the frames; leaving the context hangs up."""
        content = {"user_id": self.name, "message": message, "streaming": True, **body}
        headers = {"idempotency-key": key} if key else {}
        with self.http.stream("POST", "/llmchat/chat", json=content, headers=headers) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            yield events(response.iter_text())

    @contextmanager
    def following(self, **query: str) -> Iterator[Iterator[Event]]:
        """Follow the user's events; `last_event_id` is a header. Leaving the context hangs up."""
        last = query.pop("last_event_id", None)
        headers = {"last-event-id": last} if last else {}
        timeout = httpx.Timeout(60, read=SILENCE)
        with self.http.stream(
            "GET", "/llmchat/events", params=query, headers=headers, timeout=timeout
        ) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            yield events(response.iter_text())

    def history(self, query: str = "") -> list[dict[str, Any]]:
        """Return the messages of the conversation."""
        response = self.get(f"history/{{me}}{query}")
        assert response.status_code == 200, response.text
        messages: list[dict[str, Any]] = response.json()["messages"]
        return messages


def frames(chunks: Iterator[str]) -> Iterator[Frame]:
    """Parse a stream as the contract's client does: frames end with an empty line, LF only."""
    return ((event.name, event.data) for event in events(chunks))


def events(chunks: Iterator[str]) -> Iterator[Event]:
    """Parse a stream with the ids of its frames."""
    rest = ""
    for chunk in chunks:
        rest += chunk
        *whole, rest = rest.split("\n\n")
        for block in whole:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if "event" in fields:
                yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
    assert not rest, "the stream ended within a frame"
