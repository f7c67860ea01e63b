"""With MCP_CHAT_ENCRYPT_HISTORY what is said stands nowhere in Redis or the database, and all works."""

from __future__ import annotations

import base64
import io
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from mcp_chat import cli
from mcp_chat.app import create_app
from mcp_chat.embedded import DataDir, EmbeddedValkey
from mcp_chat.settings import Settings
from tests.faults import refused
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until

pytestmark = pytest.mark.slow

KEY = base64.b64encode(bytes(range(32))).decode()


class Bug:
    """Looks at everything that a chat keeps, and listens to its bells."""

    def __init__(self, folder: Path, valkey: EmbeddedValkey) -> None:
        self.folder = folder
        self.url = valkey.url
        self.redis = Redis.from_url(valkey.url)
        self._bells = self.redis.pubsub()  # type: ignore[no-untyped-call]
        self._bells.psubscribe("chat:bell:*")
        self._rung: list[bytes] = []

    def places(self, *markers: str) -> set[str]:
        """Where one of the markers stands."""
        return {
            name
            for name, content in self._everything()
            if any(marker.encode() in content for marker in markers)
        }

    def _everything(self) -> Iterator[tuple[str, bytes]]:
        while message := self._bells.get_message():
            self._rung.append(repr(message["data"]).encode())
        yield "bells", b"".join(self._rung)
        for key in self.redis.scan_iter():
            yield key.split(b"{")[0].decode(), repr(self._value(key)).encode()
        self.redis.set("written", 1)
        self.redis.waitaof(1, 0, 10_000)  # while it waits for the disk, the server puts off writing
        for path in self.folder.rglob("*.aof"):
            yield "append-only file", path.read_bytes()
        for path in self.folder.glob("chat.db*"):
            yield "database", path.read_bytes()

    def _value(self, key: bytes) -> Any:
        read: dict[Any, Callable[[], Any]] = {
            b"string": lambda: self.redis.get(key),
            b"list": lambda: self.redis.lrange(key, 0, -1),
            b"stream": lambda: self.redis.xrange(key),
            b"hash": lambda: self.redis.hgetall(key),
            b"set": lambda: self.redis.smembers(key),
            b"zset": lambda: self.redis.zrange(key, 0, -1),
            b"none": lambda: None,  # its time was over since it was found
        }
        return read[self.redis.type(key)]()


@pytest.fixture
def bug(tmp_path: Path) -> Iterator[Bug]:
    """A Valkey of the test's own, and who looks into it."""
    with DataDir(tmp_path / "valkey") as data, EmbeddedValkey(data) as valkey:
        bug = Bug(tmp_path, valkey)
        yield bug
        bug.redis.close()


Open = Callable[..., Any]


@pytest.fixture
def at(settings: Callable[..., Settings], bug: Bug) -> Open:
    """Put somebody in front of a worker that begins with the context and stops with it."""

    @contextmanager
    def at(name: str, **values: Any) -> Iterator[Person]:
        given = settings(**{"redis_url": bug.url, "encryption_key": KEY, **values})
        with running(create_app(given)) as url, Person(url, name) as person:
            yield person

    return at


def marker() -> str:
    """A word that stands nowhere by chance."""
    return f"zq{secrets.token_hex(6)}"


def found(person: Person, *words: str) -> list[str]:
    """The conversations in which a search finds words."""
    results = person.http.get("/llmchat/search", params={"q": " ".join(words)}).json()["results"]
    return [each["session_name"] for each in results]


@pytest.mark.parametrize("database", [True, False])
@pytest.mark.parametrize("encrypted", [True, False])
def test_what_is_said_stands_nowhere_and_everything_works(
    at: Open, bug: Bug, model: ModelServer, demo_url: str, name: str, encrypted: bool, database: bool
) -> None:
    said, answered, named, file, filename, noted = everything = [marker() for _ in range(6)]
    keep: dict[str, Any] = {"encrypt_history": encrypted} | ({} if database else {"database_url": ""})
    with at(name, **keep) as person:
        connected = person.connect(server={"url": demo_url})
        session = connected["session_id"]
        body: dict[str, Any] = {"session_id": session}
        if database:
            body["attachments"] = [uploaded(person, file, filename)]
        [echo] = [tool for tool in connected["tools"] if tool.endswith("echo")]
        model.will(
            Reply(calls=[(echo, {"text": noted})]), Reply(text=f"The answer is {answered}, of course.")
        )
        with person.sending(f"Tell me of {said}!", **body) as events:
            first = next(events).id
            assert [event.name for event in events][-1] == "final"
        if database:
            person.http.patch(f"/llmchat/sessions/{session}", json={"name": f"About {named}"})
        places = bug.places(*everything)
    places |= bug.places(*everything)
    plain = {"bells", "append-only file", "chat:events:", "database" if database else "chat:history:"}
    assert places == set() if encrypted else places >= plain

    with at(name, **keep) as person:  # another worker, which has only what was kept
        history = json.dumps(person.history(f"?session_id={session}"))
        assert all(each in history for each in (said, answered, noted))
        with person.following(last_event_id=first) as events:
            assert answered in next(json.dumps(event.data) for event in events if event.name == "final")
        model.will(Reply(text="I go on."))
        assert person.say("And now?", session_id=session)["response"] == "I go on."
        shown = json.dumps(model.requests[-1])
        assert all(each in shown for each in (said, answered, noted))
        if database:
            assert file in shown
            assert found(person, said.upper(), "Tell") == [f"About {named}"]
            assert bool(found(person, said[:6])) != encrypted
            assert said in person.http.get(f"/llmchat/sessions/{session}/export").text
            [part] = body["attachments"]
            assert person.http.get(f"/llmchat/uploads/{part}").content == file.encode()
    assert not (encrypted and bug.places(*everything))


def uploaded(person: Person, content: str, name: str) -> str:
    """The id of a text file that was taken."""
    kind = {"content-type": "text/plain"}
    answer = person.http.post(f"/llmchat/uploads?name={name}.txt", content=content.encode(), headers=kind)
    return str(answer.json()["upload_id"])


def test_what_was_said_before_it_was_switched_on_or_after_it_was_switched_off_is_readable(
    at: Open, model: ModelServer, name: str
) -> None:
    for n, (encrypted, named) in enumerate(
        [(False, "first plain"), (True, "then sealed"), (False, "sealed:")]
    ):
        with at(name, encrypt_history=encrypted) as person:
            person.connect()
            session = person.http.post("/llmchat/sessions", json={"name": named}).json()["session_id"]
            model.will(Reply(text="Good."))
            person.say(f"wording {n}", session_id=session)
            assert person.history(f"?session_id={session}")[0]["content"] == f"wording {n}"
            listed = [each["name"] for each in person.get("sessions").json()["sessions"]]
            assert listed == ["sealed:", "then sealed", "first plain"][2 - n :]
            assert found(person, "wording") == listed
            assert found(person, "word") == [each for each in listed if each != "then sealed"]


def test_another_key_hides_chat_texts_and_nothing_else(at: Open, bug: Bug, name: str) -> None:
    with at(name, encrypt_history=True) as person:
        session = person.connect()["session_id"]
        person.say("lost", session_id=session)
    bug.redis.flushall()
    with at(name, encrypt_history=True, encryption_key=OTHER) as person:
        assert [each["name"] for each in person.get("sessions").json()["sessions"]] == [""]
        assert person.http.get(f"/llmchat/sessions/{session}/messages").json()["messages"] == []
        assert "connect" in refused(person.post("chat", message="hello"), 400)
        person.connect()
        assert person.say("new", session_id=session)["response"]
        assert person.history(f"?session_id={session}")[0]["content"] == "new"


OTHER = base64.b64encode(bytes(range(50, 82))).decode()


@pytest.mark.parametrize("keep", [{}, {"database_url": ""}], ids=["database", "none"])
def test_a_worker_that_lacks_the_key_destroys_nothing(
    at: Open, bug: Bug, model: ModelServer, name: str, keep: dict[str, Any]
) -> None:
    def sealing(key: str) -> Any:
        return at(name, encrypt_history=True, encryption_key=key, **keep)

    with sealing(KEY) as person:
        body = {"session_id": person.connect()["session_id"]}
        person.say("first", **body)
        if not keep:
            path = f"/llmchat/sessions/{body['session_id']}"
            assert person.http.patch(path, json={"context": {"a": "b"}}).is_success
    with sealing(OTHER) as person:
        if keep:
            answer = person.get(f"history/{{me}}?session_id={body['session_id']}")
            assert "key is missing" in refused(answer, 503)
        else:
            assert "key is missing" in refused(person.http.patch(path, json={"context": {"c": 1}}), 503)
            assert person.http.patch(path, json={"name": "renamed"}).is_success
            assert person.get("sessions").json()["sessions"]
    with sealing(f"{OTHER},{KEY}") as person:
        told = [each["content"] for each in person.history(f"?session_id={body['session_id']}")]
        assert told[0] == "first"
        if not keep:
            assert person.http.get(path).json()["context"]["a"] == "b"
    assert not bug.redis.keys("chat:aside:*")


def test_an_operator_reads_sealed_conversations_with_the_key(
    at: Open, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at(name, encrypt_history=True) as person:
        session = person.connect()["session_id"]
        person.say("whatever is sealed", session_id=session)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/chat.db")
    monkeypatch.setenv("MCP_CHAT_ENCRYPTION_KEY", KEY)
    monkeypatch.setattr(sys, "argv", ["mcp-chat", "sessions", "export", session, "--user", name])
    with redirect_stdout(io.TextIOWrapper(io.BytesIO())) as out, pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    out.seek(0)
    assert "whatever is sealed" in out.read()


@pytest.mark.slow
def test_a_turn_whose_worker_was_killed_goes_on_and_stands_nowhere(
    tmp_path: Path, model: ModelServer, model_url: str, name: str
) -> None:
    said, begun, answered = marker(), marker(), marker()
    model.will(Reply(text=f"one {begun} two", hang_after=3), Reply(text=f"The answer is {answered}."))
    with Installation(tmp_path, model_url, MCP_CHAT_ENCRYPT_HISTORY="true") as chat:
        owner, other = chat.workers()
        with chat.person(name, owner) as person:
            person.connect()
        with chat.person(name, other) as person, person.streaming(f"Tell me of {said}.") as frames:
            next(frame for frame in frames if begun in json.dumps(frame[1]))
            wait_until(lambda: chat.talking_to_the_model() == [owner], "the turn runs")
            owner.kill()
            assert answered in json.dumps(list(frames)[-1])
        with chat.person(name) as person:
            assert [each["content"] for each in person.history()] == [
                f"Tell me of {said}.",
                f"The answer is {answered}.",
            ]
    kept = {path.name: path.read_bytes() for path in chat.data.rglob("*") if path.is_file()}
    assert [path for path in kept if path.endswith((".aof", ".db"))]
    for word in (said, begun, answered):
        assert [path for path, content in kept.items() if word.encode() in content] == []
