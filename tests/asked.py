"""A turn whose calls wait for their user, and what they decide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until
from tests.test_asking import Turn

SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer", "maximum": 9}, "to": {"type": "object"}},
    "required": ["size"],
}


class Asking(Turn):
    """A turn that is read in a thread."""

    def approval(self, number: int = 0) -> dict[str, Any]:
        """What the user is asked, when they are."""
        wait_until(lambda: len(self.of("approval")) > number, f"a question; there are {self.frames}")
        return self.of("approval")[number]

    def approvals(self, count: int) -> list[dict[str, Any]]:
        """So many of them, and no more."""
        self.approval(count - 1)
        found = self.of("approval")
        assert len({each["id"] for each in found}) == len(found) == count
        return found


@contextmanager
def turn(person: Person, message: str = "go", **body: Any) -> Iterator[Asking]:
    """Send a message and read along."""
    with person.streaming(message, **body) as frames:
        going = Asking(frames)
        yield going
        going.end()


def decide(person: Person, approval: dict[str, Any], decision: str = "once", **more: Any) -> httpx.Response:
    """Decide about a call."""
    return person.http.post(f"/llmchat/approvals/{approval['id']}", json={"decision": decision, **more})


def decided(person: Person, approval: dict[str, Any], decision: str = "once", **more: Any) -> dict[str, Any]:
    """Decide about a call, which must be possible."""
    response = decide(person, approval, decision, **more)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def grants(person: Person) -> list[dict[str, Any]]:
    """What the person has allowed for longer than one call."""
    found: list[dict[str, Any]] = person.get("approvals/grants").json()["grants"]
    return found


def waiting(person: Person, query: str = "") -> list[dict[str, Any]]:
    """The calls that wait for the person."""
    answer = person.get(f"approvals{query}").json()
    assert answer["count"] == len(answer["approvals"])
    found: list[dict[str, Any]] = answer["approvals"]
    return found


def calls(model: ModelServer, *asked: tuple[str, Any], then: str = "Fine.") -> None:
    """Have the model call tools, and then be content."""
    model.will(Reply(calls=list(asked)), Reply(text=then))


def told(model: ModelServer) -> list[str]:
    """What the model was told of the last round's calls."""
    messages = model.requests[-1]["messages"]
    last = max(n for n, each in enumerate(messages) if each["role"] == "assistant")
    return [each["content"] for each in messages[last:] if each["role"] == "tool"]
