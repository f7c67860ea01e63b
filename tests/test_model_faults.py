"""A model that refuses, hangs, breaks off or talks nonsense ends its turn, and nothing else."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import on_one_stage
from tests.faults import Stage, ended_in_error, failed, fit, refused, usable, well_formed, within
from tests.model_server import ModelServer, Reply
from tests.person import Person

pytestmark = pytest.mark.slow

SILENCE = 6.0
TURN = 15
ROUNDS = 3
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


stage, model, alice = on_one_stage(
    model_timeout=SILENCE,
    turn_timeout=TURN,
    tool_timeout=15,
    tool_rounds=ROUNDS,
    model_retries=0,  # `tests.test_persistence` has what is done about failures
    breaker_failures=0,
)


def sse(*events: Any) -> bytes:
    """A body of these events: JSON values, or text as it is."""
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def delta(**content: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "delta": content, "finish_reason": None}],
    }


# The provider refuses


@STREAMED
@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "refused the request"),
        (401, "Check the key"),
        (402, "used up"),
        (403, "Check the key"),
        (404, "Choose another one"),
        (408, "Please try again"),
        (409, "Please try again"),
        (413, "shorter message"),
        (418, "Please try again"),
        (422, "refused the request"),
        (429, "Wait a moment"),
        (500, "Please try again"),
        (502, "Please try again"),
        (503, "overloaded"),
        (529, "overloaded"),
    ],
)
def test_a_refusal_is_told_with_what_to_do(
    alice: Person, model: ModelServer, streamed: bool, status: int, advice: str
) -> None:
    alice.connect()
    model.will(Reply(status=status))
    with within(SILENCE + 30):
        text = failed(alice, "hi", streamed=streamed, status=503)
    assert text.startswith("Service error: " if streamed else "Chat service error. ")
    assert advice in text
    assert len(model.requests) == 1, "a refusal is told, not hidden behind retries"
    assert alice.history()[-1]["content"] == "hi"
    usable(alice, model)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("7", "7"),
        ("0.2", "1"),
        ("999999999", "3600"),
        ("1e400", "3600"),
        ("-5", "5"),
        ("soon", "5"),
        ("nan", "5"),
        ("-inf", "5"),
        ("Wed, 21 Oct 2065 07:28:00 GMT", "3600"),
        ("Wed, 21 Oct 2015 07:28:00 GMT", "1"),
        ("Wed, 99 Oct 2065", "5"),
        ("", "5"),
    ],
)
def test_the_providers_retry_after_is_handed_on_if_it_is_a_time(
    alice: Person, model: ModelServer, given: str, told: str
) -> None:
    alice.connect()
    model.will(Reply(status=429, headers={"retry-after": given}))
    response = alice.post("chat", message="hi")
    refused(response, 503)
    assert response.headers.get("retry-after") == told


def test_a_redirect_is_not_followed(alice: Person, model: ModelServer, stage: Stage) -> None:
    alice.connect()
    model.will(Reply(status=307, headers={"location": f"{stage.url}/elsewhere"}))
    failed(alice, "hi", streamed=False, status=503)
    assert len(model.headers) == 1
    usable(alice, model)


@STREAMED
def test_a_provider_that_is_not_there_is_told(alice: Person, streamed: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = {"model": "m", "base_url": f"http://127.0.0.1:{port}/v1"}
    alice.connect(llm={"provider": "openai", "config": config})
    with within(SILENCE + 30):
        text = failed(alice, "hi", streamed=streamed, status=503)
    assert "could not be reached" in text


# The provider hangs or breaks off


@pytest.mark.parametrize(
    ("streamed", "reply"),
    [
        pytest.param(True, Reply(before=30), id="no headers, streamed"),
        pytest.param(False, Reply(hang_after=0), id="no first word, whole"),
    ],
)
def test_a_model_that_says_nothing_is_given_up(
    alice: Person, model: ModelServer, streamed: bool, reply: Reply
) -> None:
    alice.connect()
    model.will(reply)
    with within(SILENCE + 30):
        text = failed(alice, "hi", streamed=streamed, status=504)
    assert "timed out" in text
    usable(alice, model)


@STREAMED
def test_a_model_that_falls_silent_is_given_up_and_its_words_are_kept(
    alice: Person, model: ModelServer, streamed: bool
) -> None:
    alice.connect()
    model.will(Reply(text="one two three four", hang_after=3))
    with within(SILENCE + 30):
        text = failed(alice, "hi", streamed=streamed, status=504)
    assert "timed out" in text
    kept = alice.history()[-1]
    assert (kept["role"], kept["content"]) == ("assistant", "one two")
    assert kept["metadata"]["interrupted"] is True
    told = usable(alice, model)
    assert [message["content"] for message in told] == ["hi", "one two", "are you still there?"]


def test_a_model_that_talks_without_end_is_stopped_by_the_turns_limit(
    alice: Person, model: ModelServer
) -> None:
    alice.connect()
    model.will(Reply(text="word " * 10_000, pause=0.05))
    with within(TURN + 30):
        text = failed(alice, "hi", streamed=False, status=504)
    assert f"longer than {TURN} seconds" in text
    usable(alice, model)


@STREAMED
@pytest.mark.parametrize(("pieces", "kept"), [(0, None), (1, None), (3, "one two")])
def test_a_model_that_breaks_off_is_told_and_its_words_are_kept(
    alice: Person, model: ModelServer, streamed: bool, pieces: int, kept: str | None
) -> None:
    alice.connect()
    model.will(Reply(text="one two three four", break_after=pieces, pause=0.01))
    with within(SILENCE + 30):
        text = failed(alice, "hi", streamed=streamed, status=503)
    assert "could not be reached or broke off" in text
    last = alice.history()[-1]
    assert (last["content"] if last["role"] == "assistant" else None) == kept
    usable(alice, model)


# The provider talks nonsense


@STREAMED
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SECRET upstream detail", id="text"),
        pytest.param(b"<html><body>SECRET upstream detail</body></html>", id="HTML"),
        pytest.param(b"\xff\xfe\x00" * 1000, id="bytes"),
        pytest.param(sse("SECRET upstream detail"), id="no JSON"),
        pytest.param(sse('{"choices": ['), id="half JSON"),
        pytest.param(sse("[DONE]"), id="only the end"),
        pytest.param(sse({"error": {"message": "SECRET upstream detail", "code": "x"}}), id="error"),
        pytest.param(sse(delta(content="hi"), {"error": {"message": "SECRET upstream"}}), id="late error"),
        pytest.param(sse(None), id="null"),
        pytest.param(sse([]), id="array"),
        pytest.param(sse({}), id="empty object"),
        pytest.param(sse({"choices": "SECRET"}), id="choices text"),
        pytest.param(sse({"choices": [{"delta": 5}]}), id="delta number"),
        pytest.param(sse({"choices": [{"index": 0, "delta": None}]}), id="delta null"),
        pytest.param(sse(delta(role="assistant", content=5)), id="content number"),
        pytest.param(sse(delta(role="wizard", content="")), id="unknown role"),
        pytest.param(sse(delta(tool_calls="SECRET")), id="calls text"),
        pytest.param(sse(delta(tool_calls=[{}])), id="call without anything"),
        pytest.param(sse(delta(tool_calls=[{"index": 0, "function": None}])), id="call without function"),
        pytest.param(b"data: " + b"x" * 9_000_000, id="9 MB in one event"),
        pytest.param(b"data: " + b"[" * 200_000 + b"\n\n", id="nested without end"),
    ],
)
def test_an_answer_that_cannot_be_read_is_told(
    alice: Person, model: ModelServer, streamed: bool, body: bytes
) -> None:
    alice.connect()
    model.will(Reply(body=body))
    with within(SILENCE + 30):
        failed(alice, "hi", streamed=streamed, status=503)
    usable(alice, model)


@STREAMED
def test_an_empty_answer_is_told(alice: Person, model: ModelServer, streamed: bool) -> None:
    alice.connect()
    model.will(Reply())
    assert "empty answer" in failed(alice, "hi", streamed=streamed, status=503)
    usable(alice, model)


def test_an_empty_answer_after_a_tool_is_told(alice: Person, model: ModelServer, demo_url: str) -> None:
    alice.connect(server={"url": demo_url, "alias": "demo"})
    model.will(Reply(calls=[("demo__add", {"a": 2, "b": 3})]), Reply())
    assert "empty answer" in failed(alice, "add", streamed=False, status=503)
    usable(alice, model)


# Texts


FORGED = 'a\n\nevent: final\ndata: {"type":"final","content":"forged"}\n\n'


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FORGED, id="a forged frame"),
        pytest.param(FORGED.replace("\n", "\r\n"), id="a forged frame with CRLF"),
        pytest.param(FORGED.replace("\n", "\r"), id="a forged frame with CR"),
        pytest.param(FORGED.replace("\n", "\u2028"), id="line separators"),
        pytest.param(FORGED.replace("\n", "\x85"), id="next lines"),
        pytest.param("data: [DONE]\n\n", id="the end of another stream"),
        pytest.param("a\x00b\x1b[31m\x7f", id="control characters"),
        pytest.param("<script>alert(1)</script>", id="a script"),
        pytest.param("😀 é \u202e \ufeff", id="unusual characters"),
        pytest.param(" \n leading and trailing \n ", id="blanks"),
    ],
)
def test_no_text_of_a_model_can_forge_a_frame(alice: Person, model: ModelServer, text: str) -> None:
    alice.connect()
    model.will(Reply(text=text, pause=0.005))
    frames = alice.stream("hi")
    assert {event for event, _ in frames} == {"token", "final"}
    assert [event for event, _ in frames].index("final") == len(frames) - 1
    assert "".join(data["content"] for event, data in frames if event == "token") == text
    assert frames[-1][1]["content"] == text
    assert alice.history()[-1]["content"] == text
    usable(alice, model)


def test_the_bytes_of_a_stream_have_no_line_end_but_those_of_frames(
    alice: Person, model: ModelServer
) -> None:
    alice.connect()
    model.will(Reply(text=FORGED + FORGED.replace("\n", "\r")))
    body = {"user_id": alice.name, "message": "hi", "streaming": True}
    sent = alice.http.post("/llmchat/chat", json=body).text
    assert re.fullmatch(r"(id: \d+-\d+\nevent: (token|final)\ndata: [^\r\n]+\n\n|: alive\n\n)+", sent)


@STREAMED
def test_lone_surrogates_are_replaced(alice: Person, model: ModelServer, streamed: bool) -> None:
    alice.connect()
    model.will(Reply(text="one \ud800 two \udfff three"))
    told = alice.stream("hi")[-1][1]["content"] if streamed else alice.say("hi")["response"]
    assert re.fullmatch("one \ufffd+ two \ufffd+ three", told)
    assert alice.history()[-1]["content"] == told
    usable(alice, model)


def test_a_character_cut_into_its_surrogates_does_no_harm(alice: Person, model: ModelServer) -> None:
    alice.connect()
    model.will(Reply(body=sse(delta(content="a\ud83d"), delta(content="\ude00b"), "[DONE]")))
    for told in (alice.say("hi")["response"], alice.history()[-1]["content"]):
        assert re.fullmatch("a(😀|\ufffd+)b", told)
    usable(alice, model)


def test_lone_surrogates_before_a_call_are_replaced(adder: Person, model: ModelServer) -> None:
    model.will(Reply(text="\ud800 I add.", calls=[("demo__echo", {"text": "a\udfffb"})]), Reply(text="Done."))
    answer = adder.say("add")
    assert re.fullmatch("\ufffd+ I add.\n\nDone.", answer["response"])
    assert re.fullmatch("a\ufffd+b", answer["tool_invocations"][1]["output"])
    well_formed(model.requests[1]["messages"])
    usable(adder, model)


@STREAMED
def test_a_mebibyte_of_text_arrives(alice: Person, model: ModelServer, streamed: bool) -> None:
    alice.connect()
    text = "x" * (2**19 - 1) + " " + "é" * 2**18
    model.will(Reply(text=text))
    with within(SILENCE + 30):
        told = alice.stream("hi")[-1][1]["content"] if streamed else alice.say("hi")["response"]
    assert told == text
    assert alice.history()[-1]["content"] == text
    usable(alice, model)


# Calls


@pytest.fixture
def adder(alice: Person, demo_url: str) -> Person:
    """Someone with the demo's tools."""
    alice.connect(server={"url": demo_url, "alias": "demo"})
    return alice


def kinds(answer: dict[str, Any]) -> list[str]:
    return [invocation["type"] for invocation in answer["tool_invocations"]]


@STREAMED
def test_a_model_that_never_stops_calling_tools_is_stopped(
    adder: Person, model: ModelServer, streamed: bool
) -> None:
    calls = [Reply(calls=[("demo__add", {"a": n, "b": 1})], call_ids=[f"call_{n}"]) for n in range(30)]
    model.will(*calls)
    with within(45):
        text = failed(adder, "count", streamed=streamed, status=503)
    assert "again and again" in text
    assert len(model.requests) <= ROUNDS + 1
    told = usable(adder, model)
    assert [message["role"] for message in told].count("tool") >= ROUNDS


@pytest.mark.parametrize(
    "tool", ["nothing", "demo__nothing", "add", "", "demo__add ", "a" * 500, "😀", "\ud800"]
)
def test_an_unknown_tool_is_told_to_the_model(adder: Person, model: ModelServer, tool: str) -> None:
    model.will(Reply(calls=[(tool, {})]), Reply(text="I see."))
    answer = adder.say("go")
    assert answer["response"] == "I see."
    assert kinds(answer) == ["tool_start", "tool_error"]
    assert "There is no tool" in well_formed(model.requests[1]["messages"])[-1]["content"]
    usable(adder, model)


@STREAMED
def test_a_call_without_any_tools_is_told_to_the_model(
    alice: Person, model: ModelServer, streamed: bool
) -> None:
    alice.connect()
    model.will(Reply(text="Let me see.", calls=[("nothing", {})]), Reply(text="I see."))
    told = alice.stream("go")[-1][1]["content"] if streamed else alice.say("go")["response"]
    assert told == "Let me see.\n\nI see."
    usable(alice, model)


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": 1,',
        "hello",
        "",
        "[1, 2]",
        '"text"',
        "5",
        "null",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e400}',
        pytest.param('{"a": 1' + "0" * 400 + "}", id="an endless integer"),
        pytest.param('{"a": 1' + "0" * 5_000 + "}", id="a longer one than Python reads"),
        pytest.param('{"a": ' + "[" * 5_000 + "]" * 5_000 + "}", id="nested too deeply"),
        "{'a': 1}",
        "{}{}",
        '{"a": "\\ud800"}',
    ],
)
def test_arguments_that_are_no_json_object_are_told_to_the_model(
    adder: Person, model: ModelServer, arguments: str
) -> None:
    model.will(Reply(calls=[("demo__add", arguments)]), Reply(text="I see."))
    answer = adder.say("go")
    assert answer["response"] == "I see."
    assert kinds(answer) == ["tool_start", "tool_error"]
    well_formed(model.requests[1]["messages"])
    usable(adder, model)


@pytest.mark.parametrize(
    "arguments", [{}, {"a": 1}, {"a": "x", "b": "y"}, {"a": None, "b": []}, {"a": 1, "b": 2, "c": {"d": 3}}]
)
def test_arguments_that_do_not_fit_are_told_to_the_model(
    adder: Person, model: ModelServer, arguments: dict[str, Any]
) -> None:
    model.will(Reply(calls=[("demo__add", arguments)]), Reply(text="I see."))
    answer = adder.say("go")
    assert answer["response"] == "I see."
    assert kinds(answer) in (["tool_start", "tool_error"], ["tool_start", "tool_end"])
    usable(adder, model)


@pytest.mark.parametrize(
    "ids",
    [
        [None, None, None],
        ["same", "same", "same"],
        ["", "", ""],
        ["a", None, "a"],
        ["x" * 5_000, "é\n", "\ud800"],
    ],
)
def test_calls_with_bad_ids_get_good_ones(adder: Person, model: ModelServer, ids: list[str | None]) -> None:
    calls: list[tuple[str, Any]] = [("demo__add", {"a": n, "b": 100}) for n in range(3)]
    model.will(Reply(calls=calls, call_ids=ids), Reply(text="Done."))
    answer = adder.say("add")
    assert sorted(kinds(answer)) == ["tool_end"] * 3 + ["tool_start"] * 3
    ended = {i["id"]: i["output"] for i in answer["tool_invocations"] if i["type"] == "tool_end"}
    started = {i["id"]: i["input"] for i in answer["tool_invocations"] if i["type"] == "tool_start"}
    assert {call: str(args["a"] + 100) for call, args in started.items()} == ended
    assert len(ended) == 3
    told = well_formed(model.requests[1]["messages"])
    by_id = {m["tool_call_id"]: m["content"] for m in told if m["role"] == "tool"}
    assert by_id == ended
    usable(adder, model)


def test_of_two_calls_with_one_id_only_the_bad_one_is_refused(adder: Person, model: ModelServer) -> None:
    good, bad = ("demo__add", {"a": 1, "b": 2}), ("demo__add", "{")
    model.will(Reply(calls=[bad, good], call_ids=["same", "same"]), Reply(text="Done."))
    assert sorted(kinds(adder.say("add"))) == ["tool_end", "tool_error", "tool_start", "tool_start"]
    usable(adder, model)


def test_a_call_may_be_corrected_under_its_old_id(adder: Person, model: ModelServer) -> None:
    good, bad = ("demo__add", {"a": 1, "b": 2}), ("demo__add", "{")
    model.will(
        Reply(calls=[bad], call_ids=["same"]), Reply(calls=[good], call_ids=["same"]), Reply(text="Done.")
    )
    assert kinds(adder.say("add")) == ["tool_start", "tool_error", "tool_start", "tool_end"]
    usable(adder, model)


def test_an_id_may_come_again_in_a_later_turn(adder: Person, model: ModelServer) -> None:
    for n in range(3):
        call: list[tuple[str, Any]] = [("demo__add", {"a": n, "b": 1})]
        model.will(Reply(calls=call, call_ids=["same"]), Reply(text="Done."))
        assert adder.say("add")["tool_invocations"][1]["output"] == str(n + 1)
    told = usable(adder, model)
    assert [m["content"] for m in told if m["role"] == "tool"] == ["1", "2", "3"]
    calls = [call["id"] for m in told for call in m.get("tool_calls") or ()]
    assert len(set(calls)) == 3


def test_twenty_calls_at_once_all_get_their_results(adder: Person, model: ModelServer) -> None:
    calls: list[tuple[str, Any]] = [("demo__add", {"a": n, "b": 100}) for n in range(20)]
    model.will(Reply(calls=calls), Reply(text="Done."))
    with within(30):
        answer = adder.say("add")
    outputs = [i["output"] for i in answer["tool_invocations"] if i["type"] == "tool_end"]
    assert sorted(outputs) == sorted(str(n + 100) for n in range(20))
    told = well_formed(model.requests[1]["messages"])
    assert [m["content"] for m in told if m["role"] == "tool"] == [str(n + 100) for n in range(20)]
    usable(adder, model)


@STREAMED
def test_a_model_that_fails_after_a_tool_leaves_the_tools_result_behind(
    adder: Person, model: ModelServer, streamed: bool
) -> None:
    model.will(Reply(calls=[("demo__add", {"a": 2, "b": 3})]), Reply(status=500))
    failed(adder, "add", streamed=streamed, status=503)
    told = usable(adder, model)
    assert [message["role"] for message in told] == ["user", "assistant", "tool", "user"]
    assert told[2]["content"] == "5"


@pytest.mark.parametrize("end", [Reply(break_after=3), Reply(hang_after=3)], ids=["breaks off", "hangs"])
def test_a_call_that_was_not_told_in_full_is_not_made(adder: Person, model: ModelServer, end: Reply) -> None:
    model.will(replace(end, text="Adding.", calls=[("demo__todo_add", {"item": "x"})]))
    frames = adder.stream("add")
    ended_in_error(frames)
    assert "tool_start" not in {event for event, _ in frames}
    assert [m.get("tool_calls") for m in usable(adder, model) if m["role"] == "assistant"] == [None]


def test_one_persons_hanging_model_does_not_hold_up_another(
    alice: Person, stage: Stage, model: ModelServer
) -> None:
    alice.connect()
    model.will(Reply(text="one two three", hang_after=2))
    with alice.streaming("hi") as frames, Person(stage.url, f"{alice.name}-2") as bob:
        assert next(frames) == ("token", {"content": "one"})
        bob.connect()
        with within(SILENCE + 30):
            assert bob.say("hi")["response"] == "1 messages, the last from user: hi"
        assert fit(ended_in_error(list(frames))["error"])
