"""A turn that is over runs again without model and servers, and whoever changes it is found out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.server import MCPServer
from typer.testing import CliRunner, Result

from mcp_chat.cli import app
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.recording import Recording, read_recording
from mcp_chat.replay import differences, replay
from tests.conftest import on_one_stage
from tests.faults import refused
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until

stage, model, alice = on_one_stage(connect_timeout=30, tool_timeout=30, model_timeout=30, turn_timeout=60)


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the disk is."""
    monkeypatch.setattr("mcp_chat.tapes.KEEP_LIMIT", 60)


@pytest.fixture
def shopper(alice: Person) -> Iterator[Person]:
    shop = MCPServer("shop")

    @shop.tool()
    def price(name: str) -> int:
        if name == "moon":
            raise ValueError("not for sale")
        return len(name)

    @shop.tool()
    async def wait() -> str:
        await anyio.sleep(60)
        return "waited"

    with running(shop.streamable_http_app(), grace=0) as url:
        alice.connect(server={"url": f"{url}/mcp", "alias": "shop"})
        yield alice


def recorded(person: Person, turn_id: str) -> bytes:
    answer = person.get(f"turns/{turn_id}/recording")
    assert answer.status_code == 200, answer.text
    return answer.content


def run(path: Path, content: bytes | str) -> Result:
    """Run the command, as somebody in a terminal would."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return CliRunner().invoke(app, ["replay", str(path)])


def chat(person: Person, model: ModelServer) -> dict[str, Any]:
    model.will(
        Reply(text="Looking.", calls=[("shop__price", {"name": "pear"}), ("shop__price", {"name": "moon"})]),
        Reply(text="", calls=[("shop__nothing", {}), ("shop__price", "{broken")]),
        Reply(text="Pears cost 4."),
    )
    return person.say("how much?", record=True)


def test_a_turn_with_tools_runs_again_without_model_and_servers(
    shopper: Person, model: ModelServer, tmp_path: Path
) -> None:
    shopper.say("before")
    content = recorded(shopper, chat(shopper, model)["turn_id"])
    asked = len(model.requests)
    result = run(tmp_path / "turn.json", content)
    assert result.exit_code == 0, result.output
    assert "It told what it told then." in result.output
    assert "assistant: Looking." in result.output
    assert "failed" in result.output
    assert "text: Pears cost 4." in result.output
    assert len(model.requests) == asked


def test_what_differs_is_shown_and_is_a_failure(shopper: Person, model: ModelServer, tmp_path: Path) -> None:
    content = recorded(shopper, chat(shopper, model)["turn_id"])
    other = json.loads(content)
    [call_id] = [key for key, called in other["results"].items() if called["text"] == "4"]
    other["results"][call_id]["text"] = "5"
    result = run(tmp_path / "turn.json", json.dumps(other))
    assert result.exit_code == 1
    assert f"-result {call_id}: 4" in result.output
    assert f"+result {call_id}: 5" in result.output


def test_a_turn_that_failed_fails_again_in_the_same_words(
    shopper: Person, model: ModelServer, tmp_path: Path
) -> None:
    model.will(Reply(text="This breaks off here", break_after=3))
    answer = shopper.post("chat", message="go", record=True, message_id="failing-one")
    assert answer.status_code == 503
    result = run(tmp_path / "turn.json", recorded(shopper, "failing-one"))
    assert result.exit_code == 0, result.output
    assert "failed, model_failed" in result.output


def test_a_turn_that_was_stopped_in_a_call_is_stopped_there_again(
    shopper: Person, model: ModelServer, tmp_path: Path
) -> None:
    model.will(Reply(text="I wait.", calls=[("shop__wait", {})]))
    with shopper.streaming("go", record=True) as frames:
        turn_id = ""
        for event, data in frames:
            if event == "tool_start":
                shopper.post("cancel")
            if event == "final":
                turn_id = data["turn_id"]
                assert data["stopped"] is True
    result = run(tmp_path / "turn.json", recorded(shopper, turn_id))
    assert result.exit_code == 0, result.output
    assert "stopped" in result.output


def test_only_what_was_asked_for_is_recorded_and_only_for_its_user(
    shopper: Person, model: ModelServer, name: str
) -> None:
    turn_id = chat(shopper, model)["turn_id"]
    plain = shopper.say("and now?")["turn_id"]
    assert "`record`" in refused(shopper.get(f"turns/{plain}/recording"), 404)
    with Person(str(shopper.http.base_url), f"{name}-other") as other:
        assert "no recording" in refused(other.get(f"turns/{turn_id}/recording"), 404)


def test_a_recording_holds_what_a_test_needs(shopper: Person, model: ModelServer) -> None:
    content = recorded(shopper, chat(shopper, model)["turn_id"])
    recording = read_recording(content)
    events = anyio.run(replay, recording)
    assert differences([event for _, event in recording.events], events) == []
    assert [len(step.pieces) > 0 for step in recording.steps] == [True] * 3
    assert {tool.name for tool in recording.tools} == {"shop__price", "shop__wait"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"steps": 5}', '{"schema": "other/1"}'])
def test_what_is_no_recording_is_refused_in_a_sentence(content: str) -> None:
    with pytest.raises(InvalidRequest, match="recording"):
        read_recording(content)


def test_a_recording_without_a_question_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no question"):
        anyio.run(replay, Recording())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["replay", str(tmp_path / "none.json")])
    assert "cannot be read" in str(result.exception)


def test_failed_turns_are_recorded_where_the_operator_says_so(
    serve: Any, model: ModelServer, name: str
) -> None:
    with Person(serve(record_turns="failed"), name) as person:
        person.connect()
        model.will(Reply(status=500), Reply(status=500), Reply(status=500), Reply(status=500))
        assert person.post("chat", message="go", message_id="one").status_code == 503
        wait_until(lambda: person.get("turns/one/recording").status_code == 200, "the recording")
        model.will()
        person.say("fine", message_id="two")
        assert person.get("turns/two/recording").status_code == 404
