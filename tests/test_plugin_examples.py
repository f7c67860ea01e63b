"""The examples in `plugins/`, each in a chat that has it configured as its file says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.plugged import REPOSITORY, example, need_packages, texts, written
from tests.running import wait_until

pytestmark = pytest.mark.usefixtures("packages")

Serve = Callable[..., str]

MAIL, KEY = "bob@example.org", "AKIAIOSFODNN7EXAMPLE"
SERVERS = '{"mcpServers": {"sums": {"url": "%s"}}}'


@pytest.fixture(scope="module")
def packages() -> None:
    """What the examples stand on."""
    need_packages("cpex", "cpex_pii_filter", "cpex_secrets_detection")


@pytest.fixture
def chat(serve: Serve, tmp_path: Path, demo_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Serve with plugins and the demo server; gives the base URL."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    servers = tmp_path / "with-sums.json"
    servers.write_text(SERVERS % demo_url)

    def start(*plugins: dict[str, Any], **settings: Any) -> str:
        return serve(**written(tmp_path, *plugins), servers_file=servers, **settings)

    return start


def connected(url: str, name: str) -> Person:
    """Someone who may call the demo server's tools."""
    person = Person(url, name)
    person.connect(servers=[{"name": "sums"}])
    return person


def adds(text: str = "done") -> tuple[Reply, Reply]:
    """A model that adds, and then speaks."""
    return Reply(calls=[("sums__add", {"a": 2, "b": 3})]), Reply(text=text)


def test_tools_are_for_those_whom_a_rule_names(chat: Callable[..., str], model: ModelServer) -> None:
    rules = [
        {"users": ["ops-*"], "servers": ["sums"], "tools": ["a*"]},
        {"users": ["bob"], "servers": ["elsewhere"], "tools": ["add"]},
        {"tools": ["echo"]},
    ]
    url = chat(example("ToolAllowList", config={"rules": rules}))
    with connected(url, "ops-ann") as ann, connected(url, "bob") as bob:
        model.will(*adds(), *adds())
        ann.say("add")
        bob.say("add")
    allowed, refused = texts(model.requests[1], "tool")[-1], texts(model.requests[3], "tool")[-1]
    assert "5" in allowed
    assert "You may not call add." in refused


def test_a_spent_day_is_over(chat: Callable[..., str], model: ModelServer) -> None:
    url = chat(example("DayBudget", config={"budgets": [{"users": ["guest-*"], "tokens": 12}]}))
    with Person(url, "guest-1") as guest, Person(url, "ann") as ann:
        for person in (guest, ann):
            person.connect()
            model.will(Reply(text="one two three"))
            assert person.say("hello")["response"] == "one two three"
        asked = len(model.requests)
        refused = guest.post("chat", message="again")
        assert (refused.status_code, refused.json()["code"]) == (403, "blocked")
        assert "Your tokens of today are used up" in refused.json()["detail"]
        assert len(model.requests) == asked, "no model was asked"
        model.will(Reply(text="still here"))
        assert ann.say("again")["response"] == "still here"


def test_personal_data_is_masked(chat: Callable[..., str], model: ModelServer) -> None:
    url = chat(example("PIIRedaction"))
    with connected(url, "ann") as ann:
        model.will(Reply(calls=[("sums__echo", {"text": f"for {MAIL}"})]), Reply(text=f"It is {MAIL}."))
        answer = ann.say(f"I am {MAIL}")
    assert texts(model.requests[0], "user")[-1] == "I am [REDACTED]"
    assert MAIL not in json.dumps(model.requests[1])
    assert answer["response"] == "It is [REDACTED]."


def test_secrets_stay(chat: Callable[..., str], model: ModelServer) -> None:
    url = chat(example("SecretsDetection", config={}))
    with Person(url, "ann") as ann:
        ann.connect()
        refused = ann.post("chat", message=f"my key is {KEY}")
        assert refused.json()["code"] == "blocked"
        assert "aws_access_key_id" in refused.json()["detail"]
        assert not model.requests
        model.will(Reply(text="fine"))
        assert ann.say("and without")["response"] == "fine"
        assert KEY not in json.dumps(model.requests)


def test_what_was_asked_and_called_is_in_a_file(
    chat: Callable[..., str], model: ModelServer, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    url = chat(example("AuditFile", mode="fire_and_forget", config={"file": str(file)}))
    with connected(url, "ann") as ann:
        model.will(*adds())
        ann.say("the question")

    def entries() -> list[dict[str, Any]]:
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    wait_until(lambda: len(entries()) == 5, "a line for each")
    whats = sorted(each["what"] for each in entries())
    assert whats == ["answered", "answered", "asked", "called", "calling"], "it has spoken twice"
    assert {each["user"] for each in entries()} == {"ann"}
    assert {each.get("tool") for each in entries()} == {None, "add"}
    assert len({each["request"] for each in entries()}) == 1
    assert {each["server"] for each in entries() if "tool" in each} == {"sums"}
    assert "the question" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_exports_say_who_has_taken_them(chat: Callable[..., str], model: ModelServer) -> None:
    text = {"text": "Taken by {user} on {day}."}
    url = chat(example("ExportWatermark", mode="transform", config=text))
    with Person(url, "ann") as ann:
        session = ann.connect()["session_id"]
        model.will(Reply(text="hello"))
        ann.say("hi")
        mark = f"Taken by ann on {datetime.now(UTC).date()}."
        markdown = ann.get(f"sessions/{session}/export?format=markdown").text
        assert markdown.endswith(f"\n{mark}\n")
        exported = ann.get(f"sessions/{session}/export")
        assert exported.json()["context"]["watermark"] == mark
        again = ann.http.post("/llmchat/sessions/import", json=exported.json())
        assert again.status_code == 201, again.text


def test_each_example_is_listed_and_off() -> None:
    import yaml

    listed = yaml.safe_load((REPOSITORY / "plugins/config.yaml").read_text())["plugins"]
    assert {each["mode"] for each in listed} == {"disabled"}
    files = {path.stem for path in (REPOSITORY / "plugins").glob("*.py")}
    assert {each["kind"].split(".")[1] for each in listed} == files
    described = (REPOSITORY / "plugins/README.md").read_text()
    assert set(re.findall(r"`(\w+)\.py`", described)) == files
