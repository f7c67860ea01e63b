"""What happens to a user as one stream, and requests that are sent twice: any worker, any place, any tab."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from typing import Any

import anyio
import httpx
import pytest
from redis import Redis

from mcp_chat import feed
from mcp_chat.api import transcript
from mcp_chat.dispatch import Dispatch
from mcp_chat.settings import Settings
from tests.faults import well_formed
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Event, Person
from tests.running import running, wait_until

pytestmark = pytest.mark.slow

DATA = {
    "token": {"content"},
    "tool_start": {"type", "id", "tool", "input", "start"},
    "tool_progress": {"type", "id", "tool", "progress", "total", "message"},
    "tool_end": {"type", "id", "tool", "output", "end", "structured"},  # the last beside the contract
    "tool_error": {"type", "id", "tool", "error", "time"},
    "final": {
        *("type", "content", "tool_used", "tools", "elapsed_ms", "stopped", "usage"),
        *("session_id", "turn_id", "resumed"),
    },
}
"""The frames of the contract, and the fields of their data."""

WHERE = {"session_id", "turn_id"}
WORDS = "one two three four five six"


def on_two_workers() -> tuple[Any, Any, Any]:
    """Make the fixtures `far_model`, `model` and `two`: an installation with two workers for a module."""

    @pytest.fixture(scope="module")
    def far_model() -> ModelServer:
        return ModelServer()

    @pytest.fixture
    def model(far_model: ModelServer) -> ModelServer:
        far_model.script.clear()
        far_model.requests.clear()
        return far_model

    @pytest.fixture(scope="module")
    def two(tmp_path_factory: pytest.TempPathFactory, far_model: ModelServer) -> Iterator[Installation]:
        with (
            running(far_model.app, grace=0) as url,
            Installation(tmp_path_factory.mktemp("two"), f"{url}/v1") as installation,
        ):
            yield installation

    return far_model, model, two


far_model, far, two = on_two_workers()


class Tabs(ExitStack):
    """Windows of one user, each on a connection of its own to a worker by its number: 0 is the owner's."""

    def __init__(self, installation: Installation, name: str) -> None:
        super().__init__()
        self._installation = installation
        self._name = name

    def __call__(self, worker: int = 0) -> Person:
        """Open one."""
        place = self._installation.workers()[worker % 2]
        return self.enter_context(self._installation.person(self._name, place))

    def follow(self, worker: int = 0, **query: str) -> Iterator[Event]:
        """Open one that follows the user's events until the end."""
        return self.enter_context(self(worker).following(**query))


@pytest.fixture
def tab(two: Installation, name: str) -> Iterator[Tabs]:
    """Opens windows of a user who is connected."""
    with Tabs(two, name) as tabs:
        tabs().connect()
        yield tabs


def until(events: Iterator[Event], *names: str) -> list[Event]:
    """Read up to the first event of one of these names."""
    found: list[Event] = []
    for event in events:
        found.append(event)
        if event.name in names:
            return found
    raise AssertionError(f"the stream ended before {names}: {found}")


def heard(events: Iterator[Event], text: str) -> list[Event]:
    """Read until this has been said."""
    found: list[Event] = []
    while text not in told(found):  # a slow machine says more in one piece
        found += until(events, "token")
    return found


def place(event_id: str) -> tuple[int, int]:
    """A place as numbers that compare."""
    epoch, _, n = event_id.partition("-")
    return int(epoch), int(n)


def told(events: list[Event], turn_id: str | None = None) -> str:
    """The text that a client shows: tokens, less what was discarded."""
    said: list[Event] = []
    for event in events:
        if turn_id in (None, event.data.get("turn_id")):
            if event.name == "discard":
                said = [each for each in said if place(each.id) <= place(event.data["after"])]
            elif event.name == "token":
                said.append(event)
    return "".join(event.data["content"] for event in said)


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def in_order(events: list[Event]) -> bool:
    """Whether the places strictly rise."""
    places = [place(event.id) for event in events]
    return places == sorted(set(places))


def readers(url: str) -> float:
    """How many streams are followed, as the metrics say."""
    text = httpx.get(f"{url}/metrics", trust_env=False).text
    return sum(float(value) for value in re.findall(r"^mcp_chat_readers (\S+)$", text, re.MULTILINE))


# The stream of a message


def test_the_contracts_frames_have_got_ids_and_are_otherwise_as_they_were(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    alice.connect(server={"url": demo_url, "alias": "demo"})
    model.will(
        Reply(
            text="Let me see.",
            calls=[("demo__add", {"a": 2, "b": 3}), ("demo__always_fails", {})],
            pause=0.1,
        ),
        Reply(calls=[("demo__slow_count", {"steps": 2, "pause": 0.15})]),
        Reply(text="It is five.", pause=0.1),
    )
    content = {"user_id": alice.name, "message": "add", "streaming": True}
    raw = alice.http.post("/llmchat/chat", json=content).text
    assert raw.endswith("\n\n")
    blocks = [block.split("\n") for block in raw.split("\n\n")[:-1]]
    assert [[line.partition(": ")[0] for line in block] for block in blocks] == [
        ["id", "event", "data"] for _ in blocks
    ]
    with alice.sending("again") as again:
        rest = list(again)
    places, names_, _ = zip(*[[line.partition(": ")[2] for line in block] for block in blocks], strict=True)
    assert set(names_) == set(DATA)
    assert all(re.fullmatch(r"\d+-\d+", each) for each in places)
    assert list(map(place, places)) == sorted(set(map(place, places)))
    assert in_order(rest)
    assert place(rest[0].id) > place(places[-1])


def test_a_client_of_the_plain_contract_needs_to_know_none_of_it(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    alice.connect(server={"url": demo_url, "alias": "demo"})
    model.will(Reply(text="Let me see.", calls=[("demo__add", {"a": 2, "b": 3})]), Reply(text="It is five."))
    frames = alice.stream("add")
    for name, data in frames:
        assert set(data) == DATA[name]
    *before, (last, final) = frames
    assert last == "final"
    assert "final" not in {name for name, _ in before}
    assert "".join(data["content"] for name, data in before if name == "token") == final["content"]
    assert final["content"] == "Let me see.\n\nIt is five."


# Going on


@pytest.mark.parametrize("cut", range(8))
def test_a_stream_that_is_cut_goes_on_behind_any_id_on_any_worker(
    tab: Tabs, far: ModelServer, cut: int
) -> None:
    hold = threading.Event()
    far.will(Reply(text=WORDS, pause=0.08, hold=None if cut else hold))
    reader = tab(cut // 2)
    with reader.sending("count") as events:
        before = list(islice(events, min(cut, 6)))
        if cut == 7 and before[-1].name != "final":  # a slow machine says all in fewer pieces
            before += until(events, "final")
    if not before:  # nothing was seen: the turn from its start
        late = tab.follow(1)
        hold.set()
        rest = until(late, "final")
        assert names(rest)[:2] == ["turn", "message"]
    elif before[-1].name == "final":
        rest = []
    elif cut % 2:
        rest = until(tab.follow(cut, after=before[-1].id), "final")
    else:
        rest = until(tab.follow(cut, last_event_id=before[-1].id), "final")
    assert told(before + rest) == WORDS
    assert in_order(before + rest)
    assert (before + rest)[-1].data["content"] == WORDS


def test_what_has_ended_is_told_behind_each_of_its_ids_on_each_worker(tab: Tabs, far: ModelServer) -> None:
    far.will(
        Reply(text="Let me see.", calls=[("demo__add", {"a": 2, "b": 3})]), Reply(text=WORDS, pause=0.06)
    )
    tab().connect(server={"name": "demo"})
    everything = tab.follow()
    with tab(1).sending("add") as sent:
        posted = list(sent)
    whole = until(everything, "final")
    assert len(whole) >= 10
    assert told(whole) == told(posted) == f"Let me see.\n\n{WORDS}"
    assert [event for event in whole if event.id in {each.id for each in posted}] == [
        Event(event.id, event.name, {**event.data, **whole[0].data}) for event in posted
    ]
    for number, event in enumerate(whole[:-1]):
        with tab(number).following(after=event.id) as events:
            assert until(events, "final") == whole[number + 1 :]


def test_a_place_in_the_header_is_later_than_the_one_in_the_address(tab: Tabs, far: ModelServer) -> None:
    """A browser that connects again repeats the address and adds the header."""
    everything = tab.follow()
    tab().say("hello")
    whole = until(everything, "final")
    with tab(1).following(after=whole[0].id, last_event_id=whole[-2].id) as events:
        assert until(events, "final") == whole[-1:]


# Tabs


def test_two_tabs_on_two_workers_see_the_same(tab: Tabs, far: ModelServer) -> None:
    tabs = [tab.follow(0), tab.follow(1)]
    far.will(Reply(text=WORDS, pause=0.06), Reply(text="seven eight", pause=0.06))
    with tab(0).sending("count") as events:
        next(events)
        second = tab(1).say("go on")  # while the first one runs: it waits for its end
    seen = [until(each, "final") + until(each, "final") for each in tabs]
    assert seen[0] == seen[1]
    assert in_order(seen[0])
    first = seen[0][0].data["turn_id"]
    assert first != second["turn_id"]
    assert told(seen[0], first) == WORDS
    assert told(seen[0], second["turn_id"]) == "seven eight"
    assert [event.data["turn_id"] for event in seen[0] if event.name in ("turn", "final")] == [
        *(first, first),
        *(second["turn_id"], second["turn_id"]),
    ]


def test_each_frame_says_which_turn_of_which_conversation_it_is_about(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    session = alice.connect(server={"url": demo_url, "alias": "demo"})["session_id"]
    model.will(Reply(text="Adding.", calls=[("demo__add", {"a": 2, "b": 3})]), Reply(text="It is 5."))
    with alice.following() as events:
        answer = alice.say("add")
        seen = until(events, "final")
    where = {"session_id": session, "turn_id": answer["turn_id"]}
    for event in seen:
        assert where.items() <= event.data.items()
        if event.name in DATA:
            assert set(event.data) == DATA[event.name] | WHERE
    assert seen[0] == (seen[0].id, "turn", where)
    messages = [event.data for event in seen if event.name == "message"]
    assert all(set(data) == {"message", *WHERE} for data in messages)
    assert [data["message"] for data in messages] == alice.history()
    assert [data["message"]["role"] for data in messages] == ["user", "assistant", "tool", "assistant"]
    assert [name for name in names(seen) if name != "token"] == [
        *("turn", "message", "message", "tool_start", "tool_end", "message", "message", "final")
    ]


@pytest.mark.parametrize("worker", [0, 1])
def test_a_tab_that_is_opened_in_the_middle_of_a_turn_sees_it_from_its_start(
    tab: Tabs, far: ModelServer, worker: int
) -> None:
    tab().say("earlier")
    far.will(Reply(text="one two three", hang_after=3))
    with tab().sending("count") as events:
        heard(events, "one two")
        late = tab.follow(worker)
        seen = heard(late, "one two")
        assert names(seen)[:3] == ["turn", "message", "token"]
        assert seen[1].data["message"]["content"] == "count"
        tab().post("cancel").raise_for_status()
        seen += until(late, "final")
    assert told(seen) == "one two"
    assert seen[-1].data["stopped"] is True


@pytest.mark.parametrize("worker", [0, 1])
def test_a_tab_that_is_opened_when_nothing_runs_sees_only_what_comes(
    tab: Tabs, far: ModelServer, worker: int
) -> None:
    tab().say("earlier")
    quiet = tab.follow(worker)
    answer = tab().say("later")
    seen = until(quiet, "final")
    assert names(seen)[:2] == ["turn", "message"]
    assert {event.data["turn_id"] for event in seen} == {answer["turn_id"]}


def test_what_comes_after_the_head_of_a_stream_is_in_the_stream(
    alice: Person, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the store is: a client that has its answer's head has its place."""
    end = Dispatch.end

    async def slowly(self: Dispatch, user: str) -> str:
        await anyio.sleep(0.5)
        return await end(self, user)

    alice.connect()
    monkeypatch.setattr(Dispatch, "end", slowly)
    with alice.following() as events:
        answer = alice.say("hello")
        assert {event.data["turn_id"] for event in until(events, "final")} == {answer["turn_id"]}


def test_a_tab_sees_the_conversation_it_asked_for_or_all(alice: Person, model: ModelServer) -> None:
    default = alice.connect()["session_id"]
    other = alice.http.post("/llmchat/sessions", json={"name": "other"}).json()["session_id"]
    with (
        alice.following(session_id=default) as of_default,
        alice.following(session_id=other) as of_other,
        alice.following() as of_all,
    ):
        turns = [alice.say("hello", session_id=id_)["turn_id"] for id_ in (other, default, other, default)]
        both = until(of_default, "final") + until(of_default, "final")
        others = until(of_other, "final") + until(of_other, "final")
        everything = [event for _ in turns for event in until(of_all, "final")]
    assert {event.data["session_id"] for event in both} == {default}
    assert {event.data["session_id"] for event in others} == {other}
    assert [event.data["turn_id"] for event in everything if event.name == "turn"] == turns
    assert sorted([*both, *others], key=lambda event: place(event.id)) == everything


def test_a_tab_of_one_conversation_sees_its_turn_from_the_start_while_others_run(
    alice: Person, model: ModelServer
) -> None:
    alice.connect()
    sessions = [alice.http.post("/llmchat/sessions", json={}).json()["session_id"] for _ in range(2)]
    model.will(*[Reply(text="one two three", hang_after=3) for _ in sessions])
    with ExitStack() as stack:
        for each in sessions:  # one behind the other: their pieces do not mix
            heard(stack.enter_context(alice.sending("count", session_id=each)), "one two")
        for session in sessions:
            with alice.following(session_id=session) as events:
                seen = heard(events, "one two")
            assert names(seen)[:2] == ["turn", "message"]
            assert {event.data["session_id"] for event in seen} == {session}
        with alice.following() as events:
            seen = heard(events, "one two") + heard(events, "one two")
        assert [event.data["session_id"] for event in seen if event.name == "turn"] == sessions
        alice.post("cancel").raise_for_status()


def test_a_tab_of_all_conversations_sees_each_running_turn_from_its_start(
    alice: Person, model: ModelServer
) -> None:
    """Also one that began before the turn of a message that was sent earlier."""
    alice.connect()
    one, other = [alice.http.post("/llmchat/sessions", json={}).json()["session_id"] for _ in range(2)]
    hold = threading.Event()
    model.will(
        Reply(text="first", hold=hold),
        Reply(text="one two three", hang_after=3),
        Reply(text="four five six", hang_after=3),
    )
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        first = pool.submit(alice.say, "first", session_id=one)
        wait_until(lambda: len(model.requests) == 1, "the first turn runs")
        queued = stack.enter_context(alice.sending("queued", session_id=one))
        beside = stack.enter_context(alice.sending("beside", session_id=other))
        heard(beside, "one two")
        hold.set()
        first.result(20)
        heard(queued, "four five")
        with alice.following() as events:
            seen: list[Event] = []
            while not told(seen).endswith(("four five", "one two four five")):
                seen += until(events, "token")
        alice.post("cancel").raise_for_status()
    assert {event.data["session_id"] for event in seen if event.name == "turn"} == {one, other}


def test_somebody_elses_conversation_does_not_exist(alice: Person, serve: Callable[..., str]) -> None:
    alice.connect()
    session = alice.say("hello")["session_id"]
    with Person(str(alice.http.base_url), f"{alice.name}-2") as bob:
        bob.connect()
        for asked in (session, "none", "\u0000"):
            answer = bob.http.get("/llmchat/events", params={"session_id": asked}, timeout=5)
            assert answer.status_code == 404
            assert answer.json()["code"] == "not_found"
        assert bob.http.get("/llmchat/events", params={"user_id": alice.name}).status_code == 403


@pytest.mark.parametrize(
    "after", ["x", "1", "1-", "-1", "1-1-1", "1-x", "$", "0-0\n", "1" * 17 + "-0", "²-0"]
)
def test_a_place_that_is_none_is_refused(alice: Person, after: str) -> None:
    answer = alice.http.get("/llmchat/events", params={"after": after})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert "after" in answer.json()["detail"]
    if "\n" not in after:
        answer = alice.http.get("/llmchat/events", headers=[(b"last-event-id", after.encode())])
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


# What was lost


@pytest.mark.parametrize("worker", [0, 1])
def test_a_place_that_never_was_is_answered_with_how_things_are(
    tab: Tabs, far: ModelServer, worker: int
) -> None:
    session = tab().say("hello")["session_id"]
    events = tab.follow(worker, after="9999999999999999-0")
    reset = next(events)
    assert (reset.name, set(reset.data)) == ("reset", {"session_id", "after", "snapshot"})
    assert reset.data["session_id"] == session
    assert reset.data["after"] == reset.id
    assert reset.data["snapshot"] == {"messages": tab().history(), "running": None}
    answer = tab().say("go on")
    seen = until(events, "final")
    assert names(seen)[:2] == ["turn", "message"]
    assert {event.data["turn_id"] for event in seen} == {answer["turn_id"]}
    again = tab.follow(1 - worker, after=reset.data["after"])
    assert until(again, "final") == seen


@pytest.mark.parametrize("worker", [0, 1])
def test_a_place_in_a_log_that_was_lost_is_answered_with_how_things_are(
    tab: Tabs, far: ModelServer, two: Installation, worker: int
) -> None:
    with tab().sending("hello") as sent:
        last = list(sent)[-1].id
    with two.redis() as redis:
        redis.flushall()
    events = tab.follow(worker, after=last)
    reset = next(events)
    assert reset.name == "reset"
    assert reset.data["snapshot"] == {"messages": tab().history(), "running": None}
    answer = tab(1 - worker).say("go on")
    seen = until(events, "final")
    assert "reset" not in names(seen)
    assert names(seen)[:2] == ["turn", "message"]
    assert {event.data["turn_id"] for event in seen} == {answer["turn_id"]}
    assert told(seen) == answer["response"]


@pytest.mark.parametrize("worker", [0, 1])
def test_a_place_that_the_log_has_dropped_is_answered_with_how_things_are(
    tab: Tabs, far: ModelServer, two: Installation, name: str, worker: int
) -> None:
    with tab().sending("hello") as sent:
        early = list(sent)
    tab().say("more")
    with two.redis() as redis:
        redis.xtrim(f"chat:events:{{{name}}}", maxlen=2, approximate=False)
    events = tab.follow(worker, after=early[0].id)
    reset = next(events)
    assert reset.name == "reset"
    assert len(reset.data["snapshot"]["messages"]) == 4
    answer = tab().say("go on")
    seen = until(events, "final")
    assert "reset" not in names(seen)
    assert {event.data["turn_id"] for event in seen} == {answer["turn_id"]}


def test_a_turn_whose_start_the_log_has_dropped_is_told_of_once(
    tab: Tabs, far: ModelServer, two: Installation, name: str
) -> None:
    with tab().sending("earlier") as sent:
        early = list(sent)
    far.will(Reply(text="one two three four", pause=0.2, hang_after=4))
    with tab().sending("count") as sent:
        heard(sent, "one two three")
        with two.redis() as redis:
            redis.xtrim(f"chat:events:{{{name}}}", maxlen=1, approximate=False)
        events = tab.follow(1, after=early[-1].id)
        reset = next(events)
        assert reset.name == "reset"
        assert reset.data["snapshot"]["running"] is not None
        tab().post("cancel").raise_for_status()
        assert until(sent, "final")[-1].data["content"] == "one two three"
    answer = tab().say("go on")
    rest: list[Event] = []
    while not rest or rest[-1].data.get("turn_id") != answer["turn_id"]:
        rest += until(events, "reset", "final")
    assert "reset" not in names(rest)
    assert "turn" in names(rest)


@pytest.mark.parametrize("worker", [0, 1])
def test_a_turn_whose_log_is_lost_is_told_anew_to_those_who_follow_and_to_those_who_come(
    tab: Tabs, far: ModelServer, two: Installation, worker: int
) -> None:
    far.will(Reply(text=WORDS, pause=0.4))
    there = tab.follow(worker)
    with tab().sending("count") as sent:
        before = heard(sent, "one two")
        with two.redis() as redis:
            redis.flushall()
        late = tab.follow(worker, after=before[-1].id)
        posted = before + until(sent, "final")
        followed = until(there, "final")
        came = until(late, "final")
    assert posted[-1].data["content"] == WORDS
    assert told(followed) == WORDS
    assert names(came).count("reset") <= 1
    assert came[-1].data["content"] == WORDS
    assert WORDS.endswith(told(came))


def test_a_turn_whose_log_is_lost_is_told_to_those_who_come_although_nobody_waits_for_it(
    tab: Tabs, far: ModelServer, two: Installation
) -> None:
    far.will(Reply(text=WORDS, pause=0.5))
    there = tab.follow()
    with tab().sending("count") as sent:
        heard(sent, "one")
    first = next(there)
    with two.redis() as redis:
        redis.flushall()
    until(there, "discard")  # it is told anew
    late = tab.follow(1, after=first.id)
    reset = next(late)
    assert reset.name == "reset"
    assert reset.data["snapshot"]["running"] == until(there, "final")[-1].data["turn_id"]
    came = until(late, "final")
    assert came[-1].data["content"] == WORDS
    assert WORDS.endswith(told(came))


def test_a_hole_that_a_deleted_conversation_has_left_is_told_of_at_most_once(
    alice: Person, model: ModelServer
) -> None:
    alice.connect()
    other = alice.http.post("/llmchat/sessions", json={}).json()["session_id"]
    model.will(Reply(text="one two three", hang_after=3))
    with alice.sending("count") as sent:
        heard(sent, "one two")
        with alice.following() as events:
            early = until(events, "turn")
        alice.say("gone soon", session_id=other)
        assert alice.http.delete(f"/llmchat/sessions/{other}").status_code == 200
        with alice.following() as new, alice.following(after=early[-1].id) as resumed:
            seen = [heard(new, "one two"), heard(resumed, "one two")]
            alice.post("cancel").raise_for_status()
            seen[0] += until(new, "final")
            seen[1] += until(resumed, "final")
    for each in seen:
        assert names(each).count("reset") <= 1
        assert told(each) == "one two"
    assert "gone soon" not in str(seen)


def test_as_many_entries_as_one_read_takes_are_no_loss(
    alice: Person, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.connect()
    with alice.following() as events:
        alice.say("hello")
        whole = until(events, "final")
    (_, first), (_, last) = place(whole[0].id), place(whole[-1].id)
    monkeypatch.setattr(feed, "PAGE", last - first)
    monkeypatch.setattr(transcript, "HEARTBEAT_EVERY", 0.0)
    with alice.http.stream("GET", f"/llmchat/events?after={whole[0].id}", timeout=10) as response:
        lines = response.iter_lines()
        before = [line for line in iter(lambda: next(lines), ": alive") if line.startswith("event: ")]
        alice.say("more")
        after = [line for line in iter(lambda: next(lines), "event: final") if line.startswith("event: ")]
    assert before == [f"event: {name}" for name in names(whole[1:])]
    assert after[0] == "event: turn"


# Streams that stay open


def test_a_silent_stream_stays_open_with_comments(
    alice: Person, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcript, "HEARTBEAT_EVERY", 0.0)
    alice.connect()
    with alice.http.stream("GET", "/llmchat/events", timeout=10) as response:
        lines = response.iter_lines()
        for turn in range(3):
            for expected in (": alive", "", ": alive", ""):
                assert next(lines) == expected
            alice.say(f"message {turn}")
            said = next(line for line in lines if line.startswith("event: "))
            assert said == "event: turn"
            assert next(line for line in lines if line == "event: final")
            assert next(lines).startswith("data: ")
            assert next(lines) == ""


def test_a_silent_answer_gets_comments_too(
    alice: Person, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcript, "HEARTBEAT_EVERY", 0.0)
    alice.connect()
    model.will(Reply(text="at last", before=1.5))
    content = {"user_id": alice.name, "message": "hello", "streaming": True}
    text = alice.http.post("/llmchat/chat", json=content).text
    assert text.startswith(": alive\n\n")
    assert "event: final\n" in text


def test_who_hangs_up_is_no_reader_any_more(tab: Tabs, far: ModelServer, two: Installation) -> None:
    wait_until(lambda: readers(two.url) == 0, "nobody reads")
    far.will(Reply(text="one two three", hang_after=3))
    with ExitStack() as stack:
        follow = [stack.enter_context(tab(worker).following()) for worker in (0, 1, 1)]
        wait_until(lambda: readers(two.url) == 3, "three read")
        follow.append(stack.enter_context(tab(1).sending("count")))
        for each in follow:
            heard(each, "one two")
        assert readers(two.url) == 4
    wait_until(lambda: readers(two.url) == 0, "nobody reads")
    assert tab().post("cancel").json()["status"] == "cancelled"


@pytest.fixture
def much(serve: Callable[..., str], name: str) -> Iterator[Person]:
    """Somebody who may send long messages, and whose readers must go back to the log for them."""
    url = serve(
        max_message_bytes=2_000_000,
        max_body_bytes=4_000_000,
        max_model_bytes=4_000_000,
        history_max_messages=2,
    )
    with Person(url, name) as person:
        person.connect()
        yield person


def flood(person: Person, model: ModelServer) -> list[str]:
    """Say more than all buffers between a server and a client hold; return the turns."""
    model.will(*[Reply(text=" ".join(["x" * 250_000] * 8)) for _ in range(4)])
    return [person.say("x" * 1_000_000)["turn_id"] for _ in range(4)]


def test_a_reader_that_does_not_read_for_a_while_gets_everything_in_the_end(
    much: Person, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "QUEUE", 2)
    monkeypatch.setattr(feed, "PAGE", 3)
    with much.following() as slow:
        turns = flood(much, model)
        seen = [event for _ in turns for event in until(slow, "final")]
    assert [event.data["turn_id"] for event in seen if event.name == "final"] == turns
    assert in_order(seen)
    assert "reset" not in names(seen)
    for turn in turns:
        assert len(told(seen, turn)) == 2_000_007
    roles = [event.data["message"]["role"] for event in seen if event.name == "message"]
    assert roles == ["user", "assistant"] * len(turns)


def test_a_reader_that_never_reads_holds_nothing_when_it_has_hung_up(
    much: Person, model: ModelServer
) -> None:
    with much.following():
        wait_until(lambda: readers(str(much.http.base_url)) == 1, "it reads")
        flood(much, model)
        assert readers(str(much.http.base_url)) == 1
    wait_until(lambda: readers(str(much.http.base_url)) == 0, "nobody reads")


# What is sent twice


def test_a_message_that_is_sent_twice_by_its_key_is_one_turn(tab: Tabs, far: ModelServer) -> None:
    far.will(Reply(text="once and for all", pause=0.2))
    people = [tab(0), tab(1), tab(1)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda person: person.keyed("chat", "k-1", message="hello"), people))
    again = people[1].keyed("chat", "k-1", message="hello")
    assert {answer.text for answer in answers} == {again.text}
    assert again.json()["turn_id"] == "k-1"
    assert again.headers["mcp-chat-turn"] == "k-1"
    assert people[0].say("hello", message_id="k-1") == again.json()
    assert len(far.requests) == 1
    assert [message["content"] for message in people[0].history()] == ["hello", "once and for all"]


def test_the_id_in_the_body_is_the_turns_whatever_the_header_says(alice: Person, model: ModelServer) -> None:
    alice.connect()
    answer = alice.keyed("chat", "the-header", message="hello", message_id="the-body").json()
    assert answer["turn_id"] == "the-body"
    assert alice.keyed("chat", "the-header", message="hello").json()["turn_id"] == "the-header"
    assert len(model.requests) == 2


@pytest.mark.parametrize("tools", [False, True], ids=["text", "tools"])
def test_an_answer_is_given_again_from_the_record_when_the_log_is_lost(
    tab: Tabs, far: ModelServer, two: Installation, tools: bool
) -> None:
    tab().connect(server={"name": "demo"})
    calls = [Reply(text="Adding.", calls=[("demo__add", {"a": 2, "b": 3})])] if tools else []
    far.will(*calls, Reply(text="It is five."))
    first = tab(0).keyed("chat", "k-1", message="hello")
    with tab(1).sending("hello", key="k-1") as events:
        streamed = list(events)
    asked = len(far.requests)
    for worker in (0, 1):
        with two.redis() as redis:
            redis.flushall()
        assert tab(worker).keyed("chat", "k-1", message="hello").json() == first.json()
        with tab(1 - worker).sending("hello", key="k-1") as events:
            assert list(events)[-1].data == streamed[-1].data
    assert len(far.requests) == asked
    assert len(tab().history()) == 4 if tools else 2


def test_who_is_cut_off_while_the_record_is_told_has_no_place_to_go_on_from(
    tab: Tabs, two: Installation, name: str
) -> None:
    tab().say("hello", message_id="m-1")
    with two.redis() as redis:
        redis.flushall()
    body = {"user_id": name, "message": "hello", "message_id": "m-1", "streaming": True}
    first, *others = tab(1).http.post("/llmchat/chat", json=body).text.strip().split("\n\n")
    assert first.startswith("id: \nevent: discard\n")
    assert [other for other in others if "id: " in other.split("data: ")[0]] == []


def test_a_request_that_is_sent_twice_by_its_key_is_carried_out_once(
    tab: Tabs, far: ModelServer, two: Installation
) -> None:
    llm = {"model": "openai:scripted"}
    first = tab(0).keyed("connect", "k-1", llm=llm)
    assert first.status_code == 200
    with two.redis() as redis:
        redis.flushall()
    assert tab(1).keyed("connect", "k-1", llm=llm).text == first.text
    far.will(Reply(text="one two three", hang_after=3))
    with tab(0).sending("count") as sent:
        heard(sent, "one two")
        stopped = tab(1).keyed("cancel", "k-1")
        assert stopped.json()["status"] == "cancelled"
        until(sent, "final")
    far.will(Reply(text="four five six", hang_after=3))
    with tab(0).sending("count on") as sent:
        heard(sent, "four five")
        assert tab(1).keyed("cancel", "k-1").text == stopped.text
        assert tab(0).get("history/{me}").json()["running"] is not None
        assert tab(1).keyed("cancel", "k-2").json()["status"] == "cancelled"
        until(sent, "final")
    assert tab(0).keyed("disconnect", "k-1").json()["status"] == "disconnected"
    tab(1).connect()
    assert tab(0).keyed("disconnect", "k-1").json()["status"] == "disconnected"
    assert tab(1).get("status/{me}").json()["connected"] is True


def test_a_disconnect_whose_answer_was_lost_has_the_same_answer_again(tab: Tabs) -> None:
    first = tab(0).keyed("disconnect", "k-1")
    assert first.json()["status"] == "disconnected"
    assert tab(1).keyed("disconnect", "k-1").text == first.text


def test_a_cancel_whose_log_has_gone_is_answered(
    settings: Callable[..., Settings], serve: Callable[..., str], valkey_url: str, name: str
) -> None:
    """Its key may outlive the log: that of a user who disconnects is soon dropped."""
    with Person(serve(redis_url=valkey_url), name) as person:
        person.http.timeout = httpx.Timeout(15)
        for _ in range(2):
            person.connect()
            assert person.keyed("cancel", "k-1").json()["status"] == "no_running_turn"
            person.post("disconnect").raise_for_status()
            with Redis.from_url(valkey_url) as redis:
                redis.delete(f"chat:events:{{{name}}}", f"active:session:{{{name}}}")


def test_the_same_key_on_requests_of_different_kinds_is_nothing_in_common(
    alice: Person, model: ModelServer
) -> None:
    connected = alice.keyed("connect", "the-key", llm={"model": "openai:scripted"})
    assert connected.json()["status"] == "connected"
    assert alice.keyed("cancel", "the-key").json()["status"] == "no_running_turn"
    answer = alice.keyed("chat", "the-key", message="hello").json()
    assert answer["response"] == "1 messages, the last from user: hello"
    with Person(str(alice.http.base_url), f"{alice.name}-2") as bob:
        bob.keyed("connect", "the-key", llm={"model": "openai:scripted"}).raise_for_status()
        theirs = bob.keyed("chat", "the-key", message="another").json()
        assert theirs["response"] == "1 messages, the last from user: another"
    assert alice.keyed("disconnect", "the-key").json()["status"] == "disconnected"
    assert alice.get("status/{me}").json()["connected"] is False


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 65, b"a/b", b"a\tb", "é".encode()])
@pytest.mark.parametrize("path", ["chat", "connect", "cancel", "disconnect"])
def test_a_key_that_is_none_is_refused(alice: Person, path: str, key: bytes) -> None:
    alice.connect()
    more: dict[str, dict[str, Any]] = {
        "chat": {"message": "hello"},
        "connect": {"llm": {"model": "openai:scripted"}},
    }
    answer = alice.http.post(
        f"/llmchat/{path}",
        json={"user_id": alice.name, **more.get(path, {})},
        headers=[(b"idempotency-key", key)],
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert "Idempotency-Key" in answer.json()["detail"]
    assert alice.get("status/{me}").json()["connected"] is True


# Messages while a turn runs


@pytest.mark.parametrize("worker", [0, 1])
def test_a_message_that_interrupts_stops_what_runs_and_waits_and_is_answered(
    tab: Tabs, far: ModelServer, worker: int
) -> None:
    session = tab().get("config/{me}").json()["session_id"]
    far.will(Reply(text="one two three", hang_after=3), Reply(text="I listen."))
    with tab(0).sending("count") as running_, tab(1).sending("wait") as waiting:
        heard(running_, "one two")
        wait_until(lambda: tab(1).get("history/{me}").json()["running"], "a turn runs")
        answer = tab(worker).say("stop it", if_running="interrupt")
        stopped = [until(running_, "final")[-1].data, until(waiting, "final")[-1].data]
    assert answer["response"] == "I listen."
    assert answer["stopped"] is False
    assert [(final["stopped"], final["content"]) for final in stopped] == [(True, "one two"), (True, "")]
    said = [message["content"] for message in tab().history(f"?session_id={session}")]
    assert said == ["count", "one two", "wait", "stop it", "I listen."]


def test_a_message_that_waits_and_is_stopped_does_not_come_between_a_call_and_its_result(
    tab: Tabs, far: ModelServer
) -> None:
    tab().connect(server={"name": "demo"})
    far.will(Reply(calls=[("demo__slow_count", {"steps": 60})]), Reply(text="I listen."))
    with tab(0).sending("count") as called, tab(1).sending("wait") as waiting:
        until(called, "tool_start")
        assert tab(1).say("stop it", if_running="interrupt")["response"] == "I listen."
        until(called, "final")
        until(waiting, "final")
    roles = [message["role"] for message in tab().history()]
    assert roles == ["user", "assistant", "tool", "user", "user", "assistant"]
    well_formed(far.requests[-1]["messages"])


def test_a_message_waits_for_its_turn_unless_it_is_told_to_interrupt(tab: Tabs, far: ModelServer) -> None:
    for more in ({}, {"if_running": "queue"}):
        far.will(Reply(text="one two three", pause=0.3), Reply(text="I waited."))
        with tab(0).sending("count") as first:
            heard(first, "one")
            assert tab(1).say("and then?", **more)["response"] == "I waited."
            final = until(first, "final")[-1].data
        assert (final["stopped"], final["content"]) == (False, "one two three")


def test_an_interrupt_does_not_touch_another_conversation(alice: Person, model: ModelServer) -> None:
    alice.connect()
    other = alice.http.post("/llmchat/sessions", json={}).json()["session_id"]
    model.will(
        Reply(text="one two three", hang_after=3),
        Reply(text="four five six", hang_after=3),
        Reply(text="I listen."),
    )
    with ExitStack() as streams:
        untouched = streams.enter_context(alice.sending("count", session_id=other))
        heard(untouched, "one two")
        stopped = streams.enter_context(alice.sending("count"))
        heard(stopped, "four five")
        assert alice.say("stop", if_running="interrupt")["response"] == "I listen."
        assert until(stopped, "final")[-1].data["stopped"] is True
        assert alice.get(f"history/{{me}}?session_id={other}").json()["running"] is not None
        assert alice.post("cancel", session_id=other).json()["status"] == "cancelled"
        assert until(untouched, "final")[-1].data["content"] == "one two"


@pytest.mark.parametrize("value", ["stop", "", None, True, ["queue"]])
def test_nothing_else_can_be_done_with_a_turn_that_runs(alice: Person, value: Any) -> None:
    alice.connect()
    answer = alice.post("chat", message="hello", if_running=value)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "if_running"]
