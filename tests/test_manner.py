"""What a user sets for one conversation: system prompt, temperature and model, over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import on_one_stage
from tests.faults import Stage
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running

stage, model, alice = on_one_stage(connect_timeout=15, model_timeout=15, turn_timeout=20)


def session_of(person: Person) -> str:
    return str(person.get("config/{me}").json()["session_id"])


def change(person: Person, **settings: Any) -> httpx.Response:
    """Change the connected conversation."""
    return person.http.patch(f"/llmchat/sessions/{session_of(person)}", json=settings)


def seen(model: ModelServer) -> list[tuple[str, str]]:
    """What the model was shown last."""
    return [(message["role"], message["content"]) for message in model.requests[-1]["messages"]]


def test_a_system_prompt_is_the_first_thing_the_model_is_shown_from_the_next_turn_on(
    alice: Person, model: ModelServer
) -> None:
    alice.connect()
    alice.say("before")
    assert change(alice, system_prompt="Answer in rhymes.").json()["system_prompt"] == "Answer in rhymes."
    alice.say("hello")
    assert seen(model)[0] == ("system", "Answer in rhymes.")
    assert seen(model)[-1] == ("user", "hello")
    assert all(message["role"] != "system" for message in alice.history()), "it is no message"
    shown = alice.get(f"sessions/{session_of(alice)}/context").json()["messages"]
    assert (shown[0]["role"], shown[0]["content"]) == ("system", "Answer in rhymes.")
    change(alice, system_prompt=None)
    alice.say("again")
    assert seen(model)[0] == ("user", "before")


def test_settings_are_shown_kept_apart_from_the_context_and_carried_along(alice: Person) -> None:
    alice.connect()
    alice.say("hello")
    change(alice, system_prompt="Be brief.", temperature=0, model="scripted", context={"topic": "x"})
    shown = alice.get(f"sessions/{session_of(alice)}").json()
    settings = {"system_prompt": "Be brief.", "temperature": 0, "model": "openai:scripted"}
    assert {key: shown[key] for key in settings} == settings
    assert shown["context"] == {"topic": "x"}
    away = alice.get(f"sessions/{session_of(alice)}/export").content
    headers = {"content-type": "application/json"}
    again = alice.http.post("/llmchat/sessions/import", content=away, headers=headers).json()
    assert {key: again[key] for key in settings} == settings


def test_a_new_conversation_may_be_begun_with_settings(alice: Person, model: ModelServer) -> None:
    alice.connect()
    made = alice.http.post("/llmchat/sessions", json={"temperature": 0.5, "system_prompt": "Be kind."})
    assert (made.status_code, made.json()["temperature"]) == (201, 0.5)
    alice.say("hello", session_id=made.json()["session_id"])
    assert (model.requests[-1]["temperature"], seen(model)[0]) == (0.5, ("system", "Be kind."))


def test_a_temperature_holds_until_it_is_taken_back(alice: Person, model: ModelServer) -> None:
    alice.connect()
    change(alice, temperature=0.1)
    alice.say("hello")
    assert model.requests[-1]["temperature"] == 0.1
    change(alice, temperature=None)
    alice.say("hello")
    assert "temperature" not in model.requests[-1]


def test_a_temperature_that_a_model_refuses_is_told_and_can_be_taken_back(
    alice: Person, model: ModelServer
) -> None:
    alice.connect()
    change(alice, temperature=2)
    body = b'{"error": {"message": "Unsupported value: temperature", "param": "temperature"}}'
    model.will(Reply(status=400, body=body))
    refused = alice.post("chat", message="hello")
    assert refused.status_code == 503
    assert "does not take this temperature" in refused.json()["detail"]
    change(alice, temperature=None)
    assert alice.post("retry").status_code == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"system_prompt": "x" * 16_001},
        {"system_prompt": 1},
        {"temperature": 2.1},
        {"temperature": -1},
        {"temperature": "hot"},
        {"model": ""},
        {"context": {"model": "openai:scripted"}},
        {"context": {"system_prompt": "x"}},
    ],
)
def test_what_is_no_setting_is_refused(alice: Person, settings: dict[str, Any]) -> None:
    alice.connect()
    assert change(alice, **settings).status_code == 422


def test_a_model_that_is_not_offered_is_refused(alice: Person) -> None:
    alice.connect()
    refused = change(alice, model="openai:none")
    assert refused.status_code == 400
    assert "openai:scripted" in refused.json()["detail"]


def test_settings_that_were_brought_along_count_only_if_they_can(alice: Person) -> None:
    context = {"system_prompt": 1, "temperature": 9, "model": ["x"], "topic": "x"}
    document = {"schema": "mcp-chat/session/1", "messages": [], "context": context}
    made = alice.http.post("/llmchat/sessions/import", json=document).json()
    assert (made["system_prompt"], made["temperature"], made["model"]) == (None, None, None)
    assert made["context"] == {"topic": "x"}


# The installation's


@pytest.fixture
def other() -> ModelServer:
    """Another model."""
    return ModelServer()


@pytest.fixture
def both(stage: Stage, other: ModelServer, tmp_path: Path) -> Iterator[Path]:
    """A catalogue with two models."""
    with running(other.app) as url:
        models = tmp_path / "two.yaml"
        models.write_text(
            f"models:\n  - {{model: openai:scripted, base_url: {stage.model_url}}}\n"
            f"  - {{model: openai:other, base_url: {url}/v1}}\n"
        )
        yield models


def test_a_conversation_may_have_a_model_of_its_own(
    serve: Callable[..., str], both: Path, model: ModelServer, other: ModelServer, name: str
) -> None:
    with Person(serve(models_file=both), name) as person:
        person.connect()
        assert change(person, model="openai:other").json()["model"] == "openai:other"
        other.will(Reply(text="from the other"))
        assert person.say("hello")["response"] == "from the other"
        assert other.requests[-1]["model"] == "other"
        made = person.http.post("/llmchat/sessions", json={}).json()["session_id"]
        model.will(Reply(text="from the first"))
        assert person.say("hello", session_id=made)["response"] == "from the first"
        change(person, model=None)
        model.will(Reply(text="the first again"))
        assert person.say("hello")["response"] == "the first again"
        other.will(Reply(text="this time only"))
        assert person.post("retry", model="openai:other").json()["response"] == "this time only"


def test_a_model_that_is_not_offered_any_more_says_so_and_can_be_taken_back(
    serve: Callable[..., str], both: Path, model: ModelServer, other: ModelServer, name: str
) -> None:
    with Person(serve(models_file=both), name) as person:
        person.connect()
        person.say("hello")
        change(person, model="openai:other")
        session = session_of(person)
    both.write_text("\n".join(both.read_text().splitlines()[:2]))
    with Person(serve(models_file=both), name) as person:
        person.connect()
        refused = person.post("chat", message="hello", session_id=session)
        assert refused.status_code == 400, refused.text
        assert "openai:other, is not offered any more" in refused.json()["detail"]
        person.http.patch(f"/llmchat/sessions/{session}", json={"model": None})
        assert person.say("hello", session_id=session)["response"]


def test_the_installations_prompt_is_shown_where_a_conversation_has_none(
    serve: Callable[..., str], both: Path, model: ModelServer, name: str
) -> None:
    with Person(serve(models_file=both, system_prompt="You work at ACME."), name) as person:
        person.connect()
        person.say("hello")
        assert seen(model)[0] == ("system", "You work at ACME.")
        change(person, system_prompt="Be brief.")
        person.say("hello")
        assert seen(model)[0] == ("system", "Be brief.")
        assert len([role for role, _ in seen(model) if role == "system"]) == 1
        change(person, system_prompt="")
        person.say("hello")
        assert seen(model)[0][0] == "user"


def test_a_model_that_nobody_asks_anything_is_closed_and_opened_again() -> None:
    import anyio

    from mcp_chat.bench import Bench
    from mcp_chat.models.base import Model, Piece, Request

    made: list[str] = []
    closed: list[str] = []

    class Voice:
        name = "a:b"

        async def stream(self, request: Request) -> Any:
            assert not closed or len(made) > len(closed), "it is open"
            yield Piece(text="x")
            await bench.rest(0)  # it is being asked something
            yield Piece(text="y")

        async def aclose(self) -> None:
            closed.append("closed")

    async def make(name: str) -> Model:
        made.append(name)
        return Voice()

    async def said() -> str:
        return "".join([piece.text async for piece in bench.of("a:b").stream(Request(messages=()))])

    async def scenario() -> None:
        assert (await said(), made, closed) == ("xy", ["a:b"], [])
        await bench.rest()
        assert closed == []
        await bench.rest(0)
        assert closed == ["closed"]
        assert (await said(), len(made)) == ("xy", 2)
        await bench.aclose()
        assert len(closed) == 2

    bench = Bench(make)
    anyio.run(scenario)
