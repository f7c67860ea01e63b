"""An MCP server that refuses, hangs, lies or dies harms nothing but its own calls."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as mcp
import pytest
from mcp import Client
from mcp.server import MCPServer

from mcp_chat import connections
from mcp_chat.config import ServerConfig
from mcp_chat.connections import Connection
from mcp_chat.demo.server import build_app
from mcp_chat.dialer import NO_HOOKS, Hooks
from mcp_chat.limits import ServerLimits
from mcp_chat.netguard import GuardedBackend2
from mcp_chat.results import MAX_RESULT
from mcp_chat.tools import named
from tests.faults import Stage, fit, refused, staged, usable, well_formed, within
from tests.hostile_mcp import (
    BAD_SCHEMAS,
    FAULTS,
    NOISY,
    ODD_SCHEMAS,
    PROMISES,
    HostileMCP,
    costly_schemas,
    odd_names,
)
from tests.model_server import ModelServer, Reply
from tests.mute import Mute
from tests.person import Person
from tests.running import running, wait_until

pytestmark = pytest.mark.slow

LIMIT = 5.0
UNREADABLE = "The server's list of tools could not be read."
UNREACHABLE = "Failed to connect to MCP server. Please verify the server URL and authentication."


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(
        tmp_path_factory.mktemp("mcp-faults"),
        connect_timeout=LIMIT,
        tool_timeout=LIMIT,
        tool_limit=2 * LIMIT,
        model_timeout=30,
        turn_timeout=60,
    ) as stage:
        yield stage


@pytest.fixture(scope="module")
def servers() -> HostileMCP:
    return HostileMCP()


@pytest.fixture(scope="module")
def hostile_url(servers: HostileMCP) -> Iterator[str]:
    with running(servers.app, grace=0) as url:
        yield url


@pytest.fixture
def hostile(servers: HostileMCP, hostile_url: str) -> str:
    """Base URL of the hostile servers, who remember nothing of earlier tests."""
    servers.requests.clear()
    servers.goodbyes.clear()
    return hostile_url


@pytest.fixture
def model(stage: Stage) -> ModelServer:
    return stage.cleared()


@pytest.fixture
def alice(stage: Stage, name: str) -> Iterator[Person]:
    with Person(stage.url, name) as person:
        yield person


@pytest.fixture
def caller(alice: Person, hostile: str) -> Person:
    """Someone connected to the hostile tools."""
    alice.connect(server={"url": f"{hostile}/calls", "alias": "h"})
    return alice


def call(person: Person, model: ModelServer, tool: str, **args: Any) -> dict[str, Any]:
    """Have the model call a tool; return how the call ended, after the model was told the same."""
    model.will(Reply(calls=[(tool, args)]), Reply(text="I see."))
    answer = person.say("go")
    assert answer["response"] == "I see."
    start, end = answer["tool_invocations"]
    assert start["type"] == "tool_start"
    told = well_formed(model.requests[-1]["messages"])[-1]["content"]
    assert told == end.get("output", end.get("error"))
    ended: dict[str, Any] = end
    return ended


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# Connecting


HTTP_FAULTS = [
    *("400", "401", "403", "404", "405", "429", "500", "502", "503", "204"),
    *("hangs", "hangs-in-the-body", "hangs-in-events", "closes", "half", "html", "html-as-json"),
    *("nothing", "null", "array", "number", "50-mb", "50-mb-of-events", "redirects", "drips"),
    *("endless-json", "gzip-bomb", "long-line", "comments-for-ever", "half-an-event", "rate-limited"),
]
SSE_FAULTS = [
    "401",
    "404",
    "500",
    "hangs-in-events",
    "closes",
    "html",
    "nothing",
    "50-mb-of-events",
    "redirects",
    "long-line",
    "comments-for-ever",
    "half-an-event",
]


@pytest.mark.parametrize(
    ("manner", "transport"),
    [
        *((manner, "streamable_http") for manner in HTTP_FAULTS),
        *((manner, "sse") for manner in SSE_FAULTS),
    ],
)
def test_a_server_that_is_none_is_told_and_nothing_of_what_it_said(
    alice: Person, hostile: str, manner: str, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = {"url": f"{hostile}/{manner}", "transport": transport}
    with within(LIMIT + 30):
        response = alice.post("connect", llm={"model": "openai:scripted"}, server=server)
    detail = refused(response, 503)
    assert detail == UNREACHABLE or "too large" in detail
    assert "SECRET" not in caplog.text
    assert alice.get("status/{me}").json()["connected"] is False


@pytest.mark.parametrize("transport", ["streamable_http", "sse"])
def test_a_server_that_is_not_there_is_told(alice: Person, transport: str) -> None:
    server = {"url": f"http://127.0.0.1:{free_port()}/mcp", "transport": transport}
    with within(LIMIT + 30):
        response = alice.post("connect", llm={"model": "openai:scripted"}, server=server)
    assert refused(response, 503) == UNREACHABLE


def test_a_server_whose_name_is_unknown_is_told(alice: Person) -> None:
    with within(30):
        response = alice.post(
            "connect", llm={"model": "openai:scripted"}, server={"url": "http://nowhere.invalid/mcp"}
        )
    assert response.status_code in (400, 503)
    refused(response, response.status_code)


def test_a_listener_that_never_accepts_http_is_given_up(alice: Person) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, within(LIMIT + 30):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"
        response = alice.post("connect", llm={"model": "openai:scripted"}, server={"url": url})
    assert refused(response, 503) == UNREACHABLE


def test_a_listener_that_never_speaks_tls_is_given_up_and_hung_up_on(alice: Person) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, within(LIMIT + 30):
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/mcp"
        response = alice.post("connect", llm={"model": "openai:scripted"}, server={"url": url})
        assert refused(response, 503) == UNREACHABLE
        there, _ = silent.accept()
        with there:
            there.settimeout(20)
            while there.recv(4096):  # its greeting, and then the end
                pass


@pytest.mark.parametrize(
    ("manner", "told"),
    [
        *((manner, UNREACHABLE) for manner in ("ancient", "list-fails", "nested-schema")),
        *((manner, UNREADABLE) for manner in ("tools-text", "nameless-tool", *BAD_SCHEMAS)),
    ],
)
def test_a_server_that_does_not_keep_to_the_protocol_is_told(
    alice: Person, hostile: str, manner: str, told: str
) -> None:
    with within(LIMIT + 30):
        response = alice.post(
            "connect", llm={"model": "openai:scripted"}, server={"url": f"{hostile}/{manner}"}
        )
    assert refused(response, 503) == told


@pytest.mark.parametrize("manner", ["redirects", "redirects-within"])
def test_a_redirect_does_not_take_the_token_elsewhere(
    alice: Person, servers: HostileMCP, hostile: str, manner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[str] = []
    network = GuardedBackend2._network

    class Dials:
        async def connect_tcp(self, host: str, *args: Any, **options: Any) -> Any:
            dialled.append(host)
            return await network.connect_tcp(host, *args, **options)

    monkeypatch.setattr(GuardedBackend2, "_network", Dials())
    server = {"url": f"{hostile}/{manner}", "auth_token": "my-token"}
    refused(alice.post("connect", llm={"model": "openai:scripted"}, server=server), 503)
    assert set(dialled) <= {"127.0.0.1"}, "a socket that is open already is not dialled"
    assert {path for path, _ in servers.requests} == {manner}
    assert servers.requests[0][1]["authorization"] == "Bearer my-token"


@pytest.mark.parametrize("manner", ["no-tools", "no-capability"])
def test_a_server_without_tools_is_one_to_connect_to(
    alice: Person, model: ModelServer, hostile: str, manner: str
) -> None:
    connected = alice.connect(server={"url": f"{hostile}/{manner}"})
    assert (connected["tool_count"], connected["tools"]) == (0, [])
    usable(alice, model)


def test_a_list_of_too_many_tools_is_refused(alice: Person, servers: HostileMCP, hostile: str) -> None:
    server = {"url": f"{hostile}/one-thousand-tools", "alias": "many"}
    detail = refused(alice.post("connect", llm={"model": "openai:scripted"}, server=server), 422)
    assert detail == "The server many lists more than 256 tools. Connect to one with fewer."


def test_a_cursor_that_comes_again_ends_the_list_of_tools(
    alice: Person, model: ModelServer, servers: HostileMCP, hostile: str
) -> None:
    connected = alice.connect(server={"url": f"{hostile}/one-cursor-for-ever"})
    assert (connected["tool_count"], connected["tools"]) == (0, [])
    assert len(servers.requests) <= 2 + 5
    usable(alice, model)


def test_odd_names_become_names_that_providers_take_and_still_reach_their_tools(
    alice: Person, model: ModelServer, hostile: str
) -> None:
    connected = alice.connect(server={"url": f"{hostile}/odd-names", "alias": "odd"})
    tools = connected["tools"]
    assert len(set(tools)) == len(tools) == len(odd_names())
    for tool in tools:
        assert len(tool) <= 64
        assert all(char.isascii() and (char.isalnum() or char in "_-") for char in tool), tool
        assert call(alice, model, tool)["output"] == "good"
    offered = [tool["function"]["name"] for tool in model.requests[-1]["tools"]]
    assert offered == tools


def test_a_tool_has_the_same_name_in_whatever_order_its_server_lists() -> None:
    tools = [
        mcp.Tool(name=name, input_schema={}) for name in ("a b", "é", "x" * 200, "a.b", "a b c", "plain")
    ]
    first, second = ({t.remote_name: t.name for t in named("s", each)} for each in (tools, tools[::-1]))
    assert first == second
    assert len(set(first.values())) == len(tools)


def test_odd_schemas_do_not_keep_the_other_tools_from_working(
    alice: Person, model: ModelServer, hostile: str
) -> None:
    connected = alice.connect(server={"url": f"{hostile}/odd-schemas", "alias": "odd"})
    assert connected["tool_count"] == len(ODD_SCHEMAS) - 1
    assert list(connected["left_out"].values()) == ["its schema is nested more than 32 levels deep"]
    with within(LIMIT + 30):
        ends = [call(alice, model, tool, a=None) for tool in connected["tools"]]
    wrong = [end["error"] for end in ends if end["type"] == "tool_error"]
    assert [end["output"] for end in ends if end["type"] == "tool_end"] == ["good"] * (len(ends) - len(wrong))
    assert sorted(re.findall(r"(?:At|Altogether).*?\. ", " ".join(wrong))) == WRONG
    usable(alice, model)


WRONG = [
    'Altogether: "b" is a required property. ',
    "Altogether: False schema does not allow the value. ",
    'At /a: the value is not of type "string". ',
]


def test_schemas_that_cost_for_ever_are_left_to_their_server_and_hold_nobody_up(
    alice: Person, stage: Stage, model: ModelServer, hostile: str
) -> None:
    connected = alice.connect(server={"url": f"{hostile}/costly-schemas", "alias": "c"})
    assert connected["tool_count"] == len(costly_schemas())
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"a": deep}
    calls: list[tuple[str, Any]] = [(tool, deep) for tool in connected["tools"]]
    model.will(Reply(calls=calls, call_ids=[f"c{n}" for n, _ in enumerate(calls)]), Reply(text="I see."))
    with within(LIMIT + 30):
        ends = [end for end in alice.say("go")["tool_invocations"] if end["type"] != "tool_start"]
    assert [end.get("output") for end in ends] == ["good"] * len(calls)
    with Person(stage.url, f"{alice.name}-2") as bob, within(LIMIT + 30):
        bob.connect()
        usable(bob, model)


@pytest.mark.parametrize(
    ("tool", "files", "said"),
    [
        ("files", 16, "[4984 more files were left out]"),
        ("same-file-twice", 2, "[image.png: image/png, 8 bytes"),
        ("gigapixel", 1, "[image.png: image/png, 29 bytes"),
        ("parts", 1, "[shortened: 7231 more characters are not shown]"),
        ("not-base64", 0, "[audio that cannot be read]"),
        ("deep", 0, "[[["),
    ],
)
def test_a_result_that_is_made_to_cost_much_costs_little(
    caller: Person, model: ModelServer, tool: str, files: int, said: str
) -> None:
    with within(LIMIT + 30):
        end = call(caller, model, f"h__{tool}")
    assert (end["type"], len(end.get("files", ()))) == ("tool_end", files)
    assert said in end["output"]
    assert len(end["output"]) < MAX_RESULT + 3_000
    usable(caller, model)


def test_long_descriptions_do_not_keep_a_server_from_being_used(
    alice: Person, model: ModelServer, hostile: str
) -> None:
    alice.connect(server={"url": f"{hostile}/long-descriptions"})
    usable(alice, model)
    assert all(len(tool["function"]["description"]) <= 1024 for tool in model.requests[-1]["tools"])


def test_a_model_is_told_of_a_tool_what_a_person_would_see(
    alice: Person, model: ModelServer, hostile: str
) -> None:
    alice.connect(server={"url": f"{hostile}/unseen"})
    usable(alice, model)
    function = model.requests[-1]["tools"][0]["function"]
    assert function["description"] == "Adds. Nothing else."
    (name, told), *_ = function["parameters"]["properties"].items()
    assert (name, told["enum"]) == ("a\u200b", ["\u202e"])  # the server's own words for its values
    assert told["description"] == told["anyOf"][0]["title"] == "Adds. Nothing else."


def test_a_server_of_the_newest_revision_may_ask_for_ever_and_gets_nothing(
    alice: Person, model: ModelServer, hostile: str, caplog: pytest.LogCaptureFixture
) -> None:
    connected = alice.connect(server={"url": f"{hostile}/modern", "alias": "m"})
    assert "m__good" in connected["tools"]
    assert "m__forged" not in connected["tools"]  # an argument that would be a header of its own
    assert "forged" not in caplog.text
    with within(LIMIT + 30):
        assert call(alice, model, "m__input-required")["type"] == "tool_error"
    for tool in ("unknown-result-type", *NOISY):
        with within(LIMIT + 30):
            fit(call(alice, model, f"m__{tool}").get("error", "0123456789"))
    assert not [sent for sent in model.requests if "SECRET" in str(sent)]
    assert call(alice, model, "m__good")["output"] == "good"


def test_a_server_that_never_stops_talking_is_one_to_use(
    alice: Person, model: ModelServer, servers: HostileMCP, hostile: str
) -> None:
    alice.connect(server={"url": f"{hostile}/noisy", "alias": "n"})
    for _ in range(3):
        with within(LIMIT + 30):
            assert call(alice, model, "n__good")["output"] == "good"
    assert not [sent for sent in model.requests if "SECRET" in str(sent)]
    with within(LIMIT + 30):
        assert alice.post("disconnect").json()["status"] == "disconnected"


def test_a_connect_that_fails_leaves_the_earlier_connection_usable(
    caller: Person, model: ModelServer, hostile: str
) -> None:
    before = caller.get("config/{me}").json()
    assert call(caller, model, "h__good")["output"] == "good"
    for manner in ("500", "hangs", "html", "list-fails"):
        response = caller.post(
            "connect", llm={"model": "openai:scripted"}, server={"url": f"{hostile}/{manner}"}
        )
        refused(response, 503)
        assert caller.get("config/{me}").json() == before
    assert call(caller, model, "h__good")["output"] == "good"
    assert len(usable(caller, model)) > 4


def test_of_several_servers_one_that_fails_leaves_none_connected(alice: Person, hostile: str) -> None:
    servers = [{"url": f"{hostile}/calls", "alias": "a"}, {"url": f"{hostile}/500", "alias": "b"}]
    refused(alice.post("connect", llm={"model": "openai:scripted"}, servers=servers), 503)
    assert alice.get("status/{me}").json()["connected"] is False


def test_a_hanging_connect_does_not_hold_up_another_user(
    alice: Person, stage: Stage, model: ModelServer, servers: HostileMCP, hostile: str
) -> None:
    answers: list[int] = []

    def connect() -> None:
        server = {"url": f"{hostile}/hangs"}
        answers.append(alice.post("connect", llm={"model": "openai:scripted"}, server=server).status_code)

    waiting = threading.Thread(target=connect)
    waiting.start()
    wait_until(lambda: servers.requests, "the server is asked")
    with Person(stage.url, f"{alice.name}-2") as bob:
        bob.connect()
        usable(bob, model)
        assert answers == []
    waiting.join(LIMIT + 30)
    assert answers == [503]


# Calling


def test_an_empty_result_is_no_error(caller: Person, model: ModelServer) -> None:
    for tool in ("h__empty", "h__empty-text"):
        end = call(caller, model, tool)
        assert (end["type"], end["output"]) == ("tool_end", "")
    usable(caller, model)


@pytest.mark.parametrize(
    ("tool", "output"),
    [
        ("nul", "a\x00b\u2028c"),
        ("forged", "a\n\nevent: final\ndata: {}\n\n"),
        ("image", "[image.png: image/png, 8 bytes, kept for the user as {id}]"),
        ("audio", "[audio-wav.bin: application/octet-stream, 8 bytes, kept for the user as {id}]"),
        ("link", "[resource a.txt: file:///a.txt]"),
        ("resource", "the text"),
        ("blob", "[a.bin: application/octet-stream, 8 bytes, kept for the user as {id}]"),
        ("structured", '{"n":5}'),
        ("svg", "[image-svg+xml.bin: application/octet-stream, 8 bytes, kept for the user as {id}]"),
        ("wrong-mime", "[image that cannot be read]"),
        ("metadata-link", "[resource x: http://169.254.169.254/latest/]"),
        ("unknown-result-type", None),
        ("surrogate", None),
        ("endless-integer", None),
    ],
)
def test_a_result_of_any_kind_is_put_into_words(
    caller: Person, model: ModelServer, tool: str, output: str | None
) -> None:
    end = call(caller, model, f"h__{tool}")
    if output is not None:
        kept = [file["upload_id"] for file in end.get("files", ())]
        assert (end["type"], end["output"]) == (
            "tool_end",
            output.format(id="".join(kept)) if kept else output,
        )
    model.will(Reply(calls=[(f"h__{tool}", {})]), Reply(text="I see."))
    assert [event for event, _ in caller.stream("go")][-1] == "final"
    usable(caller, model)


@pytest.mark.parametrize("tool", NOISY)
def test_what_a_server_asks_of_its_own_accord_is_not_done(
    caller: Person, model: ModelServer, servers: HostileMCP, tool: str
) -> None:
    with within(LIMIT + 30):
        assert call(caller, model, f"h__{tool}")["output"] == "good"
    assert not [sent for sent in model.requests if "SECRET" in str(sent)]
    assert len(usable(caller, model)) > 4


def test_a_huge_result_is_shortened_with_a_note(caller: Person, model: ModelServer) -> None:
    end = call(caller, model, "h__huge")
    assert end["type"] == "tool_end"
    assert len(end["output"]) < MAX_RESULT + 200
    [file] = end["files"]
    shortened, kept = end["output"].splitlines()[-2:]
    assert shortened == f"[shortened: {100_000 - MAX_RESULT} more characters are not shown]"
    assert kept == f"[result.txt: text/plain, 100000 bytes, kept for the user as {file['upload_id']}]"
    assert caller.get(f"uploads/{file['upload_id']}").text == "x" * 100_000
    usable(caller, model)


@pytest.mark.parametrize(
    ("tool", "words"),
    [("is-error", "It did not work."), ("raises", "the tool's own words"), ("empty-error", "")],
)
def test_a_tool_that_fails_tells_the_model_why(
    caller: Person, model: ModelServer, tool: str, words: str
) -> None:
    end = call(caller, model, f"h__{tool}")
    assert end["type"] == "tool_error"
    assert words in end["error"]
    usable(caller, model)


def test_a_tool_that_fails_is_no_failure_of_the_turn_when_streamed(
    caller: Person, model: ModelServer
) -> None:
    model.will(Reply(calls=[("h__is-error", {})]), Reply(text="I see."))
    frames = caller.stream("go")
    assert [event for event, _ in frames if event != "token"] == ["tool_start", "tool_error", "final"]
    assert frames[1][1]["error"] == "It did not work."


@pytest.mark.parametrize(
    "tool",
    [
        *(fault for fault in FAULTS if fault not in ("raises", "floods")),
        "large",
        "unknown-content",
        "no-content",
        "content-text",
        "null",
        "array",
        "input-required",
    ],
)
def test_a_call_without_a_result_is_told_to_the_model(caller: Person, model: ModelServer, tool: str) -> None:
    with within(LIMIT + 30):
        end = call(caller, model, f"h__{tool}")
    assert end["type"] == "tool_error"
    fit(end["error"])
    with within(LIMIT + 30):
        assert call(caller, model, "h__good")["output"] == "good"
    usable(caller, model)


@pytest.mark.parametrize("tool", ["redirects", "redirects-within"])
def test_where_a_call_was_redirected_to_is_not_told(caller: Person, model: ModelServer, tool: str) -> None:
    told = "The server sent the call to another address, which is not followed."
    assert call(caller, model, f"h__{tool}")["error"] == told


@pytest.mark.parametrize("tool", PROMISES)
def test_no_result_is_checked_by_the_schema_that_its_server_gives(
    caller: Person, model: ModelServer, tool: str
) -> None:
    with within(LIMIT + 30):
        assert call(caller, model, f"h__{tool}")["output"] == "x"


def test_a_server_that_floods_a_call_with_requests_is_read_slowly(
    caller: Person, model: ModelServer, servers: HostileMCP
) -> None:
    before = len(servers.requests)
    assert "did not answer within" in call(caller, model, "h__floods")["error"]
    asked = len(servers.requests) - before
    assert asked < 3_000, "of 20,000, each of which is answered"
    # What was sent before is read first, at its pace.
    answered = wait_until(lambda: call(caller, model, "h__good").get("output"), "a good call is answered")
    assert answered == "good"


def test_good_calls_beside_a_hanging_one_are_not_lost(caller: Person, model: ModelServer) -> None:
    calls: list[tuple[str, Any]] = [("h__hangs", {}), ("h__good", {}), ("h__raises", {}), ("h__good", {})]
    model.will(Reply(calls=calls, call_ids=["a", "b", "c", "d"]), Reply(text="I see."))
    with within(LIMIT + 30):
        answer = caller.say("go")
    ended = {i["id"]: i["type"] for i in answer["tool_invocations"] if i["type"] != "tool_start"}
    assert ended == {"a": "tool_error", "b": "tool_end", "c": "tool_error", "d": "tool_end"}
    usable(caller, model)


def test_of_calls_whose_connection_breaks_each_gets_a_result(caller: Person, model: ModelServer) -> None:
    calls: list[tuple[str, Any]] = [("h__good", {}), ("h__closes", {}), ("h__hangs", {}), ("h__half", {})]
    model.will(Reply(calls=calls, call_ids=["a", "b", "c", "d"]), Reply(text="I see."))
    with within(LIMIT + 30):
        answer = caller.say("go")
    ended = {i["id"]: i["type"] for i in answer["tool_invocations"] if i["type"] != "tool_start"}
    assert set(ended) == {"a", "b", "c", "d"}
    assert (ended["b"], ended["c"], ended["d"]) == ("tool_error", "tool_error", "tool_error")
    assert call(caller, model, "h__good")["output"] == "good"
    usable(caller, model)


# Dying


def test_a_server_that_dies_between_two_turns_is_a_failed_call_and_comes_back(
    alice: Person, model: ModelServer
) -> None:
    port = free_port()
    with running(HostileMCP().app, port=port, grace=0) as url:
        alice.connect(server={"url": f"{url}/calls", "alias": "h"})
        assert call(alice, model, "h__good")["output"] == "good"
    for _ in range(2):
        with within(2 * LIMIT + 30):
            end = call(alice, model, "h__good")
        assert end["type"] == "tool_error"
        fit(end["error"])
    with running(HostileMCP().app, port=port, grace=0), within(2 * LIMIT + 30):
        assert call(alice, model, "h__good")["output"] == "good"
    usable(alice, model)


def test_a_server_that_has_forgotten_its_sessions_is_connected_to_again(
    alice: Person, model: ModelServer
) -> None:
    port = free_port()
    with running(build_app(), port=port, grace=0) as url:
        alice.connect(server={"url": f"{url}/mcp", "alias": "demo"})
        assert call(alice, model, "demo__add", a=2, b=3)["output"] == "5"
    with running(build_app(), port=port, grace=0):
        wait_until(
            lambda: call(alice, model, "demo__add", a=2, b=3)["type"] == "tool_end", "the tool works again"
        )
    usable(alice, model)


def test_a_server_that_dies_during_a_call_is_a_failed_call(alice: Person, model: ModelServer) -> None:
    with running(HostileMCP().app, grace=0) as url:
        alice.connect(server={"url": f"{url}/calls", "alias": "h"})
        model.will(Reply(calls=[("h__hangs", {})]), Reply(text="I see."))
        with within(LIMIT + 30), alice.streaming("go") as frames:
            assert next(frames)[0] == "tool_start"
            events = list(frames)
    assert [event for event, _ in events if event != "token"] == ["tool_error", "final"]
    fit(events[0][1]["error"])
    usable(alice, model)


def test_without_its_server_the_chat_goes_on(alice: Person, model: ModelServer) -> None:
    with running(HostileMCP().app, grace=0) as url:
        alice.connect(server={"url": f"{url}/calls", "alias": "h"})
    with within(LIMIT + 30):
        usable(alice, model)
    with within(LIMIT + 30):
        assert alice.post("disconnect").json()["status"] == "disconnected"


def test_disconnecting_from_a_server_that_hangs_takes_no_longer_than_its_limit(
    caller: Person, model: ModelServer
) -> None:
    model.will(Reply(calls=[("h__hangs", {})]))
    with caller.streaming("go") as frames:
        assert next(frames)[0] == "tool_start"
        with within(LIMIT + 30):
            assert caller.post("disconnect").json()["status"] == "disconnected"
        assert list(frames)[-1][0] in ("final", "error")


def test_a_server_that_hangs_at_the_goodbye_holds_nobody_up(
    alice: Person, model: ModelServer, servers: HostileMCP, hostile: str
) -> None:
    slow = [{"url": f"{hostile}/hangs-at-goodbye", "alias": "s"}, {"url": f"{hostile}/calls", "alias": "a"}]
    good = {"url": f"{hostile}/calls", "alias": "h"}
    alice.connect(servers=slow)
    with within(LIMIT + 30):
        alice.connect(server=good)
    assert call(alice, model, "h__good")["output"] == "good"
    alice.connect(servers=slow)
    with within(LIMIT + 30):
        assert alice.post("disconnect").json()["status"] == "disconnected"
        alice.connect(server=good)
    assert call(alice, model, "h__good")["output"] == "good"
    assert servers.goodbyes == ["hangs-at-goodbye"] * 2


# Coming back


class FarSide:
    """A server in this process, which goes and comes back when a test wants it.

    Attributes:
        opened: How often it was tried to open it.
        there: Whether it can be opened.
        died: To be set by a test; the next opening makes a new one.
        stubborn: Whether it hangs when it is closed.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.there = True
        self.died = anyio.Event()
        self.stubborn = False
        self._server = MCPServer("far")
        self._server.add_tool(lambda: "good", name="good")

    @asynccontextmanager
    async def __call__(self, server: ServerConfig, hooks: Hooks = NO_HOOKS, /) -> AsyncIterator[Client]:
        self.opened += 1
        if not self.there:
            raise ConnectionError
        self.died = anyio.Event()
        try:
            async with anyio.create_task_group() as tasks, Client(self._server) as client:
                tasks.start_soon(self._die)
                yield client
                tasks.cancel_scope.cancel()
        finally:
            if self.stubborn:
                await anyio.sleep_forever()

    async def _die(self) -> None:
        await self.died.wait()
        raise ConnectionError

    async def dies(self, *, for_good: bool = False) -> None:
        """Be gone."""
        self.there = not for_good
        self.died.set()
        for _ in range(100):  # time for whoever has to notice, on a busy machine too
            await anyio.sleep(0.0005)


@asynccontextmanager
async def connected(far: FarSide, *, connect_timeout: float = 30) -> AsyncIterator[Connection]:
    """A connection to the far side, in a task of its own as at an actor."""
    server = ServerConfig(alias="far", url="http://far.example/mcp")
    connection = Connection(
        server, far, connect_timeout=connect_timeout, tool_timeout=connect_timeout, limits=ServerLimits()
    )
    async with anyio.create_task_group() as tasks:
        await tasks.start(connection.run)
        yield connection
        with anyio.fail_after(30):
            await connection.close()


async def asked(connection: Connection) -> str:
    """Call the tool; return what it said."""
    return (await connection.call(connection.tools[0], {}, Mute())).text


async def tell(connection: Connection, answers: list[str]) -> None:
    """Call the tool as a task beside the test."""
    answers.append(await asked(connection))


@pytest.mark.anyio
async def test_a_call_that_waits_for_a_server_gets_it_after_attempts_that_failed() -> None:
    far, answers = FarSide(), list[str]()
    async with connected(far) as connection, anyio.create_task_group() as tasks:
        await far.dies(for_good=True)
        tasks.start_soon(tell, connection, answers)
        with anyio.fail_after(20):
            while far.opened <= 2:  # noqa: ASYNC110 - the first opening, and more than one that failed
                await anyio.sleep(0.01)
        assert answers == []
        far.there = True
        tasks.cancel_scope.deadline = anyio.current_time() + 20
    assert answers == ["good"]


@pytest.mark.anyio
async def test_a_call_shortens_the_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FIRST_REST", 30)
    far = FarSide()
    async with connected(far) as connection:
        await far.dies()
        await anyio.sleep(0.5)
        assert far.opened == 1
        with anyio.fail_after(20):
            assert await asked(connection) == "good"


@pytest.mark.anyio
async def test_a_call_that_gave_up_does_not_drive_further_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "FIRST_REST", 30)
    far = FarSide()
    async with connected(far, connect_timeout=2) as connection:
        await far.dies(for_good=True)
        await asked(connection)
        opened = far.opened
        assert opened > 1
        await anyio.sleep(1)
        assert far.opened <= opened + 1


@pytest.mark.anyio
async def test_closing_ends_a_call_that_waits_and_a_rest() -> None:
    far, answers = FarSide(), list[str]()
    async with connected(far, connect_timeout=30) as connection, anyio.create_task_group() as tasks:
        await far.dies(for_good=True)
        tasks.start_soon(tell, connection, answers)
        await anyio.sleep(0.1)
        tasks.cancel_scope.deadline = anyio.current_time() + 20
        await connection.close()
    assert answers == ["The server far is not reachable at the moment."]


@pytest.mark.anyio
async def test_closing_a_server_that_does_not_end_leaves_the_others_open() -> None:
    stubborn, good = FarSide(), FarSide()
    stubborn.stubborn = True
    async with connected(good) as other:
        with anyio.fail_after(30):
            async with connected(stubborn) as connection:
                assert await asked(connection) == "good"
        assert await asked(other) == "good"
        assert good.opened == 1


@pytest.mark.anyio
async def test_a_lost_server_that_does_not_end_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.2)
    far = FarSide()
    async with connected(far) as connection:
        far.stubborn = True
        await far.dies()
        with anyio.fail_after(20):
            assert await asked(connection) == "good"
        far.stubborn = False


@pytest.mark.anyio
@pytest.mark.parametrize(("steady", "least", "most"), [(30.0, 3, 6), (0.0, 8, 50)])
async def test_a_server_that_dies_each_time_is_opened_ever_less_often(
    steady: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SHORTEST_REST", 0.01), ("FIRST_REST", 0.05), ("STEADY", steady)):
        monkeypatch.setattr(connections, name, value)
    far = FarSide()
    async with connected(far):
        with anyio.move_on_after(1 if steady else 30):
            while steady or far.opened < least:
                far.died.set()
                await anyio.sleep(0.005)
        with anyio.fail_after(30):  # on a busy machine
            while far.opened < least:
                far.died.set()
                await anyio.sleep(0.005)
        assert least <= far.opened <= most
