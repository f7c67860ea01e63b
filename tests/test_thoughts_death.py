"""A worker dies over a model that thinks: what the next owner tells, and what it sends back. All is real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from tests.installation import Installation
from tests.person import Person
from tests.running import running, wait_until
from tests.test_death import Till
from tests.wires.openai_responses import call, reasoning, response, text
from tests.wires.wire import Wire, wired

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def till() -> Till:
    return Till()


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with wired() as wire:
        yield wire


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory, till: Till, wire: Wire) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("thoughts")
    models = folder / "responses.yaml"
    models.write_text(
        f"models:\n  - model: openai:scripted\n    base_url: {wire.url}/v1\n"
        "    options: {use_responses_api: true}\n"
    )
    with running(till.server().streamable_http_app(max_sessions=None)) as server:
        servers = {"till": {"url": f"{server}/mcp", "safe_tools": ["look"]}}
        with Installation(
            folder, f"{wire.url}/v1", workers=2, servers=servers, MCP_CHAT_MODELS_FILE=str(models)
        ) as installation:
            yield installation


@pytest.fixture
def owner(chat: Installation) -> psutil.Process:
    """The worker that will own the user and die."""
    wait_until(lambda: len(chat.workers()) == 2, "two workers")
    return chat.workers()[0]


@pytest.fixture
def reader(chat: Installation, owner: psutil.Process, wire: Wire, name: str) -> Iterator[Person]:
    """The user, served by the owner, in front of the other worker."""
    wire.asked.clear()
    with chat.person(name, owner) as person:
        person.connect(server={"name": "till"})
    with chat.person(name, chat.workers()[1]) as person:
        yield person


def test_the_next_owner_sends_back_what_the_model_had_signed(
    owner: psutil.Process, reader: Person, wire: Wire, till: Till
) -> None:
    till.go.clear()
    wire.will(
        response(reasoning("I must look.", encrypted="SEALED"), call("call_1", "till__look", {})),
        response(text("Seen.")),
    )
    with reader.streaming("look") as frames:
        assert "".join(next(frames)[1]["content"] for _ in range(1)).startswith("I")
        wait_until(lambda: till.calls, "the call has arrived")
        owner.kill()
        wait_until(lambda: len(till.calls) == 2, "it was made again")
        till.go.set()
        assert list(frames)[-1][1]["content"] == "Seen."
    items = wire.asked[-1].body["input"]
    assert [item["type"] for item in items] == [
        *("message", "reasoning", "function_call", "function_call_output")
    ]
    assert items[1]["encrypted_content"] == "SEALED"
    assert items[1]["summary"] == [{"type": "summary_text", "text": "I must look."}]


def test_thoughts_that_led_to_nothing_are_void(
    chat: Installation, owner: psutil.Process, reader: Person, wire: Wire
) -> None:
    whole = response(reasoning("one two three"), text("Never said."))
    begun = replace(whole, chunks=whole.chunks[:6], hang=True)
    wire.will(begun, response(reasoning("four five"), text("Six.")))
    with reader.streaming("think") as frames:
        thought = ""
        while thought != "one two three":
            kind, data = next(frames)
            assert kind == "thinking", data
            thought += data["content"]
        assert owner in chat.talking_to_the_model()
        owner.kill()
        assert next(frames)[0] == "discard"
        rest = list(frames)
    assert "".join(data["content"] for kind, data in rest if kind == "thinking") == "four five"
    assert {kind for kind, _ in rest} == {"thinking", "token", "final"}
    assert rest[-1][1]["content"] == "Six."
    assert reader.history()[-1]["metadata"]["reasoning"] == "four five"
