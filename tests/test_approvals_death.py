"""A worker dies or stops while its user is asked about a call: the answer counts, and the call runs once."""

from __future__ import annotations

import signal
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from tests.asked import SCHEMA, calls, decide, decided, grants, told, turn, waiting
from tests.asking_mcp import AskingMCP
from tests.installation import Installation
from tests.model_server import ModelServer
from tests.person import Person
from tests.running import running, wait_until
from tests.sized_mcp import SizedMCP, tool
from tests.test_asking import SECRET, answer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def far() -> SizedMCP:
    far = SizedMCP()
    far.tools = [tool("size", inputSchema=SCHEMA), tool("wait")]
    return far


@pytest.fixture(scope="module")
def asking() -> AskingMCP:
    return AskingMCP()


@pytest.fixture(scope="module")
def model() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def chat(
    tmp_path_factory: pytest.TempPathFactory, far: SizedMCP, asking: AskingMCP, model: ModelServer
) -> Iterator[Installation]:
    with running(far.app) as far_url, running(asking.app) as asking_url, running(model.app) as model_url:
        servers = {"far": {"url": f"{far_url}/json"}, "s": {"url": f"{asking_url}/mcp"}}
        folder = tmp_path_factory.mktemp("approvals-death")
        with Installation(
            folder, f"{model_url}/v1", workers=2, servers=servers, MCP_CHAT_APPROVALS="on"
        ) as installation:
            yield installation


@pytest.fixture(autouse=True)
def clean(far: SizedMCP, asking: AskingMCP, model: ModelServer, chat: Installation) -> Iterator[None]:
    """Leave nothing of the test before, and two workers for the next."""
    model.script.clear()
    model.requests.clear()
    far.calls.clear()
    asking.clear()
    yield
    wait_until(lambda: len(chat.workers()) == 2, "two workers")


@pytest.fixture
def owner(chat: Installation) -> psutil.Process:
    """The worker that will own the user and die."""
    return chat.workers()[0]


@pytest.fixture
def reader(chat: Installation, owner: psutil.Process, name: str) -> Iterator[Person]:
    """The user, served by the owner, in front of the other worker."""
    with chat.person(name, owner) as person:
        person.connect(servers=[{"name": "far"}, {"name": "s"}])
    with chat.person(name, chat.workers()[1]) as person:
        yield person


def ran(far: SizedMCP) -> list[Any]:
    """What the server was called with."""
    return [each.get("arguments") or {} for each in far.calls]


def kill(owner: psutil.Process) -> None:
    """Kill it, and see it gone."""
    owner.kill()
    owner.wait(10)


def test_a_decision_may_come_to_another_worker_than_the_owner(
    reader: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 2}))
    with turn(reader) as going:
        decided(reader, going.approval())
        assert going.result() == "xx"
    assert ran(far) == [{"size": 2}]


@pytest.mark.parametrize("decision", ["once", "session", "always"])
def test_a_call_that_waits_outlives_its_owner_and_is_made_once(
    owner: psutil.Process, reader: Person, model: ModelServer, far: SizedMCP, decision: str
) -> None:
    calls(model, ("far__size", {"size": 2}))
    with turn(reader) as going:
        asked = going.approval()
        kill(owner)
        assert [each["id"] for each in waiting(reader)] == [asked["id"]]
        decided(reader, asked, decision)
        assert going.result() == "xx"
    assert going.end()[-1] == "final"
    assert ran(far) == [{"size": 2}]
    assert len(model.requests) == 2
    assert {each["id"] for each in going.of("approval")} == {asked["id"]}
    assert [message["role"] for message in reader.history()] == ["user", "assistant", "tool", "assistant"]
    assert [each["kind"] for each in grants(reader)] == [decision] * (decision != "once")


def test_several_calls_that_wait_are_decided_after_a_death_in_any_order(
    owner: psutil.Process, reader: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 1}), ("far__size", {"size": 2}), ("far__size", {"size": 3}))
    with turn(reader) as going:
        one, two, three = sorted(going.approvals(3), key=lambda each: int(each["arguments"]["size"]))
        kill(owner)
        decided(reader, three, arguments={"size": 4})
        decided(reader, two, "deny", reason="Not that.")
        decided(reader, one)
    assert going.end()[-1] == "final"
    assert sorted(each["size"] for each in ran(far)) == [1, 4]
    said = told(model)
    assert "x" in said
    assert "The user denied this call. They said: Not that." in said
    assert any(each.startswith("[The user changed") and each.endswith("\nxxxx") for each in said)


def decided_at_death(
    owner: psutil.Process, reader: Person, asked: dict[str, Any], *way: str, **more: Any
) -> None:
    """Decide while the owner looks alive, takes nothing in, and then dies."""
    owner.suspend()
    try:
        decided(reader, asked, *way, **more)
    finally:
        owner.kill()


def test_a_decision_that_comes_when_nobody_lives_is_kept(
    owner: psutil.Process, reader: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(reader) as going:
        asked = going.approval()
        decided_at_death(owner, reader, asked, arguments={"size": 5})
        assert going.result().endswith("\nxxxxx")
    assert ran(far) == [{"size": 5}]
    assert going.of("tool_start")[-1]["input"] == {"size": 5}


def test_a_denied_call_is_not_made_by_the_next_owner_either(
    owner: psutil.Process, reader: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(reader) as going:
        asked = going.approval()
        decided_at_death(owner, reader, asked, "deny", reason="No.")
        assert going.result() == "The user denied this call. They said: No."
    assert going.end()[-1] == "final"
    assert far.calls == []


def test_a_call_that_waits_outlives_a_deploy(
    chat: Installation, reader: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 2}))
    before = chat.workers()
    with turn(reader, message_id="deployed") as going:
        asked = going.approval()
        chat.master().send_signal(signal.SIGHUP)
        assert going.end()[-1] == "reconnect"
    wait_until(lambda: not set(before) & set(chat.workers()), "all workers are new", seconds=40)
    with chat.person(reader.name) as again, turn(again, message_id="deployed") as going:
        assert [each["id"] for each in waiting(again)] == [asked["id"]]
        decided(again, asked)
        assert going.result() == "xx"
    assert ran(far) == [{"size": 2}]


def test_a_call_that_was_allowed_and_made_is_not_made_again(
    owner: psutil.Process, reader: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__wait", {"seconds": 20}))
    with turn(reader) as going:
        asked = going.approval()
        decided(reader, asked)
        wait_until(lambda: far.calls, "the call is made")
        kill(owner)
        assert "Outcome unknown" in going.result()
    assert going.end()[-1] == "error"
    decided(reader, asked)  # the same decision again, for nothing
    assert len(far.calls) == 1


def test_of_decisions_at_two_workers_at_the_same_time_one_holds(
    chat: Installation, reader: Person, owner: psutil.Process, model: ModelServer, far: SizedMCP
) -> None:
    for _ in range(5):
        far.calls.clear()
        calls(model, ("far__size", {"size": 1}))
        with chat.person(reader.name, owner) as there, turn(reader) as going:
            asked = waiting(there)[0] if waiting(there) else going.approvals(1)[0]
            at_once = threading.Barrier(2)

            def say(person: Person, decision: str) -> int:
                at_once.wait(5)  # noqa: B023 - used within the round
                return decide(person, asked, decision).status_code  # noqa: B023 - the same

            with ThreadPoolExecutor(2) as people:
                yes, no = people.submit(say, reader, "once"), people.submit(say, there, "deny")
                assert sorted([yes.result(), no.result()]) == [200, 409]
        assert len(far.calls) == (yes.result() == 200)


def test_what_was_allowed_goes_on_when_its_server_asks_and_the_owner_dies(
    owner: psutil.Process, reader: Person, model: ModelServer, asking: AskingMCP
) -> None:
    calls(model, ("s__book", {"table": 1}))
    with turn(reader) as going:
        decided(reader, going.approval(), arguments={"table": 2})
        question = going.question()
        kill(owner)
        assert answer(reader, question, day=SECRET).status_code == 200
        assert going.result().endswith("\nbook: done")
        assert '{"table":2}' in going.result()
    assert going.end()[-1] == "final"
    assert len(going.of("approval")) == 1
    assert [name for name, _ in asking.done] == ["book"]


def test_the_trail_has_each_decision_once(
    chat: Installation, owner: psutil.Process, reader: Person, model: ModelServer
) -> None:
    calls(model, ("far__size", {"size": 2}))
    with turn(reader) as going:
        asked = going.approval()
        kill(owner)
        decided(reader, asked, arguments={"size": 3})
    with sqlite3.connect(chat.data / "mcp-chat.db") as database:
        found = database.execute(
            "SELECT action, decision, by, tool, outcome, arguments FROM chat_deed WHERE user_key = ? "
            "AND action IN ('call', 'approve') ORDER BY action",
            [reader.name],
        ).fetchall()
    (*approved, one), (*called, other) = found
    assert approved == ["approve", "allowed", "user", "far__size", "once_edited"]
    assert called == ["call", "allowed", "user", "far__size", "succeeded"]
    assert one == other != ""
