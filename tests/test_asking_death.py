"""A worker dies or stops while a person is asked, or a task runs: the call goes on and finishes once."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.asking_mcp import AskingMCP, Older, sdk_server
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until
from tests.test_asking import SECRET, answer, turn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def asking() -> AskingMCP:
    return AskingMCP()


@pytest.fixture(scope="module")
def done() -> list[Any]:
    """What the older server has carried out."""
    return []


@pytest.fixture(scope="module")
def model() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def chat(
    tmp_path_factory: pytest.TempPathFactory, asking: AskingMCP, model: ModelServer, done: list[Any]
) -> Iterator[Installation]:
    older = Older(sdk_server(done).streamable_http_app(max_sessions=None))
    with running(asking.app) as server, running(older) as older_url, running(model.app) as model_url:
        servers = {"s": {"url": f"{server}/mcp"}, "older": {"url": f"{older_url}/mcp"}}
        folder = tmp_path_factory.mktemp("asking-death")
        with Installation(folder, f"{model_url}/v1", workers=2, servers=servers) as installation:
            yield installation


@pytest.fixture(autouse=True)
def clean(asking: AskingMCP, model: ModelServer, chat: Installation) -> Iterator[None]:
    """Leave nothing of the test before, and two workers for the next."""
    model.script.clear()
    model.requests.clear()
    asking.clear()
    yield
    asking.go.set()
    wait_until(lambda: len(chat.workers()) == 2, "two workers")


@pytest.fixture
def owner(chat: Installation) -> psutil.Process:
    """The worker that will own the user and die."""
    return chat.workers()[0]


@pytest.fixture
def reader(chat: Installation, owner: psutil.Process, name: str) -> Iterator[Person]:
    """The user, served by the owner, in front of the other worker."""
    with chat.person(name, owner) as person:
        person.connect(server={"name": "s"})
    with chat.person(name, chat.workers()[1]) as person:
        yield person


def deeds(chat: Installation, user: str) -> list[tuple[str, ...]]:
    """What the audit trail has of calls and answers."""
    with sqlite3.connect(chat.data / "mcp-chat.db") as database:
        return database.execute(
            "SELECT action, by, tool, outcome FROM chat_deed WHERE user_key = ? "
            "AND action IN ('call', 'answer') ORDER BY action",
            [user],
        ).fetchall()


def call(model: ModelServer, tool: str) -> None:
    """Have the model call a tool, and then be content."""
    model.will(Reply(calls=[(f"s__{tool}", {})]), Reply(text="Fine."))


def test_an_answer_may_come_to_another_worker_than_the_owner(
    chat: Installation, reader: Person, model: ModelServer, asking: AskingMCP
) -> None:
    call(model, "book")
    with turn(reader) as going:
        assert answer(reader, going.question(), day=SECRET).status_code == 200
        assert going.result() == "book: done"
    assert len(asking.done) == 1
    assert deeds(chat, reader.name) == [
        ("answer", "user", "s__book", "accept"),
        ("call", "policy", "s__book", "succeeded"),
    ]


@pytest.mark.parametrize("tool", ["book", "two"])
def test_a_question_outlives_its_owner_and_the_tool_finishes_once(
    owner: psutil.Process, reader: Person, model: ModelServer, asking: AskingMCP, tool: str
) -> None:
    call(model, tool)
    with turn(reader) as going:
        questions = [going.question(n) for n in range(2 if tool == "two" else 1)]
        owner.kill()
        owner.wait(10)
        assert reader.get("questions").json()["count"] == len(questions)
        for question in questions:
            content = {"yes": True} if tool == "two" else {"day": SECRET}
            assert answer(reader, question, **content).status_code == 200
        assert going.result() == f"{tool}: done"
    assert going.end()[-1] == "final"
    assert [name for name, _ in asking.done] == [tool]
    assert asking.calls == [tool] * 2
    assert len(model.requests) == 2
    assert [message["role"] for message in reader.history()] == ["user", "assistant", "tool", "assistant"]


def test_an_answer_that_comes_when_nobody_lives_is_kept(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer, asking: AskingMCP
) -> None:
    """The owner is stopped, so that it looks alive for a while, takes nothing in, and then dies."""
    call(model, "book")
    with turn(reader) as going:
        question = going.question()
        owner.suspend()
        try:
            assert answer(reader, question, day=SECRET).status_code == 200
        finally:
            owner.kill()
        assert going.result() == "book: done"
    assert len(asking.done) == 1


def test_a_question_outlives_a_deploy(
    chat: Installation, reader: Person, model: ModelServer, asking: AskingMCP
) -> None:
    call(model, "book")
    before = chat.workers()
    with turn(reader, message_id="deployed") as going:
        question = going.question()
        chat.master().send_signal(signal.SIGHUP)
        assert going.end()[-1] == "reconnect"
    wait_until(lambda: not set(before) & set(chat.workers()), "all workers are new", seconds=40)
    with chat.person(reader.name) as again, turn(again, message_id="deployed") as going:
        assert again.get("questions").json()["questions"][0]["id"] == question["id"]
        assert answer(again, question, day=SECRET).status_code == 200
        assert going.result() == "book: done"
    assert len(asking.done) == 1


def test_a_call_that_dies_behind_the_answer_is_of_unknown_outcome(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer, asking: AskingMCP
) -> None:
    call(model, "slow-ask")
    with turn(reader) as going:
        question = going.question()
        assert answer(reader, question, day=SECRET).status_code == 200
        wait_until(lambda: asking.done, "the call was made again")
        owner.kill()
        assert "Outcome unknown" in going.result()
    assert going.end()[-1] == "error"
    assert len(asking.done) == 1
    assert reader.get("questions").json()["count"] == 0
    assert asking.calls == ["slow-ask"] * 2


def test_an_older_servers_question_ends_with_its_owner(
    owner: psutil.Process, chat: Installation, model: ModelServer, done: list[Any], name: str
) -> None:
    with chat.person(name, owner) as person:
        person.connect(server={"name": "older"})
    model.will(Reply(calls=[("older__live", {})]))
    with chat.person(name, chat.workers()[1]) as reader:
        with turn(reader) as going:
            question = going.question()
            owner.kill()
            assert "Outcome unknown" in going.result()
        assert going.of("question_end") == [
            {"type": "question_end", "id": question["id"], "action": "cancel"}
        ]
        assert answer(reader, question, day=SECRET).status_code == 410
    assert done == []


def test_a_task_outlives_the_owner_and_is_not_begun_again(
    owner: psutil.Process, reader: Person, model: ModelServer, asking: AskingMCP
) -> None:
    call(model, "count")
    with turn(reader) as going:
        wait_until(lambda: any(job.looks for job in asking.jobs.values()), "it is followed")
        owner.kill()
        owner.wait(10)
        looks = next(iter(asking.jobs.values())).looks
        wait_until(lambda: next(iter(asking.jobs.values())).looks > looks + 2, "it is followed again")
        asking.go.set()
        assert going.result() == "count: done"
    assert asking.calls == ["count"]
    assert [name for name, _ in asking.done] == ["count"]
    assert not asking.cancelled


def test_what_a_task_asks_outlives_the_owner(
    owner: psutil.Process, reader: Person, model: ModelServer, asking: AskingMCP
) -> None:
    call(model, "ask-and-count")
    with turn(reader) as going:
        question = going.question()
        owner.kill()
        owner.wait(10)
        assert answer(reader, question, day=SECRET).status_code == 200
        wait_until(lambda: asking.updates, "the task hears of it")
        asking.go.set()
        assert going.result() == "ask-and-count: done"
    assert asking.calls == ["ask-and-count"]
    assert len(asking.updates) == 1
