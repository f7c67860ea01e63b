"""What went wrong elsewhere and is to go wrong nowhere here, where no other file has its test.

docs/security.md has the table of all of them; `make guards` takes each guard out and wants its test to fail.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

import mcp_chat
from mcp_chat import equipment, opening
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.test_identity import JWT, token

SOURCE = sorted(Path(mcp_chat.__file__).parent.rglob("*.py"))

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture
def bob(alice: Person) -> Iterator[Person]:
    """Someone else in front of the same application."""
    with Person(str(alice.http.base_url), f"{alice.name}-bob") as person:
        yield person


# R5, R15, R18: what a body may say

CONNECT: dict[str, Any] = {"llm": {"model": "openai:scripted"}}
UNKNOWN: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"message": "hi", "tool_ids": ["admin__delete"]}),
    ("chat", {"message": "hi", "tool_servers": ["https://example.org"]}),
    ("chat", {"message": "hi", "role": "system"}),
    ("chat", {"message": "hi", "parts": [{"upload_id": "x", "path": "/etc/passwd"}]}),
    ("connect", {**CONNECT, "operator": True}),
    ("connect", {**CONNECT, "session_id": "0" * 32}),
    ("connect", {**CONNECT, "server": {"url": "https://example.org", "operator": True}}),
    ("connect", {**CONNECT, "server": {"url": "https://example.org", "headers": {"Host": "x"}}}),
    ("connect", {**CONNECT, "server": {"url": "https://example.org", "env": {"PATH": "."}}}),
    ("connect", {"llm": {"model": "openai:scripted", "operator": True}}),
    ("sessions", {"name": "x", "user": "root"}),
    ("disconnect", {"user_key": "root"}),
]


@pytest.mark.parametrize(("path", "body"), UNKNOWN)
def test_a_field_that_nobody_knows_is_refused_and_never_a_right(
    alice: Person, path: str, body: dict[str, Any]
) -> None:
    answer = alice.post(path, **body)
    assert answer.status_code == 422, answer.text
    signed_in = alice.http.post("/auth/demo", json={"user": alice.name, "role": "admin"})
    assert signed_in.status_code == 422


COMMANDS: list[dict[str, Any]] = [
    {"command": "sh"},
    {"command": "sh", "args": ["-c", "id"]},
    {"args": ["-c", "id"]},
    {"env": {"PATH": "/tmp"}},
    {"cwd": "/"},
    {"transport": "stdio"},
    {"transport": "stdio", "command": "sh"},
]


@pytest.mark.parametrize("more", COMMANDS)
def test_no_body_can_name_a_command(alice: Person, demo_url: str, more: dict[str, Any]) -> None:
    answer = alice.post("connect", **CONNECT, server={"url": demo_url, **more})
    assert answer.status_code in (400, 422), answer.text
    assert alice.get("status/{me}").json()["connected"] is False


def test_the_only_addresses_a_body_may_name_are_those_that_the_guard_dials(alice: Person) -> None:
    document = alice.http.get("/openapi.json").json()
    named: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("properties"), dict):
                named.update(value["properties"])
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(document)
    assert {"url", "base_url"} <= named
    suspicious = {name for name in named if re.search(r"ur[il]|path|file|dir|href|src|host", name)}
    handed_on = {"uri"}  # what a server calls a resource: only the server itself is asked for it
    assert suspicious <= {"url", "base_url"} | handed_on, suspicious


# R6: what is read


@contextmanager
def full_of_secrets(
    serve: Callable[..., str], tmp_path: Path, name: str, model_url: str, demo_url: str
) -> Iterator[tuple[Person, dict[str, str]]]:
    """Someone whose connection and whose operator's files have secrets; with the ids of what they have."""
    servers, models = tmp_path / "secret-servers.json", tmp_path / "secret-models.yaml"
    ops = {"url": f"{demo_url}?k=CANARYQUERY", "headers": {"X-Key": "CANARYHEADER"}}
    servers.write_text(json.dumps({"mcpServers": {"ops": ops}}))
    models.write_text(
        f"models:\n  - model: openai:scripted\n    base_url: {model_url}\n    api_key_env: OPERATORS_KEY\n"
    )
    own = {"provider": "openai", "config": {"model": "m", "base_url": model_url, "api_key": "CANARYKEY"}}
    mine = {"url": demo_url, "alias": "mine", "auth_token": "CANARYTOKEN"}
    with Person(serve(servers_file=servers, models_file=models), name) as person:
        connected = person.connect(llm=own, servers=[mine, {"name": "ops"}])
        turn = person.say("hello", record=True)["turn_id"]
        upload = person.http.post("/llmchat/uploads", content=PNG, headers={"content-type": "image/png"})
        ids = {"session_id": connected["session_id"], "upload_id": upload.json()["upload_id"]}
        yield person, {**ids, "turn_id": turn, "approval_id": "0" * 32, "user_id": name, "alias": "mine"}


NOTHING_THERE = (
    "/prompts",
    "/resources",
    "/resource-templates",
    "/view",
    "/callback",
    "/client.json",
    "/{approval_id}",
)
"""Ends of paths at which there is nothing of this person's."""


def test_no_read_path_returns_a_secret_to_anybody(
    serve: Callable[..., str],
    tmp_path: Path,
    name: str,
    model_url: str,
    demo_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mcp_chat.tapes.KEEP_LIMIT", 60)
    monkeypatch.setenv("OPERATORS_KEY", "CANARYOPERATOR")
    with full_of_secrets(serve, tmp_path, name, model_url, demo_url) as (owner, ids):
        url = str(owner.http.base_url)
        document = owner.http.get("/openapi.json").json()
        paths = [path for path, methods in document["paths"].items() if "get" in methods]
        read = {path: path.format(**ids) for path in paths if not path.endswith("/events")}
        assert len(read) >= 14
        with Person(url, f"{name}-2") as other, httpx.Client(base_url=url, trust_env=False) as nobody:
            for who in (owner.http, other.http, nobody):
                for path, address in read.items():
                    answer = who.get(address, params={"q": "hello"} if path.endswith("/search") else {})
                    good = path.endswith(NOTHING_THERE) or answer.status_code == 200
                    assert who is not owner.http or good, (path, answer.text)
                    assert "CANARY" not in answer.text + str(answer.headers), path
        with owner.following(after="0-1") as events:
            assert "CANARY" not in repr(next(events))
        assert owner.get("config/{me}").json()["llm"]["config"]["api_key"] == "*****"


# R7: whose connection


def test_two_users_of_one_server_share_no_connection(
    alice: Person, bob: Person, model: ModelServer, demo_url: str
) -> None:
    for person in (alice, bob):
        person.connect(server={"url": demo_url, "alias": "toys"})
        model.will(Reply(calls=[("toys__todo_add", {"item": f"of {person.name}"})]), Reply(text="noted"))
        person.say("note it")
    for person, other in ((alice, bob), (bob, alice)):
        model.will(Reply(calls=[("toys__todo_list", {})]), Reply(text="there"))
        [_, listed] = person.say("what is there?")["tool_invocations"]
        assert f"of {person.name}" in listed["output"].splitlines()[-1]
        assert (f"of {other.name}\n" in listed["output"] + "\n") is False


# R19, R29: what becomes of a name, and what names are made


@pytest.mark.parametrize("user", ["}:{x", "*", "a:b", "../x", "a{b}c", "q?[a-z]", "x'; --", "é" * 100])
def test_no_text_of_a_login_gets_into_a_key(serve: Callable[..., str], valkey_url: str, user: str) -> None:
    with Redis.from_url(valkey_url, decode_responses=True) as redis:
        before = set(redis.scan_iter("*"))
        with Person(serve(redis_url=valkey_url), user, token=None) as person:
            person.connect()
            person.say("hello")
            made = set(redis.scan_iter("*")) - before
        assert made
        users = {found[1] for key in made if (found := re.search(r"\{([^}]*)\}", key))}
        assert [each for each in users if not re.fullmatch(r"~[0-9a-f]{64}", each)] == []
        assert [key for key in made if user in key.replace("chat:", "") and len(user) > 1] == []


def test_ids_cannot_be_guessed(alice: Person) -> None:
    ids = [alice.http.post("/llmchat/sessions", json={}).json()["session_id"] for _ in range(20)]
    ids += [alice.connect()["session_id"], alice.say("hello")["turn_id"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


# R20: what one request can end


def test_a_bug_in_one_command_is_that_commands_end_alone(
    alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob.connect()

    async def buggy(*_: Any) -> None:
        monkeypatch.setattr(equipment, "open_all", opening.open_all)
        raise RuntimeError("SECRET detail")

    monkeypatch.setattr(equipment, "open_all", buggy)
    body = {"user_id": alice.name, **CONNECT}
    failed = alice.http.post("/llmchat/connect", json=body, timeout=15)
    assert (failed.status_code, failed.json()["code"]) == (500, "unexpected")
    assert "SECRET" not in failed.text
    assert bob.say("still there?")["response"]
    assert alice.connect()["session_id"]


MALFORMED = [
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
    b"\x00\x01\x02\x03\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /llmchat/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /llmchat/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST /llmchat/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /%00%ff/../..//etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nCookie: \x00\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


@pytest.mark.slow
def test_no_request_ends_a_worker(tmp_path: Path, name: str) -> None:
    with Installation(tmp_path, "http://127.0.0.1:9/v1") as installation:
        before = sorted(worker.pid for worker in installation.workers())
        where = urlsplit(installation.url)
        deep = b'{"user_id":' + b"[" * 100_000 + b"}"
        with Person(installation.url, name) as person:
            for path in ("chat", "connect", "sessions", "sessions/import", "cancel"):
                for content in (deep, b"\xff" * 1000, b'{"user_id": 1e999}', b"null"):
                    kind = {"content-type": "application/json"}
                    answer = person.http.post(f"/llmchat/{path}", content=content, headers=kind)
                    assert answer.status_code in (400, 413, 422), answer.text
            for head in MALFORMED * 4:
                address = (str(where.hostname), where.port or 80)
                with socket.create_connection(address, timeout=5) as client, suppress(OSError):
                    client.sendall(head)
                    client.shutdown(socket.SHUT_WR)
                    client.recv(4096)
            assert person.get("status/{me}").status_code == 200
        assert sorted(worker.pid for worker in installation.workers()) == before
        assert "Traceback" not in installation.errors.read_text()


# R24: what a request is about


def test_a_host_header_changes_no_path(serve: Callable[..., str]) -> None:
    with Person(serve(**JWT), "ann", token=token()) as person:
        del person.http.headers["authorization"]
        for host in ("localhost/livez?", "localhost/livez#", "x@localhost/metrics?", "/livez"):
            answer = person.http.get("/llmchat/servers", headers={"host": host})
            assert answer.status_code in (400, 401), host


def test_nothing_is_decided_by_an_address_that_a_host_header_is_part_of() -> None:
    """Starlette makes `request.url` of the Host header; the path alone is in the scope."""
    asked = re.compile(r"\b(request|connection)\.(url|base_url)\b")
    found = {path.name: path.read_text() for path in SOURCE if asked.search(path.read_text())}
    outgoing = found.pop("netguard.py")  # its requests are our own: no Host header made their URLs
    assert "starlette" not in outgoing
    for name in ("bearer.py", "dial.py", "openai.py", "pool.py"):  # nor those of these
        assert "starlette" not in found.pop(name)
    assert list(found) == []


# R26: what is stored, and what others send


def test_nothing_that_is_read_can_become_code() -> None:
    """Stored and received values are JSON: no format that can name a class or a function is read anywhere."""
    formats = r"pickle|dill|cloudpickle|marshal|shelve|jsonpickle|langchain_core\.load|langgraph\.checkpoint"
    reads = rf"^\s*(import|from)\s+({formats})\b|\b(eval|exec)\(|yaml\.(unsafe_|full_)?load\("
    found = {path.name for path in SOURCE if re.search(reads, path.read_text(), re.MULTILINE)}
    assert found == set()


def test_an_object_that_says_it_is_a_constructor_stays_data(
    alice: Person, model: ModelServer, demo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPERATORS_KEY", "CANARY")
    made = {"lc": 1, "type": "secret", "id": ["OPERATORS_KEY"]}
    built = {"lc": 1, "type": "constructor", "id": ["langchain", "llms", "OpenAI"], "kwargs": made}
    document = {
        "schema": "mcp-chat/session/1",
        "context": {"x": built},
        "messages": [{"role": "user", "content": json.dumps(built), "metadata": {"x": built}}],
    }
    session = alice.http.post("/llmchat/sessions/import", json=document).json()["session_id"]
    alice.connect(server={"url": demo_url, "alias": "toys"})
    model.will(Reply(calls=[("toys__todo_add", {"item": json.dumps(built)})]), Reply(text=json.dumps(built)))
    assert json.loads(alice.say("go", session_id=session)["response"]) == built
    exported = alice.http.get(f"/llmchat/sessions/{session}/export")
    assert exported.json()["context"]["x"] == built
    assert exported.json()["messages"][0]["metadata"]["x"] == built
    assert "CANARY" not in exported.text + json.dumps(model.requests)
