"""What plugins keep from a model is kept from the next turn's, and nothing else of the conversation is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import plugins_bridge
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.plugged import need_packages, texts, written

need_packages("cpex")

AGENT_PRE = "agent_pre_invoke"


@pytest.fixture
def plugged(serve: Callable[..., str], tmp_path: Path, name: str, demo_url: str) -> Any:
    """Someone connected to the demo server, with a plugin that does something at one hook."""

    @contextmanager
    def begin(hook: str, does: Mapping[str, Any], **settings: Any) -> Iterator[Person]:
        plugins_bridge.SEEN.clear()
        probe = {"name": "probe", "kind": "tests.plugins_bridge.Probe", "hooks": [hook]}
        url = serve(**written(tmp_path, {**probe, "config": {hook: dict(does)}}), **settings)
        with Person(url, name) as person:
            person.connect(server={"url": demo_url, "alias": "demo"})
            yield person

    return begin


def steered(person: Person, hold: threading.Event, text: str) -> None:
    """Say something into a turn whose model waits."""
    with (
        Person(str(person.http.base_url), person.name) as tab,
        person.streaming("Look it up.") as frames,
    ):
        next(frames)
        with tab.streaming(text, if_running="steer") as rest:
            tab.taken_up()
            hold.set()
            list(rest)
        list(frames)


def test_what_was_done_before_a_blocked_message_is_still_known(plugged: Any, model: ModelServer) -> None:
    hold = threading.Event()
    look = ("demo__echo", {"text": "the answer is 42"})
    model.will(Reply(text="Looking.", calls=[look], hold=hold), Reply(text="It is 42."))
    with plugged(AGENT_PRE, {"do": "block", "word": "4111"}) as alice:
        steered(alice, hold, "My card is 4111.")
        assert len(model.requests) == 1
        assert alice.say("Go on.")["response"] == "It is 42."
    assert texts(model.requests[1], "user") == ["Look it up.", "Go on."]
    assert texts(model.requests[1], "tool") == ["the answer is 42"]
    assert "4111" not in json.dumps(model.requests)


def test_a_question_that_nobody_has_judged_is_asked_about_again(plugged: Any, model: ModelServer) -> None:
    with plugged(AGENT_PRE, {"do": "raise", "word": "4111"}) as alice:
        alice.stream("My card is 4111.")
        assert model.requests == []
        plugins_bridge.SEEN.clear()
        alice.stream("Well?")
        [asked] = plugins_bridge.seen(AGENT_PRE)
    assert [each.content.text for each in asked.payload.messages] == ["My card is 4111.", "Well?"]
    assert model.requests == []
