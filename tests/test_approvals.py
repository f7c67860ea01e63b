"""Whether a tool may be called is its user's decision, through HTTP."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.asked import SCHEMA, calls, decide, decided, grants, told, turn, waiting
from tests.faults import Stage, staged
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until
from tests.sized_mcp import SizedMCP, tool

CANARY = "only-for-the-server"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("approvals")


@pytest.fixture(scope="module")
def stage(folder: Path) -> Iterator[Stage]:
    with staged(folder, approvals=True, question_timeout=110, turn_timeout=110, tool_timeout=55) as stage:
        yield stage


@pytest.fixture
def model(stage: Stage) -> ModelServer:
    return stage.cleared()


@pytest.fixture
def alice(stage: Stage, name: str) -> Iterator[Person]:
    with Person(stage.url, name) as person:
        yield person


@pytest.fixture
def far() -> SizedMCP:
    """A server of the user's own."""
    far = SizedMCP()
    far.tools = [tool("size", inputSchema=SCHEMA), tool("wait", annotations={"readOnlyHint": True})]
    return far


@pytest.fixture
def far_url(far: SizedMCP) -> Iterator[str]:
    with running(far.app) as url:
        yield f"{url}/json"


@pytest.fixture
def here(alice: Person, far_url: str) -> Person:
    """Alice, connected to it."""
    alice.connect(servers=[{"url": far_url, "alias": "far"}])
    return alice


def ran(far: SizedMCP) -> list[Any]:
    """What the server was called with."""
    return [each.get("arguments") or {} for each in far.calls]


def deeds(folder: Path, user: str, action: str = "approve") -> list[tuple[Any, ...]]:
    """What the audit trail has."""
    with sqlite3.connect(folder / "chat.db") as database:
        return database.execute(
            "SELECT decision, by, tool, outcome FROM chat_deed WHERE user_key = ? AND action = ? "
            "ORDER BY seq",
            [user, action],
        ).fetchall()


# Asking


def test_a_call_waits_for_its_user_and_is_made_when_they_allow_it(
    here: Person, model: ModelServer, far: SizedMCP, folder: Path
) -> None:
    calls(model, ("far__size", {"size": 3}))
    with turn(here) as going:
        asked = going.approval()
        assert (asked["server"], asked["tool"], asked["name"]) == ("far", "far__size", "size")
        assert asked["arguments"] == {"size": 3}
        assert asked["decisions"] == ["once", "session", "always", "deny"]
        assert {"type": "approval", **waiting(here)[0]} == asked
        assert here.get(f"approvals/{asked['id']}").json() == {**waiting(here)[0], "schema": SCHEMA}
        assert far.calls == []
        answer = {"status": "answered", "approval_id": asked["id"], "decision": "once", "edited": False}
        assert decided(here, asked) == answer
        assert going.result() == "xxx"
    names = going.end()
    order = [names.index(name) for name in ("approval", "approval_end", "tool_start", "tool_end", "final")]
    assert order == sorted(order)
    [end] = going.of("approval_end")
    assert end == {"type": "approval_end", "id": asked["id"], "decision": "once", "edited": False}
    assert ran(far) == [{"size": 3}]
    assert waiting(here) == []
    assert here.get(f"approvals/{asked['id']}").status_code == 404
    assert deeds(folder, here.name) == [("allowed", "user", "far__size", "once")]
    assert deeds(folder, here.name, "call") == [("allowed", "user", "far__size", "succeeded")]


def test_a_denied_call_is_not_made_and_the_turn_goes_on(
    here: Person, model: ModelServer, far: SizedMCP, folder: Path
) -> None:
    calls(model, ("far__size", {"size": 3}), then="Then not.")
    with turn(here) as going:
        decided(here, going.approval(), "deny", reason="Use fewer.")
        assert going.result() == "The user denied this call. They said: Use fewer."
    assert going.of("final")[0]["content"] == "Then not."
    assert told(model) == ["The user denied this call. They said: Use fewer."]
    assert far.calls == []
    assert deeds(folder, here.name) == [("refused", "user", "far__size", "deny")]
    assert deeds(folder, here.name, "call") == [("refused", "user", "far__size", "denied")]


def test_a_servers_own_word_counts_for_nothing(here: Person, model: ModelServer, far: SizedMCP) -> None:
    """It calls `wait` read-only."""
    calls(model, ("far__wait", {}))
    with turn(here) as going:
        assert far.calls == []
        decided(here, going.approval())
    assert len(far.calls) == 1


def test_nobody_is_asked_about_a_call_that_cannot_be_made(
    here: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__none", {}), ("far__size", {"size": "3"}), ("far__size", "no json"))
    frames = here.stream("go")
    assert [name for name, _ in frames if name == "approval"] == []
    assert far.calls == []
    unknown, unfit, no_json = told(model)
    assert unknown.startswith("There is no tool 'far__none'.")
    assert "/size" in unfit
    assert "not valid JSON" in no_json


def test_time_does_not_run_and_no_place_is_taken_while_a_person_decides(
    tmp_path: Path, name: str, far: SizedMCP, far_url: str
) -> None:
    """The turn may take 10 seconds, and 4 calls of a server are made at a time."""
    with staged(tmp_path, approvals=True, turn_timeout=10) as stage, Person(stage.url, name) as alice:
        alice.connect(servers=[{"url": far_url, "alias": "far"}])
        calls(stage.model, *[("far__size", {"size": n % 9}) for n in range(20)])
        with turn(alice) as going:
            asked = going.approvals(20)
            threading.Event().wait(10.5)
            for each in reversed(asked):
                decided(alice, each)
    assert going.end()[-1] == "final"
    assert len(far.calls) == 20


def test_the_same_call_is_asked_about_each_time_unless_it_is_granted(
    here: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, *[("far__size", {"size": 1})] * 20)
    with turn(here) as going:
        first, second, *others = going.approvals(20)
        decided(here, first)
        decided(here, second, "deny")
        wait_until(lambda: len(far.calls) == 1, "the one call")
        assert len(waiting(here)) == 18
        assert decided(here, others[0], "session")["decision"] == "session"  # and so are the other calls
    assert len(far.calls) == 19
    assert [each["decision"] for each in going.of("approval_end")].count("session") == 18


def test_asks_of_one_turn_are_answered_in_any_order(here: Person, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 1}), ("far__size", {"size": 2}), ("far__wait", {}))
    with turn(here) as going:
        one, two, three = sorted(going.approvals(3), key=lambda each: json.dumps(each["arguments"]))[::-1]
        decided(here, three)
        decided(here, two, "deny")
        decided(here, one)
    assert going.end()[-1] == "final"
    assert len(far.calls) == 2


def test_a_stop_ends_what_is_asked(here: Person, model: ModelServer, far: SizedMCP, folder: Path) -> None:
    calls(model, ("far__size", {"size": 1}), ("far__wait", {}))
    with turn(here) as going:
        asked = going.approvals(2)
        assert here.post("cancel").json()["status"] == "cancelled"
    assert [each["decision"] for each in going.of("approval_end")] == ["cancelled"] * 2
    assert going.of("final")[0]["stopped"] is True
    assert [decide(here, each).status_code for each in asked] == [410, 410]
    assert waiting(here) == []
    assert far.calls == []
    assert {outcome for *_, outcome in deeds(folder, here.name)} == {"cancelled"}


def test_what_nobody_decides_expires(tmp_path: Path, name: str, far: SizedMCP, far_url: str) -> None:
    with staged(tmp_path, approvals=True, question_timeout=0.5) as stage, Person(stage.url, name) as alice:
        alice.connect(servers=[{"url": far_url, "alias": "far"}])
        calls(stage.model, ("far__size", {"size": 1}), then="Then not.")
        with turn(alice) as going:
            asked = going.approval()
            assert "did not answer in time" in going.result()
        assert going.of("final")[0]["content"] == "Then not."
        assert going.of("approval_end")[0]["decision"] == "expired"
        assert decide(alice, asked).status_code == 410
        assert far.calls == []
        metrics = alice.http.get("/metrics").text
        assert 'mcp_chat_approvals_total{decision="expired"} 1.0' in metrics
        assert 'mcp_chat_approvals_total{decision="always"} 0.0' in metrics


def test_with_approvals_off_everything_allowed_runs(
    tmp_path: Path, name: str, far: SizedMCP, far_url: str
) -> None:
    with staged(tmp_path, approvals=False) as stage, Person(stage.url, name) as alice:
        alice.connect(servers=[{"url": far_url, "alias": "far"}])
        calls(stage.model, ("far__size", {"size": 1}))
        assert "approval" not in [event for event, _ in alice.stream("go")]
        assert len(far.calls) == 1


# Answering


def test_a_decision_counts_once(here: Person, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        asked = going.approval()
        decided(here, asked)
        decided(here, asked)
        other = decide(here, asked, "deny")
        assert (other.status_code, other.json()["code"]) == (409, "answered_already")
        assert decide(here, asked, arguments={"size": 2}).status_code == 409
    decided(here, asked)
    assert decide(here, asked, "always").status_code == 409
    assert len(far.calls) == 1
    assert grants(here) == []


def test_of_two_decisions_at_the_same_time_one_holds(here: Person, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going, ThreadPoolExecutor(8) as people:
        asked = going.approval()
        many = ["deny", "once", "session", "always"] * 4
        answers = list(people.map(lambda each: decide(here, asked, each).status_code, many))
        won = {decision for decision, status in zip(many, answers, strict=True) if status == 200}
        assert len(won) == 1
        assert set(answers) <= {200, 409}
    assert len(far.calls) == (0 if won == {"deny"} else 1)
    assert [each["kind"] for each in grants(here)] == [each for each in won if each in ("session", "always")]


def test_another_users_call_does_not_exist(
    here: Person, stage: Stage, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going, Person(stage.url, f"{here.name}-b") as bob:
        asked = going.approval()
        assert waiting(bob) == []
        assert bob.get(f"approvals/{asked['id']}").status_code == 404
        theirs, none = decide(bob, asked), decide(bob, {"id": "nothing"})
        assert (theirs.status_code, theirs.json()) == (none.status_code, none.json())
        assert theirs.status_code == 404
        assert far.calls == []
        decided(here, asked, "always")
        going.result()
        [grant] = grants(here)
        assert grants(bob) == []
        assert bob.http.delete(f"/llmchat/approvals/grants/{grant['id']}").status_code == 404
        assert bob.http.delete("/llmchat/approvals/grants").json()["count"] == 0
    assert grants(here) == [grant]


def test_a_decision_is_for_one_call_whatever_others_look_like(
    here: Person, model: ModelServer, far: SizedMCP
) -> None:
    model.will(*[Reply(calls=[("far__size", {"size": 1})])] * 2, Reply(text="Fine."))
    with turn(here) as going:
        first = going.approval()
        decided(here, first)
        second = going.approval(1)
        decided(here, first)  # again, and for nothing
        assert first["id"] != second["id"]
        assert [each["id"] for each in waiting(here)] == [second["id"]]
        assert len(far.calls) == 1
        decided(here, second, "deny")
    assert len(far.calls) == 1


def test_a_servers_question_is_no_call_and_a_call_is_no_question(here: Person, model: ModelServer) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        asked = going.approval()
        assert here.get("questions").json()["count"] == 0
        assert here.post(f"questions/{asked['id']}", action="accept").status_code == 404
        decided(here, asked, "deny")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"decision": "deny", "arguments": {"size": 1}}, ["body", "arguments"]),
        ({"decision": "once", "reason": "because"}, ["body", "reason"]),
        ({"decision": "once", "arguments": {"size": 10}}, ["body", "arguments", "size"]),
        ({"decision": "once", "arguments": {}}, ["body", "arguments"]),
        ({"decision": "once", "arguments": []}, ["body", "arguments"]),
        ({"decision": "perhaps"}, ["body", "decision"]),
        ({"decision": "once", "more": 1}, ["body", "more"]),
        ({}, ["body", "decision"]),
    ],
)
def test_what_is_no_decision_is_refused_with_its_place(
    here: Person, model: ModelServer, far: SizedMCP, body: dict[str, Any], place: list[str]
) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        asked = going.approval()
        response = here.http.post(f"/llmchat/approvals/{asked['id']}", json=body)
        assert response.status_code == 422, response.text
        assert response.json()["errors"][0]["loc"] == place
        assert len(waiting(here)) == 1
        decided(here, asked, "deny")
    assert far.calls == []


def test_arguments_without_end_are_refused(here: Person, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        asked = going.approval()
        deep = '{"to":' * 200 + "{}" + "}" * 200
        content = f'{{"decision": "once", "arguments": {deep}}}'
        headers = {"content-type": "application/json"}
        response = here.http.post(f"/llmchat/approvals/{asked['id']}", content=content, headers=headers)
        assert response.status_code == 422
        decided(here, asked, "deny")
    assert far.calls == []


# Changed arguments


def test_changed_arguments_run_as_they_were_changed_and_everybody_is_told(
    here: Person, model: ModelServer, far: SizedMCP, folder: Path
) -> None:
    calls(model, ("far__size", {"size": 3}))
    with turn(here) as going:
        changed = {"size": 2, "to": {"whom": CANARY}}
        assert decided(here, going.approval(), arguments=changed)["edited"] is True
        going.result()
    assert ran(far) == [changed]
    assert going.of("tool_start")[0]["input"] == changed
    assert going.of("approval_end")[0]["edited"] is True
    [result] = told(model)
    assert result.startswith("[The user changed the arguments of this call before allowing it.")
    assert CANARY in result
    assert result.endswith("\nxx")
    asked = model.requests[-1]["messages"][-2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(asked) == {"size": 3}
    [message] = [each for each in here.history() if each["role"] == "tool"]
    record = here.get(f"sessions/{here.get('config/{me}').json()['session_id']}/messages").json()["messages"]
    [kept] = [each for each in record if each["role"] == "tool"]
    assert kept["metadata"]["approval"] == {"decision": "once", "edited": True, "arguments": changed}
    assert message["content"] == result
    assert deeds(folder, here.name) == [("allowed", "user", "far__size", "once_edited")]
    with sqlite3.connect(folder / "chat.db") as database:
        trail = database.execute("SELECT * FROM chat_deed").fetchall()
    assert CANARY not in str(trail)


def test_arguments_that_were_not_changed_are_not_called_so(here: Person, model: ModelServer) -> None:
    calls(model, ("far__size", {"size": 3}))
    with turn(here) as going:
        assert decided(here, going.approval(), arguments={"size": 3})["edited"] is False
        assert going.result() == "xxx"
    assert told(model) == ["xxx"]


# Grants


def test_a_session_grant_is_for_its_conversation(here: Person, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        decided(here, going.approval(), "session")
    [grant] = grants(here)
    assert (grant["kind"], grant["tool"]) == ("session", "far__size")
    calls(model, ("far__size", {"size": 2}))
    assert "approval" not in [name for name, _ in here.stream("again")]
    assert ran(far) == [{"size": 1}, {"size": 2}]
    other = here.http.post("/llmchat/sessions", json={"name": "other"}).json()["session_id"]
    calls(model, ("far__size", {"size": 3}))
    with turn(here, session_id=other) as going:
        assert going.approval()["session_id"] == other
        assert waiting(here, f"?session_id={grant['session_id']}") == []
        decided(here, going.approval(), "deny")
    assert here.http.delete(f"/llmchat/sessions/{grant['session_id']}").status_code == 200
    assert grants(here) == []


def test_a_grant_for_good_outlives_a_connection_and_is_taken_back(
    here: Person, model: ModelServer, far: SizedMCP, far_url: str, folder: Path
) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        decided(here, going.approval(), "always")
    here.post("disconnect")
    here.connect(servers=[{"url": far_url, "alias": "far"}])
    calls(model, ("far__size", {"size": 2}))
    assert "approval" not in [name for name, _ in here.stream("again")]
    assert deeds(folder, here.name, "call")[-1] == ("allowed", "grant", "far__size", "succeeded")
    calls(model, ("far__wait", {}))  # which is another tool
    with turn(here) as going:
        decided(here, going.approval(), "deny")
    [grant] = grants(here)
    assert (grant["kind"], grant["session_id"]) == ("always", None)
    gone = here.http.delete(f"/llmchat/approvals/grants/{grant['id']}")
    assert gone.json() == {"status": "revoked", "grant_id": grant["id"]}
    assert here.http.delete(f"/llmchat/approvals/grants/{grant['id']}").status_code == 404
    assert grants(here) == []
    assert deeds(folder, here.name)[-1] == ("refused", "user", "far__size", "revoked")
    calls(model, ("far__size", {"size": 3}))
    with turn(here) as going:
        decided(here, going.approval(), "deny")
    assert ran(far) == [{"size": 1}, {"size": 2}]


def test_all_grants_are_taken_back_at_once_and_go_with_their_server(
    here: Person, model: ModelServer, far_url: str
) -> None:
    calls(model, ("far__size", {"size": 1}), ("far__wait", {}))
    for again in (False, True):
        with turn(here) as going:
            for each in going.approvals(2):
                decided(here, each, "always")
        assert len(grants(here)) == 2
        if not again:
            assert here.http.delete("/llmchat/approvals/grants").json() == {"status": "revoked", "count": 2}
            assert grants(here) == []
            calls(model, ("far__size", {"size": 1}), ("far__wait", {}))
    assert here.http.delete("/llmchat/servers/far").status_code == 200
    assert grants(here) == []


def test_a_grant_does_not_hold_for_another_definition(
    here: Person, model: ModelServer, far: SizedMCP
) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        decided(here, going.approval(), "always")
    changed(here, far, description="It sends them somewhere now.")
    calls(model, ("far__size", {"size": 2}))
    with turn(here) as going:
        decided(here, going.approval(), "deny")
    assert ran(far) == [{"size": 1}]


def test_a_grant_does_not_hold_elsewhere(
    here: Person, model: ModelServer, far: SizedMCP, far_url: str
) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        decided(here, going.approval(), "always")
    with running(SizedMCP().app) as other:
        here.connect(servers=[{"url": f"{other}/json", "alias": "far"}, {"url": far_url, "alias": "near"}])
        calls(model, ("far__size", {"size": 2}), ("near__size", {"size": 2}))
        with turn(here) as going:
            for each in going.approvals(2):
                decided(here, each, "deny")
    assert ran(far) == [{"size": 1}]


# Changes while somebody decides


def reopened(person: Person) -> None:
    """Have the server list its tools anew."""
    for on in (False, True):
        assert person.http.patch("/llmchat/servers/far", json={"enabled": on}).status_code == 200
    wait_until(
        lambda: [each["state"] for each in person.get("servers").json()["connected"]] == ["open"],
        "it is open",
    )


def changed(person: Person, far: SizedMCP, **definition: Any) -> None:
    """Have the server change a tool, and its user accept that."""
    far.tools[0] = {**far.tools[0], **definition}
    reopened(person)
    [held] = [each for each in person.get("servers/far/tools").json()["tools"] if each["held"]]
    accepted = {"accept": {"size": held["change"]["hash"]}}
    assert person.http.patch("/llmchat/servers/far/tools", json=accepted).status_code == 200


MUTATIONS: list[dict[str, Any]] = [
    {"title": "Size"},
    {"description": "Another one."},
    {"inputSchema": {**SCHEMA, "properties": {}}},
    {"outputSchema": {"type": "object"}},
    {"annotations": {"readOnlyHint": True}},
    {"_meta": {"a": 1}},
    {"icons": [{"src": "https://s.example/i.png"}]},
    {"neverHeardOf": None},
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: next(iter(each)))
@pytest.mark.parametrize("accepted", [False, True])
def test_a_call_of_a_tool_that_changed_since_is_refused(
    here: Person, model: ModelServer, far: SizedMCP, mutation: dict[str, Any], accepted: bool
) -> None:
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        asked = going.approval()
        if accepted:
            changed(here, far, **mutation)
        else:
            far.tools[0] = {**far.tools[0], **mutation}
            reopened(here)
        decided(here, asked)
        assert "changed the tool 'far__size'" in going.result()
    assert going.end()[-1] == "final"
    assert far.calls == []


def test_a_call_of_a_tool_that_is_gone_is_refused(here: Person, model: ModelServer, far: SizedMCP) -> None:
    calls(model, ("far__size", {"size": 1}), ("far__wait", {}))
    with turn(here) as going:
        asked = going.approvals(2)
        del far.tools[0]
        reopened(here)
        assert (
            here.http.patch("/llmchat/servers/far/tools", json={"enabled": {"wait": False}}).status_code
            == 200
        )
        for each in asked:
            decided(here, each)
    errors = sorted(each["error"] for each in going.of("tool_error"))
    assert errors[0] == "The user has switched the tool 'far__wait' off."
    assert errors[1].startswith("There is no tool 'far__size'.")
    assert far.calls == []


# What may be done without asking


def policies(person: Person, alias: str = "far") -> dict[str, str]:
    """What may be done with a server's tools."""
    return {each["name"]: each["policy"] for each in person.get(f"servers/{alias}/tools").json()["tools"]}


def rule(person: Person, alias: str = "far", **policy: str) -> Any:
    """Change what may be done."""
    return person.http.patch(f"/llmchat/servers/{alias}/tools", json={"policy": policy})


def offered(model: ModelServer) -> list[str]:
    """The tools that the model was offered last."""
    return [each["function"]["name"] for each in model.requests[-1].get("tools", ())]


def test_a_user_sees_and_changes_what_may_be_done(
    here: Person, model: ModelServer, far: SizedMCP, folder: Path
) -> None:
    assert policies(here) == {"size": "ask", "wait": "ask"}
    assert rule(here, size="allow", wait="deny").status_code == 200
    assert policies(here) == {"size": "allow", "wait": "deny"}
    calls(model, ("far__size", {"size": 1}), ("far__wait", {}))
    assert "approval" not in [name for name, _ in here.stream("go")]
    assert offered(model) == ["far__size"]
    assert told(model) == ["x", "The tool 'far__wait' may not be called here."]
    assert ran(far) == [{"size": 1}]
    assert rule(here, size="ask", wait="ask").status_code == 200
    assert policies(here) == {"size": "ask", "wait": "ask"}
    assert grants(here) == []
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        decided(here, going.approval(), "deny")
    outcomes = [(tool, outcome) for _, _, tool, outcome in deeds(folder, here.name)]
    assert outcomes[:4] == [("size", "allow"), ("wait", "deny"), ("size", "ask"), ("wait", "ask")]


def test_what_cannot_be_allowed_is_refused(here: Person, far: SizedMCP) -> None:
    assert rule(here, none="allow").status_code == 400
    assert rule(here, size="perhaps").status_code == 422
    far.tools[0] = tool("size", description="Another one.")
    reopened(here)
    assert "Accept the change" in rule(here, size="allow").json()["detail"]
    assert policies(here)["size"] == "ask"


def test_a_user_allows_for_good_only_what_stays_as_it_is(
    here: Person, model: ModelServer, far: SizedMCP
) -> None:
    assert rule(here, size="allow").status_code == 200
    changed(here, far, description="It sends them somewhere now.")
    assert policies(here)["size"] == "ask"
    calls(model, ("far__size", {"size": 1}))
    with turn(here) as going:
        decided(here, going.approval(), "deny")
    assert far.calls == []


@pytest.fixture
def operators(tmp_path: Path, name: str) -> Iterator[Any]:
    """Make a person in front of an application whose operator offers the server, with some rules."""
    far = SizedMCP()
    far.tools = [
        tool(each, annotations={"readOnlyHint": each.startswith("search")})
        for each in ("search_a", "search_b", "delete_all", "DELETE_ALL", "dеlete_one", "send")
    ]

    with running(far.app) as url:

        def make(approvals: bool = True, **server: Any) -> Any:
            return staged_with(tmp_path, name, far, f"{url}/json", approvals=approvals, **server)

        yield make


class Shop:
    """An application with an operator's server, and someone in front of it."""

    def __init__(self, stage: Stage, person: Person, far: SizedMCP) -> None:
        self.model, self.person, self.far = stage.model, person, far


def staged_with(folder: Path, name: str, far: SizedMCP, url: str, *, approvals: bool, **server: Any) -> Any:
    """Run one whose operator lists the server."""
    from contextlib import contextmanager

    @contextmanager
    def run() -> Iterator[Shop]:
        listed = folder / "listed.json"
        listed.write_text(json.dumps({"mcpServers": {"far": {"url": url, **server}}}))
        with (
            staged(folder, approvals=approvals, servers_file=listed) as stage,
            Person(stage.url, name) as person,
        ):
            person.connect(servers=[{"name": "far"}])
            yield Shop(stage, person, far)

    return run()


def test_the_operators_rules_hold_the_most_exact_one_first(operators: Any) -> None:
    rules = {"*": "ask", "search_*": "allow", "search_b": "deny", "delete_*": "deny"}
    with operators(tools=rules) as shop:
        assert policies(shop.person) == {
            "search_a": "allow",
            "search_b": "deny",
            "delete_all": "deny",
            "DELETE_ALL": "deny",  # which looks like it
            "dеlete_one": "ask",
            "send": "ask",
        }
        calls(shop.model, ("far__search_a", {}), ("far__search_b", {}), ("far__send", {}))
        with turn(shop.person) as going:
            decided(shop.person, going.approvals(1)[0], "deny")
        assert not any("search_b" in name or "delete_all" in name.lower() for name in offered(shop.model))
        assert [each["name"] for each in shop.far.calls] == ["search_a"]
        assert rule(shop.person, search_b="allow").status_code == 400
        assert rule(shop.person, send="deny", search_a="ask").status_code == 200
        assert policies(shop.person)["send"] == "deny"
        calls(shop.model, ("far__search_a", {}))
        with turn(shop.person) as going:
            decided(shop.person, going.approval())


def test_a_name_that_only_looks_plain_is_not_allowed_by_a_rule(operators: Any) -> None:
    with operators(tools={"*": "allow", "delete_*": "deny"}) as shop:
        found = policies(shop.person)
        assert (found["send"], found["dеlete_one"], found["DELETE_ALL"]) == ("allow", "ask", "deny")


def test_what_the_operator_denies_is_denied_with_approvals_off(operators: Any) -> None:
    with operators(approvals=False, tools={"delete_*": "deny"}) as shop:
        calls(shop.model, ("far__delete_all", {}), ("far__send", {}))
        shop.person.say("go")
        assert "far__delete_all" not in offered(shop.model)
        assert [each["name"] for each in shop.far.calls] == ["send"]


def test_tools_that_the_operator_declared_read_only_do_not_ask(operators: Any) -> None:
    with operators(safe_tools=["send"], trust_read_only=True) as shop:
        found = policies(shop.person)
        assert (found["send"], found["search_a"], found["delete_all"]) == ("allow", "allow", "ask")
        calls(shop.model, ("far__send", {}), ("far__search_a", {}))
        assert "approval" not in [name for name, _ in shop.person.stream("go")]
        assert len(shop.far.calls) == 2


def test_the_operator_may_want_each_call_to_be_asked_about(operators: Any) -> None:
    with operators(always=False) as shop:
        calls(shop.model, ("far__send", {}))
        with turn(shop.person) as going:
            asked = going.approval()
            assert asked["decisions"] == ["once", "session", "deny"]
            refused = decide(shop.person, asked, "always")
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["loc"] == ["body", "decision"]
            decided(shop.person, asked)
        assert "operator" in rule(shop.person, send="allow").json()["detail"]


def test_tools_that_look_alike_are_told_apart(here: Person, model: ModelServer, far: SizedMCP) -> None:
    far.tools = [tool("pay"), tool("pаy"), tool("PAY"), tool("pay\u200b")]
    reopened(here)
    found = here.get("servers/far/tools").json()["tools"]
    names = [each["shown_as"] for each in found]
    assert len(set(names)) == 4
    calls(model, *[(name, {}) for name in names])
    with turn(here) as going:
        asked = {each["tool"]: each for each in going.approvals(4)}
        decided(here, asked["far__pay"], "always")
        assert len(waiting(here)) == 3
        for name in names[1:]:
            decided(here, asked[name], "deny")
    assert [each["name"] for each in far.calls] == ["pay"]


def test_a_call_that_waits_for_its_place_goes_where_its_user_has_allowed_it(
    serve: Any, name: str, model: ModelServer, far: SizedMCP, far_url: str
) -> None:
    near, other = SizedMCP(), SizedMCP()
    near.tools, other.tools = [tool("wait")], list(far.tools)
    near.hold = threading.Event()
    url = serve(approvals=True, parallel_calls=1, tool_timeout=55, turn_timeout=110)
    with running(near.app) as near_url, running(other.app) as other_url, Person(url, name) as alice:
        servers = [{"url": far_url, "alias": "far"}, {"url": f"{near_url}/json", "alias": "near"}]
        alice.connect(servers=servers)
        calls(model, ("near__wait", {}), ("far__size", {"size": 1}))
        with turn(alice) as going:
            by_tool = {each["tool"]: each for each in going.approvals(2)}
            decided(alice, by_tool["near__wait"])
            wait_until(lambda: len(near.calls) == 1, "the first call")
            decided(alice, by_tool["far__size"])
            assert alice.http.delete("/llmchat/servers/far").status_code == 200
            added = alice.http.post("/llmchat/servers", json={"url": f"{other_url}/json", "alias": "far"})
            assert added.status_code < 300, added.text
            near.hold.set()
    assert (far.calls, other.calls) == ([], [])
