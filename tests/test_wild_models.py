"""A model that wants other people's tools, the same thing a thousand times, or everything at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import on_one_stage
from tests.faults import Stage, failed, usable, well_formed
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running
from tests.sized_mcp import SizedMCP, tool

ROUNDS, MOST, AT_ONCE, AT_SERVER = 5, 100, 8, 4

stage, model, alice = on_one_stage(
    tool_rounds=ROUNDS, max_calls=MOST, parallel_calls=AT_ONCE, server_calls=AT_SERVER, turn_timeout=30
)


@pytest.fixture
def mine() -> SizedMCP:
    """The server that Alice is connected to."""
    return SizedMCP()


@pytest.fixture
def mine_url(mine: SizedMCP) -> Iterator[str]:
    with running(mine.app, grace=0) as url:
        yield f"{url}/json"


@pytest.fixture
def theirs() -> SizedMCP:
    """A server with a tool that the other one has not."""
    server = SizedMCP()
    server.tools = [tool("secret")]
    return server


@pytest.fixture
def theirs_url(theirs: SizedMCP) -> Iterator[str]:
    with running(theirs.app, grace=0) as url:
        yield f"{url}/json"


def outputs(answer: dict[str, Any]) -> list[str]:
    """What came of the calls, the bad ones first."""
    ended = [each for each in answer["tool_invocations"] if each["type"] != "tool_start"]
    return [each.get("error") or each["output"] for each in ended]


def refused_each(person: Person, model: ModelServer, *names: str) -> None:
    """See that the model is told that there are no such tools."""
    calls: list[tuple[str, Any]] = [(name, {"size": 1}) for name in names]
    model.will(Reply(calls=calls), Reply(text="I see."))
    answer = person.say("go")
    assert answer["response"] == "I see."
    told = outputs(answer)
    assert len(told) == len(names)
    assert all("There is no tool" in each for each in told)


def test_a_tool_of_somebody_elses_server_is_not_called(
    alice: Person, stage: Stage, model: ModelServer, mine_url: str, theirs: SizedMCP, theirs_url: str
) -> None:
    with Person(stage.url, f"{alice.name}-2") as bob:
        bob.connect(server={"url": theirs_url, "alias": "theirs"})
        alice.connect(server={"url": mine_url, "alias": "mine"})
        refused_each(alice, model, "theirs__secret", "mine__secret", "secret")
        assert theirs.calls == []
        model.will(Reply(calls=[("theirs__secret", {})]), Reply(text="Done."))
        assert outputs(bob.say("go")) == ["x"]
    usable(alice, model)


def test_a_tool_is_called_at_its_own_server_only(
    alice: Person,
    model: ModelServer,
    mine: SizedMCP,
    mine_url: str,
    theirs: SizedMCP,
    theirs_url: str,
) -> None:
    """Both servers are hers; a tool of one is asked for under the other's name."""
    alice.connect(
        servers=[{"url": mine_url, "alias": "mine"}, {"url": theirs_url, "alias": "theirs"}],
    )
    refused_each(alice, model, "mine__secret", "theirs__size")
    assert (mine.calls, theirs.calls) == ([], [])
    usable(alice, model)


def test_a_tool_of_a_server_that_was_removed_is_not_called(
    alice: Person, model: ModelServer, mine_url: str, theirs: SizedMCP, theirs_url: str
) -> None:
    alice.connect(servers=[{"url": mine_url, "alias": "mine"}, {"url": theirs_url, "alias": "theirs"}])
    model.will(Reply(calls=[("theirs__secret", {})]), Reply(text="Done."))
    assert outputs(alice.say("go")) == ["x"]
    assert alice.http.delete("/llmchat/servers/theirs").is_success
    refused_each(alice, model, "theirs__secret")
    assert len(theirs.calls) == 1
    usable(alice, model)


@pytest.mark.parametrize("ids", ["one id", "no ids", "ids of their own"])
def test_the_same_call_a_thousand_times_in_one_message_is_not_made_once(
    alice: Person, model: ModelServer, mine: SizedMCP, mine_url: str, ids: str
) -> None:
    alice.connect(server={"url": mine_url, "alias": "mine"})
    named: dict[str, list[str | None]] = {
        "one id": ["same"] * 1000,
        "no ids": [None] * 1000,
        "ids of their own": [f"c{n}" for n in range(1000)],
    }
    model.will(Reply(calls=[("mine__size", {"size": 1})] * 1000, call_ids=named[ids]))
    told = failed(alice, "go", streamed=True, status=503)
    assert f"more than {MOST} tool calls at once, and none was made" in told
    assert mine.calls == []
    usable(alice, model)


def test_the_same_call_a_thousand_times_in_a_row_is_made_as_often_as_there_are_rounds(
    alice: Person, model: ModelServer, mine: SizedMCP, mine_url: str
) -> None:
    alice.connect(server={"url": mine_url, "alias": "mine"})
    model.will(*[Reply(calls=[("mine__size", {"size": 1})], call_ids=["same"]) for _ in range(1000)])
    assert "again and again" in failed(alice, "go", streamed=True, status=503)
    assert len(mine.calls) == ROUNDS
    assert len(model.requests) <= ROUNDS + 1
    told = usable(alice, model)
    ids = [call["id"] for message in told for call in message.get("tool_calls") or ()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("same", [False, True], ids=["good ids", "one id"])
def test_a_hundred_calls_at_once_are_each_made_once_and_keep_to_their_places(
    alice: Person, model: ModelServer, mine: SizedMCP, mine_url: str, same: bool
) -> None:
    alice.connect(server={"url": mine_url, "alias": "mine"})
    calls: list[tuple[str, Any]] = [("mine__size", {"size": n, "seconds": 0.1}) for n in range(MOST)]
    model.will(
        Reply(calls=calls, call_ids=["same" if same else f"c{n}" for n in range(MOST)]), Reply(text="Done.")
    )
    answer = alice.say("go")
    assert answer["response"] == "Done."
    assert sorted(len(each) for each in outputs(answer)) == list(range(MOST))
    assert sorted(call["arguments"]["size"] for call in mine.calls) == list(range(MOST))
    assert mine.at_once == AT_SERVER
    told = well_formed(model.requests[1]["messages"])
    assert [len(m["content"]) for m in told if m["role"] == "tool"] == list(range(MOST))
    usable(alice, model)
