"""Several workers serve one user: real gunicorn, real Valkey, SQLite, the model's far side scripted."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Frame, Person
from tests.running import running, wait_until


@pytest.fixture(scope="module")
def far_model() -> ModelServer:
    """The model of all installations here."""
    return ModelServer()


@pytest.fixture(scope="module")
def far_model_url(far_model: ModelServer) -> Iterator[str]:
    """Its base URL."""
    with running(far_model.app) as url:
        yield f"{url}/v1"


@pytest.fixture
def model(far_model: ModelServer) -> ModelServer:
    """The model, with nothing left of the test before."""
    far_model.script.clear()
    far_model.requests.clear()
    far_model.headers.clear()
    far_model.hung_up = 0
    return far_model


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, far_model_url: str) -> Iterator[Installation]:
    """An installation with two workers."""
    with Installation(tmp_path_factory.mktemp("two"), far_model_url) as installation:
        yield installation


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, far_model_url: str) -> Iterator[Installation]:
    """An installation with four workers."""
    with Installation(tmp_path_factory.mktemp("four"), far_model_url, workers=4) as installation:
        yield installation


@pytest.fixture
def people(two: Installation, name: str) -> Iterator[list[Person]]:
    """One user in front of each of two workers, connected by the first, which is thus the owner."""
    with at_each_worker(two, name) as found:
        found[0].connect()
        yield found


class at_each_worker(ExitStack):  # noqa: N801 - used as a function is
    """One user in front of each worker."""

    def __init__(self, installation: Installation, name: str) -> None:
        super().__init__()
        self._installation = installation
        self._name = name

    def __enter__(self) -> list[Person]:  # type: ignore[override]
        super().__enter__()
        return [
            self.enter_context(self._installation.person(self._name, worker))
            for worker in self._installation.workers()
        ]


def chat_anew(installation: Installation, name: str, message: str) -> tuple[psutil.Process, dict[str, Any]]:
    """Chat over a fresh connection that ends with the answer; tell which worker had it."""
    with installation.person(name) as person:
        worker = installation.worker_of(person)
        person.http.headers["connection"] = "close"
        return worker, person.say(message)


def spoken(frames: Iterator[Frame], text: str) -> str:
    """Read a stream until the model has said this much."""
    so_far = ""
    while so_far != text:
        event, data = next(frames)
        assert event == "token", data
        so_far += data["content"]
    return so_far


def texts(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Who said what."""
    return [(message["role"], message["content"]) for message in messages]


# What any worker does


def test_each_worker_knows_what_was_said_on_the_other(people: list[Person], model: ModelServer) -> None:
    for count in range(6):
        answer = people[count % 2].say(f"message {count}")
        assert answer["response"] == f"{2 * count + 1} messages, the last from user: message {count}"
    assert people[0].history() == people[1].history()
    assert len(people[0].history()) == 12


def test_five_messages_at_once_are_answered_one_after_the_other(
    people: list[Person], model: ModelServer, two: Installation
) -> None:
    asked = [f"message {n}" for n in range(5)]
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda text: chat_anew(two, people[0].name, text)[1], asked))
    assert len(model.requests) == 5
    for text, answer in zip(asked, answers, strict=True):
        assert answer["response"].endswith(f"messages, the last from user: {text}")
    told = texts(people[1].history())
    assert sorted(content for role, content in told if role == "user") == asked
    for turn in range(5):
        (asker, question), (answerer, reply) = told[2 * turn : 2 * turn + 2]
        assert (asker, answerer) == ("user", "assistant")
        assert reply == f"{2 * turn + 1} messages, the last from user: {question}"
    assert len(told) == 10


@pytest.mark.parametrize("place", [0, 1], ids=["at-the-owner", "at-another-worker"])
def test_a_turn_goes_on_when_its_reader_hangs_up(
    people: list[Person], model: ModelServer, two: Installation, place: int
) -> None:
    hold = threading.Event()
    model.will(Reply(text="one two three four five six seven eight", hold=hold))
    reader, witness = people[place], people[1 - place]
    owner, worker, port = two.worker_of(people[0]), two.worker_of(reader), two.port_of(reader)
    with reader.streaming("count") as frames:
        assert spoken(frames, "one two three four five six seven")
        assert owner in two.talking_to_the_model()
    reader.http.close()
    wait_until(lambda: not two.has_connection(worker, port), "the worker has noticed")
    assert witness.get("history/{me}").json()["running"]
    assert model.hung_up == 0
    hold.set()
    done = wait_until(lambda: witness.history()[1:], "the answer is in the history")
    assert texts(done) == [("assistant", "one two three four five six seven eight")]
    assert "stopped" not in done[0]["metadata"]
    wait_until(lambda: witness.get("history/{me}").json()["running"] is None, "nothing runs")
    assert model.hung_up == 0


def test_a_turn_is_stopped_from_another_worker(people: list[Person], model: ModelServer) -> None:
    model.will(Reply(text="one two three", hang_after=3))
    owner, other = people
    with owner.streaming("count") as frames:
        spoken(frames, "one two")
        assert other.post("cancel").json() == {"status": "cancelled", "user_id": other.name}
        event, final = next(frames)
        assert list(frames) == []
    assert (event, final["content"], final["stopped"]) == ("final", "one two", True)
    wait_until(lambda: model.hung_up, "the model sees that nobody listens")
    kept = other.history()[-1]
    assert (kept["role"], kept["content"], kept["metadata"]["stopped"]) == ("assistant", "one two", True)
    assert kept["metadata"]["usage"]["estimated"], "what it took until then is counted, too"
    assert owner.post("cancel").json()["status"] == "no_running_turn"
    assert owner.say("go on")["response"] == "3 messages, the last from user: go on"


def test_an_answer_that_is_waited_for_is_stopped_as_well(people: list[Person], model: ModelServer) -> None:
    model.will(Reply(text="one two three", hang_after=3))
    owner, other = people
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(other.say, "count")
        wait_until(lambda: owner.get("history/{me}").json()["running"], "the turn runs")
        wait_until(lambda: model.requests, "the model is asked")
        assert owner.post("cancel").json()["status"] == "cancelled"
        assert answer.result(20)["stopped"] is True
    wait_until(lambda: model.hung_up, "the model sees that nobody listens")


def test_the_same_message_twice_is_one_turn(people: list[Person], model: ModelServer) -> None:
    model.will(Reply(text="once and for all", pause=0.2))
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda person: person.say("hello", message_id="m-1"), people))
    again = people[1].say("hello", message_id="m-1")
    assert both == [again, again]
    assert again["turn_id"] == "m-1"
    assert again["response"] == "once and for all"
    assert texts(people[0].history()) == [("user", "hello"), ("assistant", "once and for all")]
    assert len(model.requests) == 1


def test_two_users_do_not_see_each_other(people: list[Person], model: ModelServer, two: Installation) -> None:
    alice = people[1]
    with two.person(f"{alice.name}-2") as bob:
        assert bob.get("status/{me}").json()["connected"] is False
        assert bob.get("config/{me}").status_code == 404
        bob.connect(server={"name": "demo"})
        with ThreadPoolExecutor(2) as pool:
            for count in range(3):
                said = [pool.submit(who.say, f"{count} from {who.name}") for who in (alice, bob)]
                for who, answer in zip((alice, bob), said, strict=True):
                    assert answer.result(30)["response"] == (
                        f"{2 * count + 1} messages, the last from user: {count} from {who.name}"
                    )
        for who in (alice, bob):
            asked = [content for role, content in texts(who.history()) if role == "user"]
            assert asked == [f"{count} from {who.name}" for count in range(3)]
        assert alice.get("config/{me}").json()["mcp_server"] is None
        assert bob.get("config/{me}").json()["mcp_server"]["name"] == "demo"
        assert alice.get("config/{me}").json()["session_id"] != bob.get("config/{me}").json()["session_id"]

        for path in ("status", "config", "history"):
            refused = bob.get(f"{path}/{alice.name}")
            assert (refused.status_code, refused.json()["detail"]) == (403, "User ID mismatch.")
        theirs = alice.history()[0]["id"]
        assert theirs not in bob.get("history/{me}").text
        session = alice.get("config/{me}").json()["session_id"]
        assert bob.get(f"history/{{me}}?session_id={session}").status_code == 404
        assert bob.say("whose?", session_id=session)["session_id"] != session
        for path, more in (
            ("connect", {"llm": {"model": "openai:scripted"}}),
            ("chat", {"message": "hi"}),
            ("cancel", {}),
            ("disconnect", {}),
        ):
            refused = bob.post(path, **more | {"user_id": alice.name})
            assert (refused.status_code, refused.json()["detail"]) == (403, "User ID mismatch.")
        bob.post("disconnect").raise_for_status()
    assert alice.get("status/{me}").json()["connected"] is True
    assert len(alice.history()) == 6


def test_a_server_keeps_its_state_whichever_worker_is_asked(people: list[Person], model: ModelServer) -> None:
    people[0].connect(server={"name": "demo"})
    for person, item, shown in (
        (people[1], "bread", "1. [ ] bread"),
        (people[0], "milk", "1. [ ] bread\n2. [ ] milk"),
        (people[1], "salt", "1. [ ] bread\n2. [ ] milk\n3. [ ] salt"),
    ):
        model.will(Reply(calls=[("demo__todo_add", {"item": item})]), Reply(text="Noted."))
        _, end = person.say(f"note {item}")["tool_invocations"]
        assert (end["type"], end["output"]) == ("tool_end", shown)


def test_status_and_configuration_are_the_same_on_every_worker(people: list[Person]) -> None:
    def seen() -> list[tuple[int, Any]]:
        paths = ("status/{me}", "config/{me}", "history/{me}", "servers", "gateway/models")
        answers = [[person.get(path) for path in paths] for person in people]
        here, there = ([(a.status_code, a.json()) for a in row] for row in answers)
        assert here == there
        return here

    first = seen()
    assert first[0][1]["connected"] is True
    assert first[1][1]["llm"]["config"]["model"] == "scripted"
    people[1].connect(server={"name": "demo"}, llm={"model": "openai:scripted", "temperature": 0.5})
    second = seen()
    assert second[1][1]["llm"]["config"]["temperature"] == 0.5
    assert second[1][1]["session_id"] != first[1][1]["session_id"]
    people[0].post("disconnect").raise_for_status()
    third = seen()
    assert third[0][1]["connected"] is False
    assert third[1][0] == 404


def test_after_a_disconnect_no_worker_chats(people: list[Person], model: ModelServer) -> None:
    owner, other = people
    owner.say("hello")
    assert other.post("disconnect").json()["status"] == "disconnected"
    for person in people:
        for streaming in (False, True):
            refused = person.post("chat", message="still there?", streaming=streaming)
            assert refused.status_code == 400
            assert refused.json()["detail"].startswith("No active session found.")
        assert person.history() == []
        assert person.post("disconnect").json()["status"] == "no_active_session"
    assert len(model.requests) == 1
    other.connect()
    assert owner.say("anew")["response"] == "1 messages, the last from user: anew"


def test_a_conversation_survives_the_loss_of_everything_in_redis(
    people: list[Person], model: ModelServer, two: Installation
) -> None:
    people[0].say("remember me")
    for count in range(1, 4):
        with two.redis() as redis:
            assert redis.keys(f"*{people[0].name}*")
            redis.flushall()
        answer = people[count % 2].say(f"message {count}")
        assert answer["response"] == f"{2 * count + 1} messages, the last from user: message {count}"
    for person in people:
        assert person.get("status/{me}").json()["connected"] is True
        assert [content for role, content in texts(person.history()) if role == "user"] == [
            "remember me",
            *(f"message {count}" for count in range(1, 4)),
        ]


def test_five_messages_at_once_to_a_user_whom_nobody_serves_are_all_answered(
    people: list[Person], model: ModelServer, two: Installation
) -> None:
    for count in range(4):
        with two.redis() as redis:
            redis.flushall()
        with ThreadPoolExecutor(5) as pool:
            answers = pool.map(lambda n: chat_anew(two, people[0].name, f"message {n}")[1], range(5))
            heard = sorted(int(answer["response"].split()[0]) for answer in answers)
        assert heard == [10 * count + 2 * n + 1 for n in range(5)]
    assert len(people[1].history()) == 40


def test_secrets_are_in_no_file_and_no_log(
    two: Installation, model: ModelServer, far_model_url: str, demo_url: str, name: str
) -> None:
    key, token, wrong = (f"canary-{word}-{os.urandom(8).hex()}" for word in ("key", "token", "wrong"))
    llm = {"provider": "openai", "config": {"model": "own", "api_key": key, "base_url": far_model_url}}
    with two.person(name) as person:
        assert person.post("connect", llm={**llm, "nonsense": wrong}).status_code == 422
        dead = {"url": "http://127.0.0.1:9/mcp", "auth_token": wrong}
        assert person.post("connect", llm=llm, server=dead).status_code in (400, 503)
        person.connect(llm=llm, server={"url": demo_url, "auth_token": token, "alias": "demo"})
        model.will(
            Reply(calls=[("demo__always_fails", {"reason": "a reason to be found"})]),
            Reply(text="It failed."),
            Reply(status=401),
        )
        assert person.say("fail")["response"] == "It failed."
        assert person.post("chat", message="and now").status_code == 503
        assert {headers["authorization"] for headers in model.headers} == {f"Bearer {key}"}
        shown = person.get("config/{me}").text
        assert "*****" in shown
        people_see = shown + person.get("history/{me}").text

    def everything() -> bytes:
        files = [path for path in two.directory.rglob("*") if path.is_file()]
        return b"".join(path.read_bytes() for path in files) + people_see.encode()

    written = wait_until(lambda: b"a reason to be found" in (all_ := everything()) and all_, "it is written")
    assert name.encode() in written  # so the search does find what is there
    assert b'"user.claimed"' in two.errors.read_bytes()
    for secret in (key, token, wrong):
        assert secret.encode() not in written
        assert base64.b64encode(secret.encode())[:-4] not in written
    encryption_key = (two.data / "encryption.key").read_bytes()
    assert written.count(encryption_key) == 1


# Four workers


@pytest.mark.slow
def test_twenty_chats_over_fresh_connections_each_carry_all_that_came_before(
    four: Installation, model: ModelServer, name: str
) -> None:
    assert len(four.workers()) == 4
    with four.person(name) as person:
        person.connect(server={"name": "demo"})
    served = set()
    for count in range(20):
        worker, answer = chat_anew(four, name, f"message {count}")
        served.add(worker)
        assert answer["response"] == f"{2 * count + 1} messages, the last from user: message {count}"
        assert answer["resumed"] is True
    assert len(served) > 1
    with four.person(name) as person:
        assert len(person.history()) == 40


@pytest.mark.slow
def test_a_user_is_served_by_each_of_four_workers_and_by_none_after_a_disconnect(
    four: Installation, model: ModelServer, name: str
) -> None:
    with at_each_worker(four, name) as people:
        assert len(people) == 4
        people[0].connect()
        for count, person in enumerate(people):
            assert person.say("hello")["response"] == f"{2 * count + 1} messages, the last from user: hello"
        with four.redis() as redis:
            redis.flushall()
        assert people[3].say("still")["response"] == "9 messages, the last from user: still"
        assert people[2].post("disconnect").json()["status"] == "disconnected"
        for person in people:
            refused = person.post("chat", message="still there?")
            assert refused.status_code == 400
            assert refused.json()["detail"].startswith("No active session found.")


# The end of all processes


@pytest.mark.slow
def test_conversations_survive_the_death_of_every_process(
    tmp_path: Path, model: ModelServer, far_model_url: str, name: str
) -> None:
    with Installation(tmp_path, far_model_url) as first, first.person(name) as person:
        person.connect(server={"name": "demo"})
        model.will(Reply(text="Adding.", calls=[("demo__add", {"a": 2, "b": 3})]), Reply(text="It is 5."))
        person.say("add 2 and 3")
        before = person.history()
        cookies = dict(person.http.cookies)
        model.will(Reply(text="one two three", hang_after=3))
        with person.streaming("count") as frames:
            spoken(frames, "one two")
            assert {"valkey", "demo", "gunicorn", "serve"} == {
                word
                for word in ("valkey", "demo", "gunicorn", "serve")
                if any(word in " ".join(process.cmdline()) for process in first.family())
            }
            first.kill()
    model.script.clear()
    with Installation(tmp_path, far_model_url) as second:
        began = time.monotonic()
        with httpx.Client(base_url=second.url, cookies=cookies, timeout=30) as http:
            assert http.get(f"/llmchat/status/{name}").json()["connected"] is True
        with second.person(name) as person:
            assert person.history()[: len(before)] == before
            assert len(before) == 4
            answer = person.say("go on")
            assert time.monotonic() - began < 40
            assert answer["response"] == "7 messages, the last from user: go on"
            after = person.history()[len(before) :]
            assert texts(after)[:3] == [
                ("user", "count"),
                ("assistant", "5 messages, the last from user: count"),  # asked once more
                ("user", "go on"),
            ]
            model.will(Reply(calls=[("demo__add", {"a": 2, "b": 4})]), Reply(text="It is 6."))
            assert person.say("add 2 and 4")["tool_invocations"][1]["output"] == "6"


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_running_and_keeps_what_was_said(
    tmp_path: Path, model: ModelServer, far_model_url: str, name: str
) -> None:
    model.will(Reply(text="one two three", hang_after=3))
    with Installation(tmp_path, far_model_url, workers=4) as first, first.person(name) as person:
        person.connect(server={"name": "demo"})
        with person.streaming("count") as frames:
            spoken(frames, "one two")
            assert len(first.family()) == 8  # serve, Valkey, demo server, gunicorn and four workers
            assert first.interrupt() == 0
            event, _ = next(frames)
            assert event == "reconnect"
            assert list(frames) == []
        assert first.left() == []
        wait_until(lambda: model.hung_up, "the model sees that nobody listens")
    with Installation(tmp_path, far_model_url) as second, second.person(name) as person:
        assert texts(person.history())[:1] == [("user", "count")]
        model.script.clear()
        assert person.say("go on")["response"] == "3 messages, the last from user: go on"
        assert texts(person.history())[1] == ("assistant", "1 messages, the last from user: count")
