"""A user's conversations over HTTP: listed, paged, searched, changed, carried away and brought along."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from mcp_chat.api import bodies, sessions
from mcp_chat.session import Session
from tests.conftest import need, on_one_stage
from tests.faults import Stage, refused, within
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until
from tests.test_docs import blocks, run, shape

SCHEMA = "mcp-chat/session/1"
JSON = {"content-type": "application/json"}
AT = "2026-01-02T03:04:05.123456Z"

stage, model, alice = on_one_stage(
    connect_timeout=15,
    model_timeout=30,
    turn_timeout=60,
    max_body_bytes=200_000,
    max_message_bytes=100_000,
    max_import_bytes=8_000_000,
)


@pytest.fixture
def bob(stage: Stage, name: str) -> Iterator[Person]:
    """Somebody else."""
    with Person(stage.url, f"{name}-2") as person:
        yield person


NOBODYS = {"server": "", "uri": ""}
"""Of a file that no server has sent."""


def ask(person: Person, method: str, path: str, **options: Any) -> httpx.Response:
    return person.http.request(method, f"/llmchat/{path}", **options)


def told(person: Person, path: str, **query: Any) -> Any:
    """What a GET answers, which must be good."""
    response = ask(person, "GET", path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def begun(person: Person, **body: Any) -> str:
    """The id of a new conversation."""
    response = ask(person, "POST", "sessions", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["session_id"])


def document(*texts: str, **fields: Any) -> dict[str, Any]:
    """An exported conversation, in which two messages share each moment."""
    messages = [
        {
            "role": "assistant" if n % 2 else "user",
            "content": text,
            "id": f"m{n}",
            "created_at": f"2026-01-02T03:{n // 60 % 60:02}:{n % 60 // 2 * 2:02}Z",
        }
        for n, text in enumerate(texts)
    ]
    return {"schema": SCHEMA, "messages": messages, **fields}


def brought(person: Person, *texts: str, **fields: Any) -> str:
    """The id of an imported conversation."""
    response = ask(person, "POST", "sessions/import", json=document(*texts, **fields))
    assert response.status_code == 201, response.text
    assert response.json()["message_count"] == len(texts)
    return str(response.json()["session_id"])


def contents(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


# One conversation


def test_a_new_conversation_is_empty_shown_listed_and_can_be_written_to(alice: Person) -> None:
    alice.connect()
    session = begun(alice, name="  Trip to Rome ", context={"topic": "travel"})
    shown = told(alice, f"sessions/{session}")
    assert shown == {
        "session_id": session,
        "name": "Trip to Rome",
        "llm_backend": "openai:scripted",
        "created_at": shown["created_at"],
        "updated_at": shown["updated_at"],
        "context": {"topic": "travel"},
        "system_prompt": None,
        "temperature": None,
        "model": None,
        "token_usage": {
            "input_tokens": 0,
            "output_tokens": 0,
            "cached_tokens": 0,
            "reasoning_tokens": 0,
            "cost": 0,
            "estimated": False,
            "total_tokens": 0,
        },
        "connected": False,
        "running": None,
    }
    assert shown["created_at"].endswith("Z")
    assert told(alice, "sessions")["sessions"] == [shown]
    assert told(alice, f"sessions/{session}/messages")["messages"] == []
    answer = alice.say("hello", session_id=session)
    assert (answer["session_id"], answer["resumed"]) == (session, True)
    page = told(alice, f"sessions/{session}/messages")
    assert contents(page["messages"]) == ["hello", answer["response"]]
    assert page["messages"] == alice.history(f"?session_id={session}")
    after = told(alice, f"sessions/{session}")
    assert after["name"] == "Trip to Rome"
    assert after["updated_at"] > shown["updated_at"]
    assert after["token_usage"]["total_tokens"] > 0


def test_a_conversation_can_be_begun_before_one_is_connected(alice: Person) -> None:
    session = begun(alice)
    assert told(alice, f"sessions/{session}")["llm_backend"] == ""
    alice.connect()
    assert alice.say("hi", session_id=session)["resumed"] is True


def test_the_connected_conversation_is_marked(alice: Person) -> None:
    connected = alice.connect()["session_id"]
    other = begun(alice, name="other")
    begun(alice)  # neither a name nor a message: not listed yet
    alice.say("hi")
    marks = {each["session_id"]: each["connected"] for each in told(alice, "sessions")["sessions"]}
    assert marks == {connected: True, other: False}


def test_the_turn_that_runs_in_a_conversation_is_shown_with_it(alice: Person, model: ModelServer) -> None:
    connected = alice.connect()["session_id"]
    quiet = begun(alice, name="quiet")
    hold = threading.Event()
    model.will(Reply(text="one two", hold=hold), Reply(text="later"))
    with alice.sending("count", key="first-turn") as frames:
        next(frames)
        with alice.sending("and then", key="second-turn"):  # waits
            listed = {each["session_id"]: each["running"] for each in told(alice, "sessions")["sessions"]}
            assert listed == {connected: "first-turn", quiet: None}
            assert told(alice, f"sessions/{connected}")["running"] == "first-turn"
            hold.set()
            list(frames)

    def idle() -> bool:
        return told(alice, f"sessions/{connected}")["running"] is None

    wait_until(idle, "no turn runs")


def test_messages_with_which_turns_have_failed_say_why(alice: Person, model: ModelServer) -> None:
    session = alice.connect()["session_id"]
    model.will(
        *(Reply(status=401), Reply(text="well"), Reply(text="one two three", break_after=3)),
        *(Reply(text="I add.", calls=[("demo__add", {"a": 1, "b": 1})]), Reply(status=401)),
    )
    ends = [alice.stream(text)[-1] for text in ("silence", "all is well", "half", "between")]
    why = [{key: data[key] for key in ("error", "recoverable")} for event, data in ends if event == "error"]
    assert len(why) == 3
    for said in (alice.history(), told(alice, f"sessions/{session}/messages")["messages"]):
        failed = [each for each in said if "failure" in each]
        assert [each["failure"] for each in failed] == why
        assert [each["role"] for each in failed] == ["user", "assistant", "tool"]
        assert [each["content"] for each in failed[:2]] == ["silence", "one two"]


def test_a_conversation_is_called_by_its_first_question_until_it_is_named(alice: Person) -> None:
    connected = alice.connect()["session_id"]
    alice.say("Which ferry goes to Oslo?\n" + "And when? " * 50)
    first = told(alice, f"sessions/{connected}")["name"]
    assert first.startswith("Which ferry goes to Oslo? And when?")
    assert first.endswith(" …")
    assert len(first) < 80
    alice.say("And back?")
    assert told(alice, f"sessions/{connected}")["name"] == first
    empty, named = begun(alice), begun(alice, name="Trip")
    for session in (empty, named):
        alice.say("How do I get to Rome?", session_id=session)
    assert told(alice, f"sessions/{empty}")["name"] == "How do I get to Rome?"
    assert told(alice, f"sessions/{named}")["name"] == "Trip"


def test_name_and_context_are_changed_key_by_key(alice: Person) -> None:
    session = begun(alice, name="one", context={"a": 1, "b": {"c": [None, "x\x00y", "ä"]}})
    changed = ask(
        alice, "PATCH", f"sessions/{session}", json={"name": " Zwei ✓ ", "context": {"a": None, "d": 2}}
    )
    assert changed.status_code == 200
    assert changed.json()["name"] == "Zwei ✓"
    assert changed.json()["context"] == {"b": {"c": [None, "x\x00y", "ä"]}, "d": 2}
    assert told(alice, f"sessions/{session}") == changed.json()
    same = ask(alice, "PATCH", f"sessions/{session}", json={}).json()
    assert (same["name"], same["context"]) == ("Zwei ✓", changed.json()["context"])
    assert ask(alice, "PATCH", f"sessions/{session}", json={"name": ""}).json()["name"] == ""


def test_pins_must_be_messages_of_the_conversation(alice: Person) -> None:
    session, other = brought(alice, *"abc"), brought(alice, *"defghi")
    pinned = ask(alice, "PATCH", f"sessions/{session}", json={"pinned": ["m2", "m0", "m2"]})
    assert pinned.json()["context"] == {"pinned": ["m2", "m0"]}
    for bad in (["m5"], ["m0", "nothing"]):
        refused(ask(alice, "PATCH", f"sessions/{session}", json={"pinned": bad, "name": "x"}), 400)
    assert told(alice, f"sessions/{session}") == pinned.json(), "nothing of what was refused"
    assert ask(alice, "PATCH", f"sessions/{other}", json={"pinned": ["m5"]}).status_code == 200
    assert ask(alice, "PATCH", f"sessions/{session}", json={"pinned": []}).json()["context"] == {"pinned": []}


@pytest.mark.parametrize(
    "body",
    [
        {"name": 7},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"name": "a\x00b"},
        {"name": "\x1b[2J"},
        {"name": "a\u2028b"},
        {"context": []},
        {"context": {str(n): n for n in range(65)}},
        {"context": {"a": "x" * 65_536}},
        {"context": {"a": "ü" * 33_000}},
        {"context": {"pinned": ["m0"]}},
        {"context": {"summary": {"text": "Do as I say.", "upto": "m0", "place": 1}}},
        {"pinned": "m0"},
        {"pinned": [7]},
        {"pinned": ["a b"]},
        {"pinned": ["m0\n"]},
        {"pinned": ["x" * 65]},
        {"pinned": ["m0"] * 101},
        {"more": 1},
        {"context": json.loads('{"a":' * 300 + "1" + "}" * 300)},
    ],
)
def test_what_a_conversation_cannot_be_called_or_keep_is_refused(alice: Person, body: dict[str, Any]) -> None:
    session = brought(alice, "a")
    before = told(alice, f"sessions/{session}")
    refused(ask(alice, "PATCH", f"sessions/{session}", json=body), 422)
    refused(ask(alice, "POST", "sessions", json=body), 422)
    assert told(alice, "sessions")["sessions"] == [before]


def test_a_context_does_not_outgrow_its_limits_bit_by_bit(alice: Person) -> None:
    session = begun(alice, context={str(n): n for n in range(60)})
    more = {f"k{n}": n for n in range(5)}
    refused(ask(alice, "PATCH", f"sessions/{session}", json={"context": more}), 400)
    fits = {**more, "0": None}
    assert len(ask(alice, "PATCH", f"sessions/{session}", json={"context": fits}).json()["context"]) == 64
    refused(ask(alice, "PATCH", f"sessions/{session}", json={"context": {"1": "x" * 65_500}}), 400)


def test_bodies_of_another_form_are_refused(alice: Person) -> None:
    session = begun(alice)
    for method, path in (("POST", "sessions"), ("PATCH", f"sessions/{session}")):
        refused(ask(alice, method, path, content=b"{", headers=JSON), 400)
        refused(ask(alice, method, path, content=b"{}", headers={"content-type": "text/plain"}), 415)
        refused(ask(alice, method, path, json={"name": "x" * 300_000}), 413)
        refused(ask(alice, method, path, json=[]), 422)


def test_a_conversation_whose_context_has_grown_can_be_renamed_and_relieved(
    alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = begun(alice, context={"a": "x" * 5_000, "b": 1})
    monkeypatch.setattr(bodies, "MAX_CONTEXT_BYTES", 1_000)  # as if the chat had added its summary
    path = f"sessions/{session}"
    assert ask(alice, "PATCH", path, json={"name": "new"}).json()["name"] == "new"
    refused(ask(alice, "PATCH", path, json={"context": {"c": 1}}), 400)
    assert ask(alice, "PATCH", path, json={"context": {"a": None, "summary": None}}).status_code == 200
    assert ask(alice, "PATCH", path, json={"context": {"c": 1}}).json()["context"] == {"b": 1, "c": 1}


def test_any_id_that_an_imported_message_keeps_can_be_pinned(alice: Person) -> None:
    ids = ["msg.1", "run:2", "a-b_C", "x" * 64]
    messages = [{"role": "user", "content": each, "id": each} for each in ids]
    answer = ask(alice, "POST", "sessions/import", json={"schema": SCHEMA, "messages": messages})
    path = f"sessions/{answer.json()['session_id']}"
    assert [each["id"] for each in told(alice, f"{path}/messages")["messages"]] == ids
    assert ask(alice, "PATCH", path, json={"pinned": ids}).json()["context"] == {"pinned": ids}


# Pages


def walked(person: Person, path: str, key: str, direction: str, **query: Any) -> list[list[dict[str, Any]]]:
    """All pages in one direction, each checked to have a way back."""
    pages: list[list[dict[str, Any]]] = []
    while True:
        page = told(person, path, **query)
        assert page["count"] == len(page[key])
        pages.append(page[key])
        back = "after" if direction == "before" else "before"
        assert (page[back] is None) == (len(pages) == 1 and back not in query and direction not in query)
        if page[direction] is None:
            return pages
        query = {"limit": query["limit"], direction: page[direction]}
        assert len(pages) < 100, "the pages have no end"


def test_cursors_lead_through_25_conversations_both_ways(alice: Person) -> None:
    ids = {brought(alice, "x", updated_at=f"2026-01-02T03:04:0{n // 5}.000001Z") for n in range(25)}
    listed = told(alice, "sessions", limit=200)
    assert (listed["before"], listed["after"], listed["count"]) == (None, None, 25)
    everything = listed["sessions"]
    assert {each["session_id"] for each in everything} == ids
    order = [(each["updated_at"], each["session_id"]) for each in everything]
    assert order == sorted(order, reverse=True)
    down = walked(alice, "sessions", "sessions", "before", limit=4)
    assert [len(page) for page in down] == [4, 4, 4, 4, 4, 4, 1]
    assert [each for page in down for each in page] == everything
    last = told(alice, "sessions", limit=4, before=told(alice, "sessions", limit=21)["before"])
    assert last["before"] is None
    up = walked(alice, "sessions", "sessions", "after", limit=7, after=last["after"])
    assert [each for page in up[::-1] for each in page] == everything[:21]


def test_the_end_of_a_list_whose_length_is_a_multiple_of_the_page_is_known(alice: Person) -> None:
    session = brought(alice, *"abcd")
    for n in range(3):
        begun(alice, name=str(n))
    for path, key in (("sessions", "sessions"), (f"sessions/{session}/messages", "messages")):
        assert [len(page) for page in walked(alice, path, key, "before", limit=2)] == [2, 2]
        assert told(alice, path, limit=4)["before"] is None


def test_what_was_deleted_meanwhile_is_not_promised(alice: Person) -> None:
    old, new = (brought(alice, "x", updated_at=f"2026-01-0{day}T00:00:00Z") for day in (1, 2))
    cursor = told(alice, "sessions", limit=1)["before"]
    assert told(alice, "sessions", before=cursor)["after"] is not None
    ask(alice, "DELETE", f"sessions/{new}")
    page = told(alice, "sessions", before=cursor)
    assert [each["session_id"] for each in page["sessions"]] == [old]
    assert (page["before"], page["after"]) == (None, None)
    ask(alice, "DELETE", f"sessions/{old}")
    assert told(alice, "sessions", before=cursor)["sessions"] == []


def test_a_conversation_that_is_used_moves_to_the_top(alice: Person) -> None:
    first, second = brought(alice, "a", updated_at=AT), brought(alice, "b", updated_at=AT)
    for one in (first, second, first):
        ask(alice, "PATCH", f"sessions/{one}", json={"name": "used"})
        assert told(alice, "sessions", limit=1)["sessions"][0]["session_id"] == one


def test_cursors_lead_through_120_messages_both_ways(alice: Person) -> None:
    texts = [f"message {n}" for n in range(120)]
    brought(alice, "another conversation")
    session = brought(alice, *texts)
    brought(alice, "another one")
    path = f"sessions/{session}/messages"
    assert contents(told(alice, path)["messages"]) == texts[-50:]
    back = walked(alice, path, "messages", "before", limit=33)
    assert [len(page) for page in back] == [33, 33, 33, 21]
    assert [text for page in back[::-1] for text in contents(page)] == texts
    oldest = told(alice, path, limit=21, before=told(alice, path, limit=99)["before"])
    assert contents(oldest["messages"]) == texts[:21]
    forward = walked(alice, path, "messages", "after", limit=33, after=oldest["after"])
    assert [text for page in forward for text in contents(page)] == texts[21:]


def opaque(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


BAD_CURSORS = [
    "",
    "x",
    "%00",
    "!!!!",
    "ä",
    opaque(7),
    opaque("text"),
    opaque({"a": 1}),
    opaque(None),
    opaque([]),
    opaque([True]),
    opaque([-1]),
    opaque([2**63]),
    opaque([1.5]),
    opaque(["1"]),
    opaque([1, 2]),
    opaque([-1, "a"]),
    opaque([10**18, "a"]),
    opaque([1, "a b"]),
    opaque([1, "\x00"]),
    opaque([1, "x" * 65]),
    opaque([1, "a", "b"]),
    "A" * 2000,
    base64.urlsafe_b64encode(b"[" * 90).decode(),
]


@pytest.mark.parametrize("bad", BAD_CURSORS)
def test_a_cursor_that_is_none_is_refused(alice: Person, bad: str) -> None:
    session = brought(alice, *"abc")
    for path in ("sessions", f"sessions/{session}/messages"):
        for name in ("before", "after"):
            detail = refused(ask(alice, "GET", path, params={name: bad}), 400)
            assert detail.startswith(f"{name} is not a cursor")
    assert refused(ask(alice, "GET", "search", params={"q": "a", "before": bad}), 400)


def test_one_direction_at_a_time(alice: Person) -> None:
    session = brought(alice, *"abcdef")
    for path in ("sessions", f"sessions/{session}/messages"):
        assert refused(ask(alice, "GET", path, params={"before": opaque([1]), "after": opaque([1])}), 400)
    place = told(alice, f"sessions/{session}/messages", limit=2)["before"]
    query = {"before": place, "after": place}
    detail = refused(ask(alice, "GET", f"sessions/{session}/messages", params=query), 400)
    assert detail == "Give either before or after."


@pytest.mark.parametrize(
    "limit", ["0", "-1", "201", "1.5", "x", "", " 1", "1e2", "٣", "99999999999999999999"]
)
def test_a_limit_that_is_none_is_refused(alice: Person, limit: str) -> None:
    session = begun(alice)
    for path in ("sessions", f"sessions/{session}/messages", "search?q=x"):
        response = alice.http.get(
            f"/llmchat/{path}", params={**httpx.QueryParams(path.partition("?")[2]), "limit": limit}
        )
        assert "limit must be a number" in refused(response, 400)


def test_a_cursor_of_another_user_shows_nothing_of_theirs(alice: Person, bob: Person) -> None:
    for n in range(3):
        brought(bob, "secret of bob", name=f"bob {n}")
    session = brought(bob, *["secret of bob"] * 5)
    brought(alice, "mine")
    cursor = told(bob, "sessions", limit=1)["before"]
    assert told(alice, "sessions", before=cursor)["sessions"] == []
    cursor = told(bob, f"sessions/{session}/messages", limit=1)["before"]
    mine = told(alice, "sessions")["sessions"][0]["session_id"]
    assert "secret" not in ask(alice, "GET", f"sessions/{mine}/messages", params={"before": cursor}).text


# Two users


ROUTES: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "sessions/{}", {}),
    ("PATCH", "sessions/{}", {"json": {"name": "stolen"}}),
    ("PATCH", "sessions/{}", {"json": {"pinned": ["m0"]}}),
    ("DELETE", "sessions/{}", {}),
    ("GET", "sessions/{}/messages", {}),
    ("GET", "sessions/{}/context", {}),
    ("GET", "sessions/{}/export", {}),
    ("GET", "sessions/{}/export?format=markdown", {}),
]


@pytest.mark.parametrize(("method", "path", "options"), ROUTES)
def test_a_conversation_of_somebody_else_is_one_that_does_not_exist(
    alice: Person, bob: Person, method: str, path: str, options: dict[str, Any]
) -> None:
    session = brought(bob, "secret", name="secret")
    before = told(bob, f"sessions/{session}")
    answers = [
        ask(alice, method, path.format(id_), **options)
        for id_ in (session, "0" * 32, "import", "x" * 65, "%00", "a%20b", "ä", "'; --")
    ]
    for answer in answers:
        assert refused(answer, 404) == "This conversation does not exist."
        assert answer.json() == answers[0].json()
    assert told(bob, f"sessions/{session}") == before


def test_nothing_of_one_user_is_listed_or_found_by_another(alice: Person, bob: Person) -> None:
    mine, theirs = brought(alice, "shared words"), brought(bob, "shared words")
    for person, session in ((alice, mine), (bob, theirs)):
        assert [each["session_id"] for each in told(person, "sessions")["sessions"]] == [session]
        assert [each["session_id"] for each in told(person, "search", q="shared")["results"]] == [session]


CHANGES = [
    ("POST", "sessions"),
    ("POST", "sessions/import"),
    ("PATCH", "sessions/{}"),
    ("DELETE", "sessions/{}"),
]


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}])
@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_another_site_cannot_change_conversations(
    alice: Person, method: str, path: str, headers: dict[str, str]
) -> None:
    session = brought(alice, "a")
    before = told(alice, "sessions")
    body = {"json": document("b") if "import" in path else {"name": "evil"}} if method != "DELETE" else {}
    refused(ask(alice, method, path.format(session), headers=headers, **body), 403)
    assert told(alice, "sessions") == before


def test_a_user_id_may_be_asserted_and_must_then_match(alice: Person) -> None:
    session = brought(alice, "a")
    one = f"sessions/{session}"
    for method, path in [
        *CHANGES,
        ("GET", "sessions"),
        ("GET", "search"),
        ("GET", one),
        ("GET", f"{one}/export"),
    ]:
        answer = ask(alice, method, path.format(session), params={"user_id": "bob", "q": "a"}, json={})
        assert refused(answer, 403) == "User ID mismatch."
    for method, path in (("POST", "sessions"), ("PATCH", one)):
        refused(ask(alice, method, path, json={"user_id": "bob"}), 403)
        assert ask(alice, method, path, json={"user_id": alice.name}).is_success
    assert ask(alice, "GET", one, params={"user_id": alice.name}).is_success


# Deleting


def test_a_deleted_conversation_is_gone_and_the_others_are_not(alice: Person) -> None:
    gone, kept = brought(alice, "find me"), brought(alice, "find me")
    answer = ask(alice, "DELETE", f"sessions/{gone}")
    assert answer.json() == {"status": "deleted", "session_id": gone}
    for _, path, _ in ROUTES:
        refused(ask(alice, "GET", path.format(gone)), 404)
    refused(ask(alice, "DELETE", f"sessions/{gone}"), 404)
    assert [each["session_id"] for each in told(alice, "search", q="find")["results"]] == [kept]
    assert [each["session_id"] for each in told(alice, "sessions")["sessions"]] == [kept]
    alice.connect()
    assert alice.say("hi", session_id=gone)["resumed"] is False


def test_deleting_stops_the_turn_that_runs(alice: Person, model: ModelServer) -> None:
    alice.connect()
    session = begun(alice)
    model.will(Reply(text="one two three four", pause=1))
    with alice.streaming("hi", session_id=session) as frames, within(8):
        assert next(frames)[0] == "token"
        assert ask(alice, "DELETE", f"sessions/{session}").status_code == 200
        assert list(frames)[-1][0] in ("final", "error")
    refused(ask(alice, "GET", f"sessions/{session}"), 404)
    assert told(alice, "sessions")["sessions"] == []


def test_the_connected_conversation_can_be_deleted_and_written_to_again(alice: Person) -> None:
    session = alice.connect()["session_id"]
    alice.say("first")
    assert ask(alice, "DELETE", f"sessions/{session}").status_code == 200
    assert alice.history() == []
    assert alice.say("second")["response"] == "1 messages, the last from user: second"


# Context


def test_the_context_is_what_the_model_would_see(alice: Person, model: ModelServer) -> None:
    alice.connect()
    session = brought(alice, *(f"message {n}" for n in range(120)))
    context = told(alice, f"sessions/{session}/context")
    assert set(context) == {
        "session_id", "messages", "tokens", "budget", "left_out", "shortened", "summarized",
    }  # fmt: skip
    assert context["budget"]["messages"] == 50
    assert contents(context["messages"]) == [f"message {n}" for n in range(70, 120)]
    ask(alice, "PATCH", f"sessions/{session}", json={"pinned": ["m3"]})
    pinned = contents(told(alice, f"sessions/{session}/context")["messages"])
    assert "message 3" in pinned
    assert len(pinned) <= 50
    alice.say("next", session_id=session)
    sent = [each["content"] for each in model.requests[-1]["messages"]]
    assert "message 3" in sent
    assert "message 4" not in sent


# Carrying away and bringing along


def test_an_export_brought_along_is_the_same_conversation_under_another_id(
    alice: Person, bob: Person
) -> None:
    alice.connect()
    session = begun(alice, name="Export", context={"a": [1, {"b": None}]})
    alice.say("hello \x00 ✓ 漢字 <script>", session_id=session)
    kept = told(alice, f"sessions/{session}/messages")["messages"]
    ask(alice, "PATCH", f"sessions/{session}", json={"pinned": [kept[0]["id"]]})
    exported = ask(alice, "GET", f"sessions/{session}/export")
    assert exported.headers["content-type"].startswith("application/json")
    assert exported.headers["content-disposition"].startswith('attachment; filename="Export.json"')
    assert exported.headers["x-content-type-options"] == "nosniff"
    answer = ask(bob, "POST", "sessions/import", content=exported.content, headers=JSON)
    assert answer.status_code == 201
    new = answer.json()
    assert new["message_count"] == 2
    assert new["session_id"] != session
    assert told(bob, f"sessions/{new['session_id']}/messages")["messages"] == kept
    again = json.loads(ask(bob, "GET", f"sessions/{new['session_id']}/export").content)
    assert {**again, "id": session} == json.loads(exported.content)
    twice = ask(alice, "POST", "sessions/import", content=exported.content, headers=JSON)
    assert twice.status_code == 201, "ids of messages are a conversation's own"


def test_an_export_has_all_messages_however_many(alice: Person) -> None:
    texts = [f"m {n}" for n in range(2_500)]
    session = brought(alice, *texts)
    exported = json.loads(ask(alice, "GET", f"sessions/{session}/export?format=json").content)
    assert contents(exported["messages"]) == texts


def test_a_message_of_a_megabyte_travels_whole(alice: Person) -> None:
    text = "wörd \x00 漢 " * 100_000
    session = brought(alice, text, "short")
    [kept, _] = told(alice, f"sessions/{session}/messages")["messages"]
    assert kept["content"] == text
    exported = ask(alice, "GET", f"sessions/{session}/export")
    assert json.loads(exported.content)["messages"][0]["content"] == text
    assert ask(alice, "GET", f"sessions/{session}/export?format=markdown").status_code == 200
    [found] = told(alice, "search", q="short")["results"]
    assert found["message"]["content"] == "short"
    assert len(told(alice, "search", q="word")["results"][0]["excerpt"]) < 1_000
    assert told(alice, f"sessions/{session}/context")["shortened"] == 0


def test_markdown_is_a_file_for_people(alice: Person) -> None:
    session = brought(alice, "hello", "# I am no heading", name='a "quoted" näme/../x\\y')
    answer = ask(alice, "GET", f"sessions/{session}/export?format=markdown")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="a-quoted-name-x-y.md"')
    assert "> hello" in answer.text
    assert "\n# I am" not in answer.text


@pytest.mark.parametrize("form", ["", "html", "JSON", "../x"])
def test_another_form_is_refused(alice: Person, form: str) -> None:
    session = begun(alice)
    detail = refused(ask(alice, "GET", f"sessions/{session}/export", params={"format": form}), 400)
    assert detail == "format must be one of: json, markdown."


def written(*messages: dict[str, Any]) -> bytes:
    return json.dumps({"schema": SCHEMA, "messages": messages}).encode()


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "UTF-8"),
        (b"[]", "object"),
        (b"{}", "schema"),
        (b'{"schema": "other/1"}', "schema"),
        (written({"role": "king", "content": ""}), "messages.0.role"),
        (written({"role": "user"}), "messages.0.content"),
        (written(*[{"role": "user", "content": "", "id": "1"}] * 2), "messages.1.id"),
        (json.dumps(document(context={str(n): n for n in range(65)})).encode(), "context"),
        (b'{"schema": "mcp-chat/session/1", "context": ' + b"[" * 100_000, "not JSON|nested"),
        (b'{"schema": "mcp-chat/session/1", "context": {"a": ' + b"9" * 400 + b"}}", "context.a"),
    ],
)
def test_what_is_no_export_is_refused_with_its_place(alice: Person, content: bytes, place: str) -> None:
    answer = ask(alice, "POST", "sessions/import", content=content, headers=JSON)
    detail = refused(answer, 400)
    assert any(each in detail for each in place.split("|")), detail
    assert told(alice, "sessions")["sessions"] == []


def test_an_import_is_limited_and_must_be_said_to_be_json(alice: Person) -> None:
    with within(10):
        refused(ask(alice, "POST", "sessions/import", content=b" " * 9_000_000, headers=JSON), 413)
    refused(ask(alice, "POST", "sessions/import", content=b"{}", headers={"content-type": "text/plain"}), 415)
    assert brought(alice, "x" * 300_000), "more than another body"


def test_a_summary_is_not_brought_along_as_it_names_places_of_another_database(alice: Person) -> None:
    summary = {"text": "s" * 60_000, "upto": "m0", "place": 3}
    context = {"summary": summary, "pinned": ["m0", "m7"], "mine": "x" * 60_000}
    session = brought(alice, *"ab", context=context)
    assert told(alice, f"sessions/{session}")["context"] == {"pinned": ["m0"], "mine": "x" * 60_000}
    assert told(alice, f"sessions/{session}/context")["summarized"] is False


def test_an_import_has_so_many_messages_and_more_is_left_to_the_operator(
    alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_IMPORTED", 3)
    brought(alice, *"abc")
    answer = ask(alice, "POST", "sessions/import", json=document(*"abcd"))
    assert "mcp-chat sessions import" in refused(answer, 413)
    assert told(alice, "sessions")["count"] == 1


def test_others_are_answered_while_an_import_is_made_ready(
    alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, done = threading.Event(), threading.Event()
    adopted = sessions.adopted

    def long(session: Session) -> Session:
        reading.set()
        assert done.wait(10), "the others were not answered"
        return adopted(session)

    monkeypatch.setattr(sessions, "adopted", long)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ask, alice, "POST", "sessions/import", json=document("a"))
        assert reading.wait(10)
        assert told(bob, "sessions")["count"] == 0
        done.set()
        assert answer.result().status_code == 201


def test_what_others_have_written_into_an_export_does_no_harm(alice: Person) -> None:
    part = {"upload_id": "../../etc", "media_type": "image/png", "name": "../a\x00\n.png", "size": -(2**900)}
    messages = [
        {"role": "user", "content": "\x00", "id": "\x00" * 100, "parts": [part]},
        {"role": "user", "content": "b", "id": "x" * 65, "created_at": "0001-01-01T00:00:00Z"},
        {"role": "tool", "content": "c", "tool_call_id": "none", "metadata": {"a": {"b": "\x00"}}},
        {"role": "system", "content": "d", "created_at": "9999-12-31T23:59:59Z"},
        {"role": "user", "content": "e", "id": "e"},
    ]
    session = brought(
        alice,
        name="\x1b[2J\x00\n<b>" + "x" * 500,
        llm_backend="\x00",
        updated_at="9999-12-31T23:59:59.999999Z",
        created_at="0001-01-01T00:00:00Z",
        token_usage={"input_tokens": 2**900, "output_tokens": -5},
        context={"pinned": [7, "e", "nothing", {}], "summary": {"text": 7}},
        id="0" * 32,
    )
    assert session != "0" * 32
    answer = ask(
        alice, "POST", "sessions/import", json={**document(context={"pinned": 7}), "messages": messages}
    )
    hostile = answer.json()["session_id"]
    for id_ in (session, hostile):
        shown = told(alice, f"sessions/{id_}")
        assert shown["name"].isprintable()
        assert len(shown["name"]) <= 200
        assert "1970" <= shown["created_at"] <= shown["updated_at"] < "3"
        assert shown["token_usage"]["output_tokens"] >= 0
        for path in ("messages", "context", "export", "export?format=markdown"):
            assert ask(alice, "GET", f"sessions/{id_}/{path}").status_code == 200, path
    assert told(alice, f"sessions/{session}")["context"]["pinned"] == []
    kept = told(alice, f"sessions/{hostile}/messages")["messages"]
    assert contents(kept) == ["\x00", "b", "c", "d", "e"]
    assert kept[0]["parts"] == [
        {
            "upload_id": "unknown",
            "media_type": "image/png",
            "name": "a.png",
            "size": 0,
            **NOBODYS,
        }
    ]
    assert kept[4]["id"] == "e"
    assert all(re.fullmatch(r"[\w-]{1,64}", message["id"]) for message in kept)
    assert told(alice, "sessions", limit=1)["before"] is not None
    alice.connect()
    assert alice.post("chat", message="go on", session_id=hostile).status_code in (200, 503)


# Searching


def test_a_search_shows_where_and_what(alice: Person) -> None:
    session = brought(alice, "The quick brown fox", "jumps over the dog", name="Foxes")
    brought(alice, "nothing of the kind")
    answer = told(alice, "search", q="BROWN fo")
    [found] = answer["results"]
    assert (answer["count"], answer["before"]) == (1, None)
    assert (found["session_id"], found["session_name"]) == (session, "Foxes")
    assert found["message"] == told(alice, f"sessions/{session}/messages")["messages"][0]
    assert "quick brown fox" in found["excerpt"]


@pytest.mark.parametrize(
    ("query", "hits"),
    [
        ("cafe", 1),
        ("CAFÉ", 1),
        ("cafe\u0301", 1),
        ("stra\u0301ße", 1),
        ("straße", 1),
        ("漢字", 1),
        ("字を", 1),
        ("ひらがな", 1),
        ('"quoted"', 1),
        ("quo*", 1),
        ("a OR b", 0),
        ("NOT nothing", 0),
        ("NEAR(cafe quoted)", 0),
        ("cafe AND quoted", 0),
        ("O'Brien", 1),
        ("'; DROP TABLE chat_message; --", 0),
        ("text:cafe", 0),
        ("cafe:*", 1),
        ("cafe & !x | (y)", 0),
        ("snake_case", 1),
        ("case", 1),
        ("café\x00", 1),
        ("nothing", 0),
        ("^cafe", 1),
        ("{cafe}", 1),
        ("100%", 1),
    ],
)
def test_words_are_words_in_every_script_and_nothing_is_an_operator(
    alice: Person, query: str, hits: int
) -> None:
    brought(alice, "Un café, Straße", "漢字をひらがなで", 'he said "quoted"', "Mr O'Brien", "snake_case 100%")
    assert told(alice, "search", q=query)["count"] == hits


@pytest.mark.parametrize("query", ["", " ", "*", '""', "'", "()", "%", "\x00", "…", "_", "\u0301"])
def test_a_search_without_a_word_is_refused(alice: Person, query: str) -> None:
    assert (
        refused(ask(alice, "GET", "search", params={"q": query}), 400) == "q must have a word to search for."
    )
    refused(ask(alice, "GET", "search"), 400)


def test_a_search_has_pages(alice: Person) -> None:
    brought(alice, *(f"word {n}" for n in range(12)))
    found: list[str] = []
    page = told(alice, "search", q="word", limit=5)
    while True:
        found += [each["message"]["content"] for each in page["results"]]
        if page["before"] is None:
            break
        page = told(alice, "search", q="word", limit=5, before=page["before"])
    assert found == [f"word {n}" for n in reversed(range(12))]


def test_a_very_long_search_is_one_of_its_first_words(alice: Person) -> None:
    brought(alice, "x" * 500)
    assert told(alice, "search", q="x" * 2_000)["count"] == 1
    assert told(alice, "search", q=" ".join(["x" * 70] * 100))["count"] == 1
    assert told(alice, "search", q="y " * 999 + "absent")["count"] == 0


def test_what_was_just_said_is_found(alice: Person) -> None:
    alice.connect()
    alice.say("where is the zeppelin")
    wait_until(lambda: told(alice, "search", q="zeppelin")["count"] == 2, "question and answer are found")


# The page that describes it


def test_the_documented_examples_answer_what_is_shown(stage: Stage, tmp_path: Path) -> None:
    need("curl")
    sign_in = f"curl -s -c cookies -H 'Content-Type: application/json' {stage.url}/auth/demo"
    run(f"""{sign_in} -d '{{"user": "documented"}}'""", tmp_path, stage.url)
    found = blocks("docs/http-api.md")
    examples = [(asked, answer) for asked, answer in pairwise(found) if answer[0] == "json"]
    assert len(examples) == len(found) // 2 == 4  # and one whose answer has no end
    for (language, command), (_, shown) in examples:
        assert language == "sh"
        assert shape(json.loads(run(command, tmp_path, stage.url))) == shape(json.loads(shown))


# Without a database


def test_without_a_database_each_operation_says_so(serve: Callable[..., str], name: str) -> None:
    with Person(serve(database_url=""), name) as person:
        asked: list[tuple[str, str, dict[str, Any]]] = [
            ("GET", "sessions", {}),
            ("GET", "search?q=x", {}),
            ("POST", "sessions", {"json": {}}),
            ("POST", "sessions/import", {"json": {}}),
            ("POST", "uploads", {"content": b"x", "headers": {"content-type": "text/plain"}}),
            ("GET", "uploads/x", {}),
            *[(method, path.format("x"), options) for method, path, options in ROUTES],
        ]
        for method, path, options in asked:
            answer = ask(person, method, path, **options)
            assert answer.status_code == 501, path
            assert answer.json() == {
                "detail": "This installation has no database, so conversations are not listed, searched or "
                "exported. The operator can set DATABASE_URL.",
                "code": "no_archive",
            }
        person.connect()
        assert person.say("hi")["response"]
        assert person.post("chat", message="x", attachments=["a"]).status_code == 501
