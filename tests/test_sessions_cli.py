"""`mcp-chat sessions`, as an operator runs it beside a running chat."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from mcp_chat import cli
from mcp_chat.identity import user_key
from mcp_chat.session import Session
from tests.model_server import ModelServer, Reply
from tests.person import Person

pytestmark = pytest.mark.slow

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def process(tmp_path: Path) -> Run:
    """Run `mcp-chat sessions` in a process of its own."""
    environ = {**os.environ, "DATABASE_URL": f"sqlite:///{tmp_path}/chat.db"}

    def run(*args: str) -> Done:
        command = [sys.executable, "-m", "mcp_chat", "sessions", *args]
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `mcp-chat sessions` in this process, which is faster; keywords are environment variables."""

    def run(*args: str, stdin: str = "", **env: str) -> Done:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
        with monkeypatch.context() as patch:
            for variable, value in {"DATABASE_URL": f"sqlite:///{tmp_path}/chat.db", **env}.items():
                patch.setenv(variable, value)
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["mcp-chat", "sessions", *args])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
                cli.main()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
        return subprocess.CompletedProcess(args, int(left.value.code or 0), *texts)

    return run


def good(done: Done) -> str:
    """What a command wrote, which must have ended well."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(done: Done) -> str:
    """The sentence with which a command was refused."""
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    return line


def imported(person: Person, **fields: Any) -> str:
    """The id of a conversation that a person has brought along."""
    document = {"schema": "mcp-chat/session/1", **fields}
    return str(person.http.post("/llmchat/sessions/import", json=document).json()["session_id"])


def listed(person: Person) -> list[str]:
    return [each["session_id"] for each in person.get("sessions").json()["sessions"]]


def test_conversations_are_listed_shown_exported_imported_and_deleted(
    alice: Person, process: Run, tmp_path: Path
) -> None:
    alice.connect()
    session = alice.http.post("/llmchat/sessions", json={"name": "Trip to Rome"}).json()["session_id"]
    alice.say("héllo \x00 ✓", session_id=session)
    me = ("--user", alice.name)
    head, line = good(process("list", *me)).splitlines()
    assert head.split() == ["ID", "UPDATED", "TOKENS", "NAME"]
    assert line.startswith(session)
    assert line.endswith("Trip to Rome")
    file = tmp_path / "exported.json"
    assert good(process("export", session, *me, "--output", str(file))) == ""
    exported = Session.from_json(file.read_bytes())
    assert exported.messages[0].content == "héllo \x00 ✓"
    assert good(process("export", session, *me, "--format", "markdown")).startswith("# Trip to Rome")
    new = good(process("import", str(file), *me)).strip()
    assert set(listed(alice)) == {session, new}
    assert alice.get(f"sessions/{new}/messages").json()["messages"] == alice.history(f"?session_id={session}")
    assert good(process("delete", session, *me, "--yes")) == "Deleted.\n"
    assert listed(alice) == [new]


def test_a_conversation_is_described_for_people_and_for_programs(alice: Person, run: Run) -> None:
    session = imported(
        alice,
        name="Räume",
        context={"a": ["ä"]},
        messages=[{"role": "user", "content": "x"}],
        token_usage={"input_tokens": 3, "output_tokens": 4},
    )
    me = ("--user", alice.name)
    [listed_] = json.loads(good(run("list", *me, "--json")))
    shown = json.loads(good(run("show", session, *me, "--json")))
    assert shown == {**listed_, "context": {"a": ["ä"]}, "messages": 1}
    assert (listed_["session_id"], listed_["name"], listed_["total_tokens"]) == (session, "Räume", 7)
    lines = dict(
        line.split(maxsplit=1) for line in good(run("show", session, *me)).splitlines() if " " in line.strip()
    )
    assert lines["name"] == "Räume"
    assert lines["context"] == '{"a": ["ä"]}'
    assert lines["messages"] == "1"


def test_all_conversations_are_listed_however_many(alice: Person, run: Run) -> None:
    for n in range(205):
        imported(alice, name=str(n), updated_at="2026-01-02T03:04:05Z")
    assert len(json.loads(good(run("list", "--user", alice.name, "--json")))) == 205


def test_nothing_is_deleted_without_a_yes(alice: Person, run: Run) -> None:
    session = imported(alice, name="kept", messages=[{"role": "user", "content": "x"}])
    me = ("--user", alice.name)
    asked = run("delete", session, *me, stdin="n\n")
    assert asked.returncode == 1
    assert "kept, 1 messages" in asked.stdout
    assert listed(alice) == [session]
    assert run("delete", session, *me, stdin="y\n").returncode == 0
    assert listed(alice) == []


def test_what_is_not_there_is_one_sentence(alice: Person, run: Run, tmp_path: Path) -> None:
    session = imported(alice, name="secret")
    for command in ("show", "delete"):
        sentence = refused(run(command, session, "--user", f"{alice.name}-2"))
        assert sentence == f"mcp-chat: This user has no conversation {session}."
    assert "\x1b" not in refused(run("show", "\x1b[2J'; --", "--user", alice.name))
    assert good(run("list", "--user", "nobody")) == "This user has no conversations.\n"
    assert "cannot be read" in refused(run("import", str(tmp_path / "none.json"), "--user", "x"))
    (tmp_path / "bad.json").write_text('{"schema": "other"}')
    assert "schema" in refused(run("import", str(tmp_path / "bad.json"), "--user", "x"))
    assert "cannot be written" in refused(
        run("export", session, "--user", alice.name, "--output", str(tmp_path / "no" / "file"))
    )
    assert listed(alice) == [session]


def test_a_hostile_name_does_nothing_to_the_terminal(alice: Person, run: Run) -> None:
    context = {"a": "\x1b[2J\x07"}
    session = imported(alice, name="\x1b[31mred\x07\u202e\n" + "x" * 300, context=context)
    for command in (("list",), ("show", session)):
        out = good(run(*command, "--user", alice.name))
        assert all(sign.isprintable() or sign == "\n" for sign in out)
        assert "red" in out


def test_a_user_with_an_unusual_id_is_found_by_it(serve: Callable[..., str], run: Run, name: str) -> None:
    unusual = f"Ann É {name} {{x}}*"
    with Person(serve(), unusual) as person:
        session = imported(person, name="mine")
        assert session in good(run("list", "--user", unusual))
        assert session not in good(run("list", "--user", user_key(unusual)[:20]))


def test_an_owner_that_cannot_be_asked_is_fenced_off(alice: Person, run: Run, model: ModelServer) -> None:
    session = alice.connect()["session_id"]
    hold = threading.Event()
    model.will(Reply(text="one two three", hold=hold))
    with alice.streaming("first") as frames:
        assert next(frames)[0] == "token"
        assert good(run("delete", session, "--user", alice.name, "--yes")) == "Deleted.\n"
        hold.set()
        assert list(frames)[-1][0] == "error"
    assert listed(alice) == []
    alice.post("chat", message="whoever was fenced off may answer this one")
    assert alice.say("second")["response"]


def test_an_owner_in_redis_deletes_it_itself(
    serve: Callable[..., str], run: Run, name: str, valkey_url: str, model: ModelServer
) -> None:
    with Person(serve(redis_url=valkey_url), name) as person, Redis.from_url(valkey_url) as redis:
        session = person.connect()["session_id"]
        for text in ("hello", "again"):  # a window is made when one is read
            person.say(text)
        key = f"chat:history:{{{user_key(name)}}}:{session}"
        assert redis.exists(key)
        model.will(Reply(text="one two three", hang_after=2))
        with person.streaming("stop me") as frames:
            assert next(frames)[0] == "token"
            good(run("delete", session, "--user", name, "--yes", REDIS_URL=valkey_url))
            assert list(frames)[-1][1]["stopped"] is True
        assert not redis.exists(key)
        assert person.history() == []
        assert listed(person) == []
        assert person.say("and on")["response"] == "1 messages, the last from user: and on"


def test_what_redis_holds_goes_too_when_nobody_owns_the_user(
    alice: Person, run: Run, valkey_url: str
) -> None:
    first, second = imported(alice, name="first"), imported(alice, name="second")
    me = ("--user", alice.name, "--yes")
    with Redis.from_url(valkey_url) as redis:
        key = f"chat:history:{{{user_key(alice.name)}}}:{first}"
        redis.rpush(key, "{}")
        good(run("delete", first, *me, REDIS_URL=valkey_url))
        assert not redis.exists(key)
    sentence = refused(run("delete", second, *me, REDIS_URL="redis://127.0.0.1:1/0"))
    assert "It is deleted, but Redis does not answer" in sentence
    assert listed(alice) == []


def test_without_a_database_url_it_is_that_of_serve(alice: Person, run: Run, tmp_path: Path) -> None:
    session = imported(alice, name="mine")
    data = tmp_path / "data"
    where = {"DATABASE_URL": "", "MCP_CHAT_DATA_DIR": str(data)}
    sentence = refused(run("list", "--user", alice.name, **where))
    assert "set DATABASE_URL or MCP_CHAT_DATA_DIR" in sentence
    assert not data.exists(), "asking makes nothing"
    data.mkdir()
    (data / "mcp-chat.db").symlink_to(tmp_path / "chat.db")
    assert session in good(run("list", "--user", alice.name, **where))
    assert "schema" in refused(run("list", "--user", "x", DATABASE_URL=f"sqlite:///{tmp_path}/new.db"))
