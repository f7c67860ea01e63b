"""Every limit: at it all is well, one above it is refused; and one greedy user does not slow the others."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from mcp_chat import mounting
from mcp_chat.api import errors, identity
from mcp_chat.api.errors import RETRY_AFTER, STATUS
from mcp_chat.app import create_app
from mcp_chat.dispatch import Dispatch
from mcp_chat.login import metered
from mcp_chat.settings import Settings
from mcp_chat.worker import Protocol
from tests.conftest import on_one_stage
from tests.faults import Stage, ended_in_error, fit, refused, usable, well_formed
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.proxy import proxied
from tests.running import running, wait_until
from tests.sized_mcp import SizedMCP, nested, tool

pytestmark = pytest.mark.slow

BODY, MESSAGE, SERVERS, SESSIONS, QUEUE, ROUNDS, PARALLEL = 4000, 100, 2, 4, 2, 2, 3
TOOLS, DEFINITION, DEFINITIONS, DEPTH = 5, 2000, 6000, 6
RESULT, EVENT, ANSWER = 5000, 8000, 20_000
TURN = 3
SAID, CALLS = 3000, 12

stage, model, alice = on_one_stage(
    requests_per_minute=0,
    max_body_bytes=BODY,
    max_import_bytes=BODY,
    max_message_bytes=MESSAGE,
    max_servers=SERVERS,
    max_sessions=SESSIONS,
    max_tools=TOOLS,
    max_tool_bytes=DEFINITION,
    max_tools_bytes=DEFINITIONS,
    max_schema_depth=DEPTH,
    max_result_bytes=RESULT,
    max_event_bytes=EVENT,
    max_answer_bytes=ANSWER,
    queue_length=QUEUE,
    tool_rounds=ROUNDS,
    parallel_calls=PARALLEL,
    max_model_bytes=SAID,
    max_calls=CALLS,
    tool_timeout=15,
    turn_timeout=40,
    connect_timeout=15,
)


@pytest.fixture(scope="module")
def sized() -> Iterator[tuple[SizedMCP, str]]:
    """The server and its address, once for all tests."""
    server = SizedMCP()
    with running(server.app, grace=0) as url:
        yield server, url


@pytest.fixture
def server(sized: tuple[SizedMCP, str]) -> SizedMCP:
    """The server as it is at first."""
    fresh = SizedMCP()
    sized[0].tools, sized[0].page, sized[0].at_once = fresh.tools, fresh.page, 0
    return sized[0]


@pytest.fixture
def server_url(server: SizedMCP, sized: tuple[SizedMCP, str]) -> str:
    """Where it is."""
    return sized[1]


def over(response: httpx.Response, status: int, code: str) -> str:
    """Return the sentence of a refusal, which says when to try again if that helps."""
    detail = refused(response, status)
    assert response.json()["code"] == code
    if status in (429, 503):
        assert 1 <= int(response.headers["retry-after"]) <= 60
    return detail


def linked(person: Person, url: str, **body: Any) -> dict[str, Any]:
    """Connect to one server and return the answer."""
    return person.connect(server={"url": url, "alias": "s"}, **body)


def unlinked(person: Person, url: str, status: int, code: str) -> str:
    """Fail to connect to one server."""
    server = {"url": url, "alias": "s"}
    return over(person.post("connect", llm={"model": "openai:scripted"}, server=server), status, code)


def called(person: Person, model: ModelServer, **args: Any) -> dict[str, Any]:
    """Have the model call the tool `size`, and return how that ended."""
    model.will(Reply(calls=[("s__size", args)]), Reply(text="I see."))
    frames = person.stream("go")
    assert frames[-1][0] == "final", frames
    return next(data for event, data in frames if event in ("tool_end", "tool_error"))


# Requests


def test_a_body_may_be_so_large(alice: Person, model: ModelServer) -> None:
    alice.connect()
    body = json.dumps({"user_id": alice.name, "message": "hello"})
    headers = {"content-type": "application/json"}
    sent = [alice.http.post("/llmchat/chat", content=body.ljust(BODY + n), headers=headers) for n in (0, 1)]
    assert sent[0].status_code == 200
    assert over(sent[1], 413, "too_large") == f"The request is larger than {BODY} bytes. Send less at once."


def test_a_message_may_be_so_long_in_bytes(alice: Person, model: ModelServer) -> None:
    alice.connect()
    assert alice.say("ü" * (MESSAGE // 2))["response"]
    over(alice.post("chat", message="ü" * (MESSAGE // 2) + "x"), 413, "too_large")
    assert alice.history()[-1]["role"] == "assistant", "what was refused is not in the history"


@pytest.mark.parametrize("form", ["one line", "many lines", "the address", "without end"])
def test_the_head_of_a_request_may_be_so_large(stage: Stage, form: str) -> None:
    limit = 3000
    with running(_hello, http=partial(Protocol, head_limit=limit)) as url:
        host, port = url.removeprefix("http://").split(":")
        for size, status in ((limit - 200, b"200"), (limit + 200, b"400")):
            head = {
                "one line": f"GET / HTTP/1.1\r\nHost: x\r\na: {'x' * size}\r\n\r\n",
                "many lines": "GET / HTTP/1.1\r\nHost: x\r\n" + "ab: cdef\r\n" * (size // 10) + "\r\n",
                "the address": f"GET /{'x' * size} HTTP/1.1\r\nHost: x\r\n\r\n",
                "without end": f"GET / HTTP/1.1\r\nHost: x\r\na: {'x' * size}",
            }[form]
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(head.encode())
                if form == "without end" and status == b"200":
                    client.sendall(b"\r\n\r\n")
                told = client.recv(4096)
            assert told.startswith(b"HTTP/1.1 " + status)
        assert told.endswith(b"The request's headers are larger than 3000 bytes.")


EMPTY = b"\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"


def test_empty_lines_behind_a_body_begin_no_request() -> None:
    with running(_hello, http=partial(Protocol, head_seconds=1.5)) as url, _dialled(url) as client:
        for _ in range(2):
            client.sendall(POST)
            assert b"hello" in _answer(client)
            client.sendall(EMPTY)
            client.settimeout(3)
            with pytest.raises(TimeoutError):
                client.recv(1)  # neither an answer nor an end
            client.settimeout(10)


@pytest.mark.parametrize("sent", [b"", EMPTY * 3])
def test_a_connection_on_which_nothing_comes_ends_without_a_word(sent: bytes) -> None:
    with running(_hello, http=partial(Protocol, head_seconds=1.5)) as url, _dialled(url) as client:
        client.sendall(sent)
        assert client.recv(4096) == b""


@pytest.mark.parametrize("before", [b"", POST, POST + b"G"])
def test_a_head_that_takes_too_long_is_refused(before: bytes) -> None:
    with running(_hello, http=partial(Protocol, head_seconds=1.5)) as url, _dialled(url) as client:
        if before:
            client.sendall(before)
            assert b"hello" in _answer(client)
        if not before.endswith(b"G"):
            client.sendall(b"G")
        assert b"took longer than 1.5 seconds" in client.recv(4096)


def test_an_idle_connection_is_closed_whatever_empty_lines_come() -> None:
    with running(_hello, http=Protocol, timeout_keep_alive=1) as url, _dialled(url) as client:
        client.sendall(POST)
        assert b"hello" in _answer(client)
        client.sendall(EMPTY)
        assert client.recv(4096) == b""


def _answer(client: socket.socket) -> bytes:
    """Read a chunked answer to its end."""
    read = b""
    while not read.endswith(b"0\r\n\r\n"):
        more = client.recv(4096)
        assert more, read
        read += more
    return read


def _dialled(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


async def _hello(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.slow
def test_a_worker_has_the_limit_to_heads_that_is_set(tmp_path: Path) -> None:
    with Installation(
        tmp_path, "http://127.0.0.1:9/v1", workers=1, MCP_CHAT_MAX_HEADER_BYTES="2000"
    ) as installation:
        sizes = (1000, 2000)
        answers = [httpx.get(f"{installation.url}/livez", headers={"x": "a" * size}) for size in sizes]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[1].text == "The request's headers are larger than 2000 bytes."


# What a user has


def test_a_user_may_be_connected_to_so_many_servers(alice: Person, server_url: str) -> None:
    servers = [{"url": f"{server_url}/json", "alias": f"s{n}"} for n in range(SERVERS + 1)]
    assert alice.connect(servers=servers[:-1])["tool_count"] == 2 * SERVERS
    answer = alice.post("connect", llm={"model": "openai:scripted"}, servers=servers)
    assert over(answer, 422, "invalid_body") == f"body.servers: Connect to at most {SERVERS} servers at once."
    assert answer.json()["errors"][0]["loc"] == ["body", "servers"]
    assert alice.get("status/{me}").json()["connected"] is True


def test_a_user_may_have_so_many_conversations(alice: Person, model: ModelServer) -> None:
    alice.connect()
    ids = [alice.post("sessions", name=f"no. {n}").json()["session_id"] for n in range(SESSIONS)]
    exported = {"schema": "mcp-chat/session/1", "name": "a", "messages": [{"role": "user", "content": "a"}]}
    for answer in (
        alice.post("sessions", name="one more"),
        alice.http.post("/llmchat/sessions/import", json=exported),
        alice.post("chat", message="hello", session_id="a-new-one"),
        alice.post("chat", message="hello"),
        alice.http.patch(f"/llmchat/sessions/{alice.connect()['session_id']}", json={"name": "one more"}),
    ):
        assert "Delete some" in over(answer, 422, "too_many_sessions")
    alice.post("disconnect")
    alice.connect()
    assert alice.say("hello", session_id=ids[0])["session_id"] == ids[0], "those that there are go on"
    assert alice.http.delete(f"/llmchat/sessions/{ids[1]}").status_code == 200
    answered = alice.say("hello", session_id="a-new-one", message_id="the-same")
    assert alice.say("hello", session_id="a-new-one", message_id="the-same") == answered, (
        "it is there already"
    )
    over(alice.post("sessions", name="one more"), 422, "too_many_sessions")


def test_conversations_that_are_begun_together_are_each_counted(alice: Person) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: alice.post("sessions", name=f"no. {n}"), range(12)))
    assert sorted(answer.status_code for answer in answers) == [201] * SESSIONS + [422] * (12 - SESSIONS)


def test_so_many_messages_may_wait(alice: Person, model: ModelServer) -> None:
    alice.connect()
    model.will(Reply(text="hm", hang_after=0))
    with ExitStack() as stack:
        frames = [stack.enter_context(alice.streaming(f"message {n}")) for n in range(1 + QUEUE)]
        detail = over(alice.post("chat", message="one more"), 429, "too_many_waiting")
        assert "Wait for one of them, or cancel." in detail
        assert alice.post("cancel").json()["status"] == "cancelled"
        assert [list(each)[-1][0] for each in frames] == ["final"] * (1 + QUEUE)
    usable(alice, model)


def test_a_full_queue_of_one_can_be_cancelled_and_left(
    serve: Callable[..., str], model: ModelServer, name: str
) -> None:
    model.will(*[Reply(text="hm", hang_after=0)] * 2)
    with Person(serve(queue_length=1), name) as bob, ExitStack() as stack:
        for path, status in (("cancel", "cancelled"), ("disconnect", "disconnected")):
            bob.connect()
            frames = [stack.enter_context(bob.streaming(f"message {n}")) for n in range(2)]
            over(bob.post("chat", message="one more"), 429, "too_many_waiting")
            assert bob.post(path).json()["status"] == status
            assert [list(each)[-1][0] for each in frames] == ["final"] * 2


@pytest.mark.parametrize("kind", ["server", "model"])
def test_of_a_user_so_many_names_are_looked_up_at_a_time(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    running_now, most, real, guard = [], [], socket.getaddrinfo, threading.Lock()

    def scripted(host: Any, *args: Any, **more: Any) -> Any:
        if not str(host).endswith("slow.example"):
            return real(host, *args, **more)
        with guard:
            running_now.append(host)
            most.append(len(running_now))
        time.sleep(0.2)
        running_now.remove(host)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", scripted)
    with Person(serve(max_servers=8), name) as bob:
        if kind == "server":
            servers = [{"url": f"https://{n}.slow.example/mcp", "alias": f"s{n}"} for n in range(8)]
            answer = bob.post("connect", llm={"model": "openai:scripted"}, servers=servers)
            over(answer, 400, "address_not_allowed")
        else:
            llm = {"provider": "openai", "config": {"model": "m", "base_url": "https://slow.example/v1"}}
            assert bob.post("connect", llm=llm).status_code == 200
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda n: bob.post("chat", message="hi", session_id=f"{n}"), range(4)))
    assert max(most) == 2


# What a server may send


def test_a_server_may_have_so_many_tools(
    alice: Person, model: ModelServer, server: SizedMCP, server_url: str
) -> None:
    server.tools = [tool(f"t{n}") for n in range(TOOLS)]
    for server.page in (1000, 2, 1):
        assert linked(alice, f"{server_url}/json")["tool_count"] == TOOLS
    server.tools.append(tool("one-more"))
    for server.page in (1000, 2, 1):
        detail = unlinked(alice, f"{server_url}/json", 422, "too_many_tools")
        assert detail == f"The server s lists more than {TOOLS} tools. Connect to one with fewer."
    usable(alice, model)
    server.page = 0
    assert linked(alice, f"{server_url}/json")["tool_count"] == 0, "pages without tools end, too"


def test_a_tool_whose_definition_is_too_large_is_left_out_and_said_so(
    alice: Person, model: ModelServer, server: SizedMCP, server_url: str
) -> None:
    frame = len(json.dumps(["s__t0", "", {"type": "object", "title": ""}]))
    server.tools = [
        tool(f"t{n}", inputSchema={"type": "object", "title": "x" * (DEFINITION - frame + n + 3)})
        for n in range(2)
    ]
    connected = linked(alice, f"{server_url}/json")
    assert connected["tools"] == ["s__t0"]
    assert connected["left_out"] == {"s__t1": f"its definition is larger than {DEFINITION} bytes"}
    usable(alice, model)
    assert [each["function"]["name"] for each in model.requests[-1]["tools"]] == ["s__t0"]


def test_a_tool_whose_schema_is_too_deep_is_left_out_and_said_so(
    alice: Person, model: ModelServer, server: SizedMCP, server_url: str
) -> None:
    depths = (DEPTH, DEPTH + 1, 100)
    server.tools = [tool(f"t{depth}", inputSchema=nested(depth)) for depth in depths]
    connected = linked(alice, f"{server_url}/json")
    assert connected["tools"] == [f"s__t{DEPTH}"]
    why = f"its schema is nested more than {DEPTH} levels deep"
    assert connected["left_out"] == {f"s__t{depth}": why for depth in depths[1:]}
    usable(alice, model)


@pytest.mark.parametrize("kind", ["inputSchema", "outputSchema"])
def test_a_tools_schemas_count_both(alice: Person, server: SizedMCP, server_url: str, kind: str) -> None:
    large = {"type": "object", "title": "x" * DEFINITION}
    server.tools = [tool("good"), tool("large", **{kind: large}), tool("deep", **{kind: nested(DEPTH + 1)})]
    connected = linked(alice, f"{server_url}/json")
    assert connected["tools"] == ["s__good"]
    assert connected["left_out"] == {
        "s__large": f"its definition is larger than {DEFINITION} bytes",
        "s__deep": f"its schema is nested more than {DEPTH} levels deep",
    }


@pytest.mark.parametrize("page", [1000, 1])
def test_the_definitions_of_a_server_may_be_so_large_together(
    alice: Person, model: ModelServer, server: SizedMCP, server_url: str, page: int
) -> None:
    frame = len(json.dumps(["t0", "", {"type": "object", "title": ""}]))
    sizes = (DEFINITION, DEFINITION, DEFINITION - 100, 101, 100)
    server.page = page
    server.tools = [
        tool(f"t{n}", inputSchema={"type": "object", "title": "x" * (size - frame)})
        for n, size in enumerate(sizes)
    ]
    connected = linked(alice, f"{server_url}/json")
    assert connected["tools"] == ["s__t0", "s__t1", "s__t2"]
    why = f"the server's definitions up to here are larger than {DEFINITIONS} bytes; no more are read"
    assert connected["left_out"] == {f"s__t{n}": why for n in ((3, 4) if page > 1 else (3,))}
    server.tools[3:] = [tool("t3", inputSchema={"type": "object", "title": "x" * (100 - frame)})]
    assert linked(alice, f"{server_url}/json")["tool_count"] == 4, "at the limit all is well"
    usable(alice, model)


def test_who_connects_to_good_tools_hears_of_none_left_out(alice: Person, server_url: str) -> None:
    assert "left_out" not in linked(alice, f"{server_url}/json")


@pytest.mark.parametrize("form", ["json", "events"])
def test_a_result_may_be_so_large(alice: Person, model: ModelServer, server_url: str, form: str) -> None:
    linked(alice, f"{server_url}/{form}")
    assert called(alice, model, size=RESULT)["output"] == "x" * RESULT
    end = called(alice, model, size=RESULT + 1)
    assert end["type"] == "tool_error"
    assert (
        end["error"]
        == f"The tool's result is larger than {RESULT} bytes and was not read. Ask it for less at once."
    )
    well_formed(model.requests[-1]["messages"])
    assert called(alice, model, size=1)["output"] == "x", "the connection is as good as before"


@pytest.mark.parametrize(("form", "limit"), [("json", ANSWER), ("events", EVENT)])
def test_an_answer_or_an_event_may_be_so_large(
    alice: Person, model: ModelServer, server_url: str, form: str, limit: int
) -> None:
    linked(alice, f"{server_url}/{form}")
    assert "was not read" in called(alice, model, size=limit - 500)["error"], "it was read, and is a result"
    end = called(alice, model, size=limit + 500)
    assert end["type"] == "tool_error"
    assert "too large" in fit(end["error"])
    assert called(alice, model, size=1)["output"] == "x", "the connection is as good as before"


@pytest.mark.parametrize(("form", "limit"), [("json", ANSWER), ("events", EVENT)])
def test_a_list_of_tools_may_be_so_large(
    alice: Person, server: SizedMCP, server_url: str, form: str, limit: int
) -> None:
    server.tools = [tool("t", description="x" * (limit - 500))]
    assert linked(alice, f"{server_url}/{form}")["tools"] == ["s__t"]
    server.tools = [tool("t", description="x" * (limit + 500))]
    unlinked(alice, f"{server_url}/{form}", 503, "answer_too_large")


def test_a_compressed_answer_is_refused_however_small_it_is(alice: Person, server_url: str) -> None:
    unlinked(alice, f"{server_url}/gzip", 503, "answer_too_large")


# What a turn may do


def test_a_turn_may_have_so_many_rounds_of_tool_calls(
    alice: Person, model: ModelServer, server_url: str
) -> None:
    linked(alice, f"{server_url}/json")
    ask = Reply(calls=[("s__size", {})])
    model.will(*[ask] * ROUNDS, Reply(text="done"))
    assert alice.say("go")["response"] == "done"
    model.will(*[ask] * (ROUNDS + 1), Reply(text="done"))
    assert "again and again" in over(alice.post("chat", message="go"), 503, "model_failed")
    usable(alice, model)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_message_of_a_model_may_have_so_many_calls(
    alice: Person, model: ModelServer, server_url: str, streamed: bool
) -> None:
    linked(alice, f"{server_url}/json")
    calls: list[tuple[str, Any]] = [("s__size", {})] * (CALLS + 1)
    ids: list[str | None] = [f"c{n}" for n in range(CALLS + 1)]
    model.will(*[Reply(calls=calls[:-1], call_ids=ids[:-1])] * 2, Reply(text="done"))
    assert alice.say("go")["response"] == "done", "each message is counted by itself"
    before = len(alice.history())
    model.will(Reply(calls=calls, call_ids=ids), Reply(text="done"))
    if streamed:
        told = ended_in_error(alice.stream("go"))["error"]
    else:
        told = over(alice.post("chat", message="go"), 503, "model_failed")
    assert f"more than {CALLS} tool calls at once, and none was made" in told
    assert [message["role"] for message in alice.history()[before:]] == ["user"]
    usable(alice, model)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_message_of_a_model_may_be_so_large(alice: Person, model: ModelServer, streamed: bool) -> None:
    alice.connect()
    model.will(Reply(text="é" * (SAID // 2)))
    assert alice.say("go")["response"] == "é" * (SAID // 2)
    model.will(Reply(text="12345678 " * (SAID // 9 + 1)))
    if streamed:
        told = ended_in_error(alice.stream("go"))["error"]
    else:
        told = over(alice.post("chat", message="go"), 503, "answer_too_large")
    assert "The model's answer is too large. Ask for less at once." in told
    kept = alice.history()[-1]
    assert kept["metadata"]["interrupted"] is True
    assert SAID - 20 < len(kept["content"]) <= SAID
    usable(alice, model)


def test_the_arguments_of_a_model_count_as_what_it_says(
    alice: Person, model: ModelServer, server_url: str
) -> None:
    linked(alice, f"{server_url}/json")
    assert called(alice, model, size=1, more="x" * (SAID - 100))["output"] == "x"
    model.will(Reply(calls=[("s__size", {"more": "x" * SAID})]), Reply(text="done"))
    over(alice.post("chat", message="go"), 503, "answer_too_large")
    usable(alice, model)


def test_a_turn_has_so_many_calls_on_their_way_at_a_time(
    alice: Person, model: ModelServer, server: SizedMCP, server_url: str
) -> None:
    linked(alice, f"{server_url}/json")
    calls: list[tuple[str, Any]] = [("s__wait", {"seconds": 0.5}) for _ in range(3 * PARALLEL)]
    model.will(Reply(calls=calls, call_ids=[f"c{n}" for n in range(len(calls))]), Reply(text="done"))
    answer = alice.say("go")
    assert (answer["response"], len(answer["tool_invocations"])) == ("done", 2 * len(calls))
    assert server.at_once == PARALLEL


def test_a_tool_call_may_take_so_long(
    serve: Callable[..., str], model: ModelServer, server_url: str, name: str
) -> None:
    with Person(serve(tool_timeout=5), name) as bob:
        linked(bob, f"{server_url}/json")
        assert called(bob, model, seconds=0.3)["output"] == "x"
        assert called(bob, model, seconds=30)["error"] == "The tool did not answer within 5 seconds."


def test_a_turn_may_take_so_long(serve: Callable[..., str], model: ModelServer, name: str) -> None:
    model.will(Reply(text="word " * 200, pause=0.1))
    with Person(serve(turn_timeout=TURN), name) as bob:
        bob.connect()
        told = refused(bob.post("chat", message="go"), 504)
    assert told == f"The turn took longer than {TURN} seconds and was ended."


# Answers


@pytest.mark.parametrize("code", [code for code, status in STATUS.items() if status in (429, 503)])
def test_each_429_and_503_says_when_to_try_again(code: str) -> None:
    assert errors.answer(code, "sentence").headers["retry-after"] == RETRY_AFTER[code]
    assert 1 <= int(RETRY_AFTER[code]) <= 60


# Open streams


def test_a_user_may_have_so_many_streams_open(serve: Callable[..., str], name: str) -> None:
    url = serve(max_streams=2)
    with Person(url, name) as alice, Person(url, f"{name}-2") as bob:
        for person in (alice, bob):
            person.connect()
        with alice.following(), alice.following():
            assert "as many streams open as possible (2)" in over(
                alice.http.get("/llmchat/events"), 429, "too_many_streams"
            )
            over(alice.post("chat", message="no", streaming=True), 429, "too_many_streams")
            assert alice.history() == [], "a message that was refused was not taken"
            assert alice.say("not streamed")["response"]
            assert bob.stream("hello")[-1][0] == "final"
        wait_until(lambda: is_let_in(alice), "there is a place again")
        assert alice.stream("hello")[-1][0] == "final"


def is_let_in(person: Person) -> bool:
    """Whether there is a place for another stream; this one takes it for a moment, and is none."""
    return person.http.get("/llmchat/events?session_id=none").status_code == 404


@pytest.mark.parametrize("ends", ["by itself", "with a hang-up", "refused", "with a hang-up at once"])
def test_a_stream_gives_its_place_back_however_it_ends(
    serve: Callable[..., str], name: str, ends: str, model: ModelServer
) -> None:
    with Person(serve(max_streams=1), name) as alice:
        alice.connect()
        for _ in range(3):
            match ends:
                case "by itself":
                    assert alice.stream("hello")[-1][0] == "final"
                case "with a hang-up":
                    model.will(Reply(text="word " * 20, pause=0.02))
                    with alice.streaming("hello") as frames:
                        next(frames)
                case "refused":
                    over(
                        alice.post("chat", message="x", streaming=True, session_id="x" * 400),
                        422,
                        "invalid_body",
                    )
                    assert alice.http.get("/llmchat/events?session_id=none").status_code == 404
                case _:
                    hung_up_at_once(alice)
            wait_until(lambda: is_let_in(alice), "the place is free again")


def hung_up_at_once(person: Person) -> None:
    """Ask for events, and go before the answer."""
    url = person.http.base_url
    cookie = "; ".join(f"{each.name}={each.value}" for each in person.http.cookies.jar)
    head = f"GET /llmchat/events HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80)) as raw:
        raw.sendall(head.encode())


# Requests in a minute


def test_a_user_may_make_so_many_requests_in_a_minute(
    serve: Callable[..., str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(requests_per_minute=6)
    began = time.monotonic()
    with Person(url, name) as alice, Person(url, f"{name}-2") as bob:
        alice.connect()
        alice.say("each request is counted once, whoever is asked for in it")
        assert [alice.get(path).status_code for path in ("servers", "status/{me}", "sessions")] == [200] * 3
        assert alice.http.get("/auth").status_code == 200
        answers = [alice.get("servers"), alice.post("chat", message="x"), alice.http.get("/auth")]
        for answer in answers:
            assert "more than 6 requests in a minute" in over(answer, 429, "too_many_requests")
            assert 10 - (time.monotonic() - began) <= int(answer.headers["retry-after"]) <= 10
        assert alice.http.get("/livez").status_code == 200
        bob.connect()


def test_requests_that_nobody_is_proven_for_are_not_counted(serve: Callable[..., str], name: str) -> None:
    url = serve(requests_per_minute=2)
    with httpx.Client(base_url=url) as nobody:
        assert {nobody.get("/llmchat/servers").status_code for _ in range(9)} == {401}
    with Person(url, name) as alice:
        assert [alice.get("servers").status_code for _ in range(3)] == [200, 200, 429]


def test_an_open_stream_is_one_request_however_often_its_login_is_proven_again(
    serve: Callable[..., str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "PROVE_EVERY", 0.0)
    with Person(serve(requests_per_minute=3), name) as alice:
        alice.connect()
        with alice.following() as events:
            assert alice.say("hello")["response"]
            assert next(events).name == "turn"
        assert alice.get("servers").status_code == 429


@pytest.mark.parametrize("per_minute", [0, 100_000])
def test_without_a_limit_requests_are_not_refused(
    serve: Callable[..., str], name: str, per_minute: int
) -> None:
    with Person(serve(requests_per_minute=per_minute), name) as alice:
        assert {alice.get("servers").status_code for _ in range(50)} == {200}


def test_workers_count_the_requests_of_a_user_together(
    settings: Callable[..., Settings], valkey_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "PATIENCE", 30.0)
    with ExitStack() as stack:
        workers = [
            create_app(settings(requests_per_minute=4, redis_url=valkey_url, jwt_secret_key="s" * 32))
            for _ in range(2)
        ]
        people = [stack.enter_context(Person(stack.enter_context(running(app)), name)) for app in workers]
        statuses = [person.get("gateway/models").status_code for _ in range(8) for person in people]
    assert statuses == [200] * 4 + [429] * 12


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_a_store_that_is_away_opens_no_door(
    settings: Callable[..., Settings], valkey_url: str, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered, "PATIENCE", 30.0)
    with proxied(valkey_url) as proxy:
        app = create_app(settings(requests_per_minute=5, redis_url=proxy.url))
        with running(app) as url, Person(url, name) as alice, Person(url, f"{name}-2") as bob:
            assert alice.get("gateway/models").status_code == 200
            monkeypatch.setattr(metered, "PATIENCE", 0.3)
            getattr(proxy, how)()
            statuses = [alice.get("gateway/models").status_code for _ in range(7)]
            assert statuses == [200] * 5 + [429] * 2
            assert bob.get("gateway/models").status_code == 200
            proxy.heal()


# Places for turns


@pytest.fixture
def talk(model: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says nothing to `hang`, calls a tool that hangs for `hog`, and answers all else."""

    def reply_to(sent: dict[str, Any]) -> Reply:
        last = sent["messages"][-1]["content"]
        if last.startswith("hang"):
            return Reply(text="hm", hang_after=0)
        if last.startswith("hog"):
            calls: list[tuple[str, Any]] = [("s__wait", {"seconds": 60})] * 20
            return Reply(calls=calls, call_ids=[f"c{n}" for n in range(20)])
        return Reply(text=f"re: {last}")

    monkeypatch.setattr(model, "reply_to", reply_to)


def running_turn(person: Person, message: str, stack: ExitStack, **body: Any) -> Iterator[Any]:
    """Begin a turn and return its frames; it is stopped at the end of the test."""
    stack.callback(person.post, "cancel")
    return stack.enter_context(person.streaming(message, **body))


def asked(model: ModelServer, message: str) -> bool:
    """Whether the model was asked for an answer to a message."""
    return any(sent["messages"][-1]["content"] == message for sent in list(model.requests))


@pytest.mark.usefixtures("talk")
@pytest.mark.parametrize("archived", [True, False])
def test_a_worker_runs_so_many_turns_at_a_time(
    serve: Callable[..., str], model: ModelServer, name: str, archived: bool
) -> None:
    url = serve(max_turns=2, **({} if archived else {"database_url": ""}))
    with ExitStack() as stack:
        people = [stack.enter_context(Person(url, f"{name}-{n}")) for n in range(3)]
        for person in people:
            person.connect()
        for n in range(2):
            running_turn(people[n], f"hang {n}", stack)
            wait_until(partial(asked, model, f"hang {n}"), "the turn runs")
        for streaming in (False, True):
            answer = people[2].post("chat", message="hello", message_id="m", streaming=streaming)
            assert "answered right now" in over(answer, 503, "busy")
        assert people[2].history() == []
        assert people[2].get("servers").status_code == 200, "all else goes on"
        assert people[0].post("cancel").json()["status"] == "cancelled"
        assert people[2].say("hello", message_id="m")["response"] == "re: hello"
        assert len(people[2].history()) == 2


@pytest.mark.usefixtures("talk")
@pytest.mark.parametrize("archived", [True, False])
def test_who_has_a_turn_on_a_full_worker_may_send_behind_it_or_stop_it(
    serve: Callable[..., str], model: ModelServer, name: str, archived: bool
) -> None:
    url = serve(max_turns=1, **({} if archived else {"database_url": ""}))
    with ExitStack() as stack:
        ann, bob = (stack.enter_context(Person(url, f"{name}-{n}")) for n in range(2))
        for person in (ann, bob):
            person.connect()
        first = running_turn(ann, "hang", stack)
        wait_until(partial(asked, model, "hang"), "the turn runs")
        over(bob.post("chat", message="hello"), 503, "busy")
        second = running_turn(ann, "behind it", stack)
        assert ann.say("stop that", if_running="interrupt")["response"] == "re: stop that"
        assert [list(frames)[-1][1]["stopped"] for frames in (first, second)] == [True, True]


@pytest.mark.usefixtures("talk")
@pytest.mark.parametrize("archived", [True, False])
def test_a_message_that_waits_long_for_its_turn_is_not_given_up(
    serve: Callable[..., str], model: ModelServer, name: str, archived: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Dispatch] = []

    def make(*args: Any, **more: Any) -> Dispatch:
        made.append(Dispatch(*args, **more))
        return made[-1]

    monkeypatch.setattr(mounting, "Dispatch", make)
    limits = {"max_user_turns": 1, "turn_timeout": 110, "model_timeout": 110}
    url = serve(**limits, **({} if archived else {"database_url": ""}))
    with Person(url, name) as bob, ExitStack() as stack:
        session_id = bob.connect()["session_id"]
        frames = running_turn(bob, "hang", stack, message_id="m")
        wait_until(partial(asked, model, "hang"), "the turn runs")
        second = running_turn(bob, "hello", stack, session_id="b")
        usual, made[0]._patience = made[0]._patience, 0.5
        for _ in range(2):
            assert list(frames)[-1][0] == "error", "patience with a turn that has begun has an end"
            frames = running_turn(bob, "hang", stack, message_id="m")
        made[0]._patience = usual
        assert bob.post("cancel", session_id=session_id).json()["status"] == "cancelled"
        assert list(second)[-1][0] == "final"


@pytest.mark.usefixtures("talk")
def test_a_user_has_so_many_turns_at_a_time_and_the_others_wait_in_order(
    serve: Callable[..., str], model: ModelServer, name: str
) -> None:
    url = serve(max_user_turns=2)
    with ExitStack() as stack:
        alice, bob = (stack.enter_context(Person(url, f"{name}-{n}")) for n in range(2))
        for person in (alice, bob):
            person.connect()
        ids = [alice.post("sessions", name=f"no. {n}").json()["session_id"] for n in range(5)]
        turns = []
        for n, session_id in enumerate(ids):
            turns.append(running_turn(alice, f"hang {n}", stack, session_id=session_id))
            if n < 2:
                wait_until(partial(asked, model, f"hang {n}"), "the turn runs")
        assert bob.say("hello")["response"] == "re: hello"
        for n in range(2, 5):
            assert not asked(model, f"hang {n}")
            assert alice.post("cancel", session_id=ids[n - 2]).json()["status"] == "cancelled"
            wait_until(partial(asked, model, f"hang {n}"), "the next one runs")
        assert alice.post("cancel").json()["status"] == "cancelled"
        assert [list(frames)[-1][0] for frames in turns] == ["final"] * 5


@pytest.mark.usefixtures("talk")
def test_a_turn_that_waits_for_a_place_can_be_stopped(
    serve: Callable[..., str], model: ModelServer, alice: Person, name: str
) -> None:
    with ExitStack() as stack:
        bob = stack.enter_context(Person(serve(max_user_turns=1), name))
        bob.connect()
        ids = [bob.post("sessions", name=f"no. {n}").json()["session_id"] for n in range(2)]
        first = running_turn(bob, "hang", stack, session_id=ids[0])
        wait_until(partial(asked, model, "hang"), "the turn runs")
        second = running_turn(bob, "hang again", stack, session_id=ids[1])
        wait_until(lambda: bob.history(f"?session_id={ids[1]}") == [], "nothing is said there yet")
        assert bob.post("cancel", session_id=ids[1]).json()["status"] == "cancelled"
        assert list(second)[-1][1]["stopped"] is True
        assert bob.post("cancel").json()["status"] == "cancelled"
        assert list(first)[-1][1]["stopped"] is True
        assert not asked(model, "hang again")


# One greedy user


@pytest.mark.usefixtures("talk")
@pytest.mark.parametrize("what", ["hang", "hog"])
def test_one_greedy_user_does_not_keep_the_others_from_being_served(
    serve: Callable[..., str], model: ModelServer, server: SizedMCP, server_url: str, name: str, what: str
) -> None:
    patient = {f"{each}_timeout": 300 for each in ("model", "tool", "turn")}
    url = serve(max_turns=4, max_user_turns=2, requests_per_minute=200, **patient)
    with ExitStack() as stack:
        greedy = stack.enter_context(Person(url, f"{name}-greedy"))
        greedy.http.timeout = 300
        linked(greedy, f"{server_url}/json")
        pool = stack.enter_context(ThreadPoolExecutor(100))
        stack.callback(greedy.post, "cancel")
        sent = [
            pool.submit(greedy.post, "chat", message=f"{what} {n}", session_id=f"{n % 30}")
            for n in range(100)
        ]
        wait_until(
            lambda: sum(each.done() for each in sent) == 100 - 17, "the others are refused", seconds=90
        )
        others = [stack.enter_context(Person(url, f"{name}-{n}")) for n in range(5)]
        for n in range(3):
            for person in others:
                if not n:
                    linked(person, f"{server_url}/json")
                assert person.say(f"hello {n}")["response"] == f"re: hello {n}"
        greedily = [each for each in model.requests if each["messages"][-1]["content"].startswith(what)]
        assert len(greedily) == 2, [each["messages"][-1]["content"] for each in greedily]
        assert greedy.post("cancel").json()["status"] == "cancelled"
        assert sorted(each.result().status_code for each in sent) == [200] * 17 + [429] * (100 - 17)
        wait_until(lambda: greedy.get("servers").status_code == 429, "greed has an end")
        assert [person.get("servers").status_code for person in others] == [200] * 5
