"""What is wrong with a request is said with the right status and a sentence, and changes nothing."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

import mcp_chat
from mcp_chat.api.errors import STATUS
from mcp_chat.exceptions import ChatError
from mcp_chat.netguard import GuardedBackend, GuardedBackend2
from tests.conftest import on_one_stage
from tests.faults import LEAK, Stage, ended_in_error, refused, usable, within
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until

ENDPOINTS = (
    "/llmchat/connect",
    "/llmchat/chat",
    "/llmchat/cancel",
    "/llmchat/disconnect",
    "/v1/llmchat/chat",
    "/auth/demo",
)
JSON = {"content-type": "application/json"}
MAIN = re.compile(r"__main__|gunicorn_conf|\.migrations\.|\.web\.")
"""Modules that do something when they are imported."""


stage, model, alice = on_one_stage(connect_timeout=15, model_timeout=15, turn_timeout=20)


def test_every_error_has_a_status() -> None:
    for module in pkgutil.walk_packages(mcp_chat.__path__, "mcp_chat."):
        if not MAIN.search(module.name):
            importlib.import_module(module.name)
    codes = {kind.code for kind in subclasses(ChatError)}
    assert {"not_authenticated", "invalid_body", "unexpected"} <= codes
    assert codes - set(STATUS) == set()


def subclasses(kind: type[ChatError]) -> Iterator[type[ChatError]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


class Dials:
    """Notes what is dialled, below the guard, and dials it."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.hosts: list[str] = []

    async def connect_tcp(self, host: str, *args: Any, **options: Any) -> Any:
        self.hosts.append(host)
        return await self.network.connect_tcp(host, *args, **options)


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every address that a guarded client dials from now on."""
    below, below2 = Dials(GuardedBackend._network), Dials(GuardedBackend2._network)
    below2.hosts = below.hosts
    monkeypatch.setattr(GuardedBackend, "_network", below)
    monkeypatch.setattr(GuardedBackend2, "_network", below2)
    return below.hosts


# The body as such


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"hello", id="text"),
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"user_id": "a"', id="cut off"),
        pytest.param(b'{"user_id": "a"}{}', id="two documents"),
        pytest.param(b"{'user_id': 'a'}", id="single quotes"),
        pytest.param(b'{"user_id": "a", "message": NaN}', id="NaN"),
        pytest.param(b'{"user_id": "a", "message": -Infinity}', id="infinity"),
        pytest.param(b'\xef\xbb\xbf{"user_id": "a"}', id="byte order mark"),
        pytest.param('{"user_id": "a"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"user_id": "\xff"}', id="not UTF-8"),
        pytest.param(b'{"user_id": "a", "message": "\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"user_id": "a", "message": "\\udc00\\ud800"}', id="surrogates the wrong way round"),
        pytest.param(b'{"user_id": "a", "message": "\xed\xa0\x80"}', id="encoded surrogate"),
        pytest.param(b'{"user_id": "a\x00"}', id="raw NUL"),
        pytest.param(b"[" * 100_000, id="arrays without end"),
        pytest.param(b'{"a":' * 40_000, id="objects without end"),
        pytest.param(b"[" * 5_000 + b"]" * 5_000, id="nested too deeply"),
        pytest.param(b"<html></html>", id="HTML"),
        pytest.param(b"1e400", id="a number that is none"),
    ],
)
def test_a_body_that_is_no_json_is_refused(alice: Person, body: bytes) -> None:
    for path in ENDPOINTS:
        detail = refused(alice.http.post(path, content=body, headers=JSON), 400)
        assert detail == "The body is not valid JSON."


@pytest.mark.parametrize("body", [b"null", b"[]", b'["a"]', b'"a"', b"5", b"true", b"{}"])
def test_a_body_that_is_no_such_object_is_refused(alice: Person, body: bytes) -> None:
    for path in ENDPOINTS:
        refused(alice.http.post(path, content=body, headers=JSON), 422)


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json5"],
)
def test_another_content_type_is_refused(alice: Person, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    for path in ENDPOINTS:
        detail = refused(alice.http.post(path, content=b'{"user_id": ""}', headers=headers), 415)
        assert "application/json" in detail


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_may_be_spelled_as_http_allows(alice: Person, kind: str) -> None:
    response = alice.http.post(
        "/llmchat/disconnect", content=b'{"user_id": ""}', headers={"content-type": kind}
    )
    assert response.json()["status"] == "no_active_session"


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_body_of_10_mb_is_refused_before_it_is_read(alice: Person, path: str) -> None:
    with within(12):
        detail = refused(alice.http.post(path, content=b" " * 10_000_000, headers=JSON), 413)
    assert "262144 bytes" in detail


def test_a_body_without_an_end_is_refused(alice: Person) -> None:
    pieces = (b" " * 65_536 for _ in range(10_000))
    with within(12):
        refused(alice.http.post("/llmchat/chat", content=pieces, headers=JSON), 413)


def test_of_a_key_that_is_given_twice_the_last_one_counts_and_is_the_one_checked(alice: Person) -> None:
    mine, other = alice.name.encode(), b"somebody-else"
    body = b'{"user_id": "%s", "user_id": "%s"}'
    good = alice.http.post("/llmchat/disconnect", content=body % (other, mine), headers=JSON)
    assert good.json()["user_id"] == alice.name
    assert (
        refused(alice.http.post("/llmchat/disconnect", content=body % (mine, other), headers=JSON), 403)
        == "User ID mismatch."
    )


def test_ten_thousand_unknown_fields_make_no_longer_answer_than_a_few(alice: Person) -> None:
    response = alice.post("chat", message="hi", **{f"unknown_{n}": n for n in range(10_000)})
    refused(response, 422)
    assert len(response.content) < 10_000


def test_a_long_unknown_field_is_not_repeated_in_full(alice: Person) -> None:
    response = alice.post("chat", message="hi", **{"x" * 100_000: 1})
    refused(response, 422)
    assert len(response.content) < 10_000


# Where it goes, and who asks


@pytest.mark.parametrize("path", ["/llmchat/nothing", "/llmchat", "/v2/llmchat/chat", "/web/nothing.js"])
def test_an_unknown_path_is_not_found(alice: Person, path: str) -> None:
    response = alice.http.get(path)
    assert response.status_code == 404
    assert response.json()["detail"] == "Not Found"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/llmchat/chat"), ("PUT", "/llmchat/connect"), ("POST", "/llmchat/gateway/models")],
)
def test_a_wrong_method_is_refused(alice: Person, method: str, path: str) -> None:
    assert refused(alice.http.request(method, path), 405) == "Method Not Allowed"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "connect"),
        ("POST", "chat"),
        ("POST", "cancel"),
        ("POST", "disconnect"),
        ("GET", "status/alice"),
        ("GET", "config/alice"),
        ("GET", "history/alice"),
        ("GET", "gateway/models"),
        ("GET", "servers"),
    ],
)
def test_nobody_is_served_who_is_not_signed_in(stage: Stage, method: str, path: str) -> None:
    bodies: dict[str, Any] = {"connect": {"llm": {"model": "a"}}, "chat": {"message": "hi"}}
    body = {"user_id": "alice", **bodies.get(path, {})} if method == "POST" else None
    response = httpx.request(method, f"{stage.url}/llmchat/{path}", json=body, trust_env=False)
    assert refused(response, 401) == "Authorization token required"


@pytest.mark.parametrize(
    "other", ["somebody-else", "ALICE", "..", "a b", "%00", "%ff", "a%2fb", "😀", "x" * 5_000]
)
@pytest.mark.parametrize("path", ["status", "config", "history"])
def test_another_user_in_the_path_is_refused(alice: Person, path: str, other: str) -> None:
    assert refused(alice.http.get(f"/llmchat/{path}/x{other}"), 403) == "User ID mismatch."


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("connect", {"llm": {"model": "openai:scripted"}}),
        ("chat", {"message": "hi"}),
        ("cancel", {}),
        ("disconnect", {}),
    ],
)
def test_another_user_in_the_body_is_refused(alice: Person, path: str, body: dict[str, Any]) -> None:
    detail = refused(alice.post(path, **{**body, "user_id": "somebody-else"}), 403)
    assert detail == "User ID mismatch."


# The message


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("message", ["", " ", "\n\t ", "\u3000\u00a0"])
def test_an_empty_message_is_refused(alice: Person, message: str, streaming: bool) -> None:
    alice.connect()
    response = alice.post("chat", message=message, streaming=streaming)
    assert refused(response, 400) == "Message cannot be empty"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("message", ["x" * 32_769, "é" * 16_385, "😀" * 8_193])
def test_a_message_over_its_limit_is_refused(alice: Person, message: str, streaming: bool) -> None:
    alice.connect()
    detail = refused(alice.post("chat", message=message, streaming=streaming), 413)
    assert "32768 bytes" in detail
    assert alice.history() == []


@pytest.mark.parametrize("message", ["x" * 32_768, "😀" * 8_192, "\x00" * 32_768])
def test_a_message_at_its_limit_is_answered(alice: Person, model: ModelServer, message: str) -> None:
    alice.connect()
    model.will(Reply(text="ok"))
    assert alice.say(message)["response"] == "ok"
    assert model.requests[0]["messages"][-1]["content"] == message


@pytest.mark.parametrize(
    "message",
    ["a\x00b", "\x00", "\x1b[31m\x07\x7f", "a\u2028\u2029\x85b", "\ufeff\ufffe\uffff", "\u202eabc", "😀" * 9],
)
def test_unusual_characters_arrive_as_they_are(alice: Person, model: ModelServer, message: str) -> None:
    alice.connect()
    model.will(Reply(text="ok"))
    assert alice.say(message)["response"] == "ok"
    assert model.requests[0]["messages"][-1]["content"] == message
    assert alice.history()[0]["content"] == message


@pytest.mark.parametrize("streaming", [False, True])
def test_one_must_connect_first(alice: Person, streaming: bool) -> None:
    detail = refused(alice.post("chat", message="hi", streaming=streaming), 400)
    assert detail == "No active session found. Please connect to a server first."


def test_config_is_not_found_before_one_connects(alice: Person) -> None:
    assert refused(alice.get("config/{me}"), 404) == "No config found for this user."


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"message": None}, id="null"),
        pytest.param({"message": 5}, id="number"),
        pytest.param({"message": ["hi"]}, id="list"),
        pytest.param({"message": {"text": "hi"}}, id="object"),
        pytest.param({"message": "hi", "user_id": None}, id="user null"),
        pytest.param({"message": "hi", "user_id": 5}, id="user number"),
        pytest.param({"message": "hi", "user_id": "x" * 10_001}, id="user too long"),
        pytest.param({"message": "hi", "streaming": "yes"}, id="streaming text"),
        pytest.param({"message": "hi", "streaming": 1}, id="streaming number"),
        pytest.param({"message": "hi", "stream": True}, id="unknown field"),
        pytest.param({"message": "hi", "message_id": "a b"}, id="message id with a space"),
        pytest.param({"message": "hi", "message_id": ""}, id="message id empty"),
        pytest.param({"message": "hi", "message_id": "a\n"}, id="message id with a line end"),
        pytest.param({"message": "hi", "session_id": 5}, id="session number"),
        pytest.param({"message": "hi", "session_id": "x" * 257}, id="session too long"),
    ],
)
def test_a_message_of_the_wrong_form_is_refused(
    alice: Person, model: ModelServer, body: dict[str, Any]
) -> None:
    alice.connect()
    detail = refused(alice.post("chat", **body), 422)
    assert detail.startswith("body.")
    assert model.requests == []


@pytest.mark.parametrize("session_id", ["nothing", "", "a\x00b", "../x", "😀"])
def test_an_unknown_session_is_a_new_one(alice: Person, model: ModelServer, session_id: str) -> None:
    alice.connect()
    answer = alice.say("hi", session_id=session_id)
    assert answer["resumed"] is False
    assert answer["session_id"] != session_id


@pytest.mark.parametrize("query", ["session_id=nothing", "session_id=", "session_id=%00", "session_id=%ff"])
def test_the_history_of_an_unknown_session_is_not_found(alice: Person, query: str) -> None:
    alice.connect()
    assert refused(alice.get(f"history/{{me}}?{query}"), 404) == "This conversation does not exist."


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "", "%C2%B2", "9" * 5_000])
def test_a_page_size_that_is_none_is_refused(alice: Person, limit: str) -> None:
    assert (
        refused(alice.get(f"history/{{me}}?limit={limit}"), 400) == "limit must be a number from 1 to 1000."
    )


def test_an_inbox_has_an_end(alice: Person, model: ModelServer) -> None:
    alice.connect()
    model.will(Reply(before=60))
    with ExitStack() as stack:
        waiting = [stack.enter_context(alice.streaming("message 0"))]
        wait_until(lambda: model.requests, "the first message is no longer waiting")
        waiting += [stack.enter_context(alice.streaming(f"message {n}")) for n in range(1, 17)]
        response = alice.post("chat", message="one too many", streaming=True)
        assert "cancel" in refused(response, 429)
        assert int(response.headers["retry-after"]) > 0
        assert alice.post("cancel").json()["status"] == "cancelled"
        with within(12):
            assert [list(frames)[-1][1]["stopped"] for frames in waiting] == [True] * 17
    usable(alice, model)


# The model one connects to


@pytest.mark.parametrize(
    ("llm", "word"),
    [
        pytest.param({}, "model", id="nothing"),
        pytest.param(None, "llm", id="null"),
        pytest.param("openai:scripted", "llm", id="text"),
        pytest.param({"model": ""}, "model", id="empty model"),
        pytest.param({"model": "x" * 257}, "model", id="long model"),
        pytest.param({"model": 5}, "model", id="number"),
        pytest.param({"model": "openai:scripted", "temprature": 1}, "temprature", id="unknown field"),
        pytest.param({"model": "openai:scripted", "temperature": 3}, "temperature", id="temperature 3"),
        pytest.param({"model": "openai:scripted", "temperature": -1}, "temperature", id="temperature -1"),
        pytest.param({"model": "openai:scripted", "temperature": "x"}, "temperature", id="temperature x"),
        pytest.param({"model": "openai:scripted", "temperature": "1"}, "temperature", id="temperature '1'"),
        pytest.param({"model": "openai:scripted", "temperature": True}, "temperature", id="temperature true"),
        pytest.param({"model": "openai:scripted", "max_tokens": 0}, "max_tokens", id="max_tokens 0"),
        pytest.param({"model": "openai:scripted", "max_tokens": -1}, "max_tokens", id="max_tokens -1"),
        pytest.param({"model": "openai:scripted", "max_tokens": 1.5}, "max_tokens", id="max_tokens 1.5"),
        pytest.param({"model": "openai:scripted", "max_tokens": "9"}, "max_tokens", id="max_tokens '9'"),
        pytest.param({"provider": "openai"}, "config", id="provider without config"),
        pytest.param({"config": {"model": "scripted"}}, "model", id="config without provider"),
        pytest.param(
            {"model": "a", "provider": "openai", "config": {"model": "b"}}, "either", id="both forms"
        ),
        pytest.param({"provider": "openai", "config": {}}, "config.model", id="empty config"),
        pytest.param(
            {"provider": "openai", "config": {"model": "m"}, "temperature": 0.0},
            "config",
            id="temperature beside config",
        ),
        pytest.param(
            {"provider": "openai", "config": {"model": "m"}, "max_tokens": 9},
            "config",
            id="max_tokens beside config",
        ),
        pytest.param(
            {"provider": "openai", "config": {"model": "m", "temperature": 3}}, "temperature", id="own, 3"
        ),
        pytest.param(
            {"provider": "openai", "config": {"model": "m", "headers": {}}}, "headers", id="own, headers"
        ),
    ],
)
def test_a_model_of_the_wrong_form_is_refused(alice: Person, llm: Any, word: str) -> None:
    detail = refused(alice.post("connect", llm=llm), 422)
    assert detail.startswith("body.llm")
    assert word in detail


@pytest.mark.parametrize(
    "llm",
    [
        {"model": "nothing"},
        {"model": "openai:nothing"},
        {"model": "nothing:scripted"},
        {"model": ":"},
        {"model": "\x00"},
        {"provider": "nothing", "config": {"model": "scripted"}},
        {"provider": "openai", "config": {"model": "gpt-5"}},
        {"provider": "gateway", "config": {"model": "nothing"}},
    ],
)
def test_an_unknown_model_is_refused_and_the_known_ones_are_named(alice: Person, llm: dict[str, Any]) -> None:
    detail = refused(alice.post("connect", llm=llm), 400)
    assert "openai:scripted" in detail


@pytest.mark.parametrize("provider", ["nothing", "demo", "gateway", "groq"])
def test_ones_own_key_works_only_where_its_way_is_guarded(alice: Person, provider: str) -> None:
    llm = {"provider": provider, "config": {"model": "m", "api_key": "my-key"}}
    response = alice.post("connect", llm=llm)
    assert "openai, azure_openai, anthropic" in refused(response, 400)
    assert "my-key" not in response.text


@pytest.mark.parametrize("temperature", [0, 1, 2, 0.3, None])
def test_a_temperature_within_its_range_reaches_the_model(
    alice: Person, model: ModelServer, temperature: float | None
) -> None:
    alice.connect(llm={"model": "scripted", "temperature": temperature, "max_tokens": 7})
    alice.say("hi")
    assert model.requests[0].get("temperature") == temperature
    assert model.requests[0].get("max_completion_tokens", model.requests[0].get("max_tokens")) == 7


@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "schlüssel", "a\u2028b"])
def test_a_key_that_no_header_may_have_is_refused(alice: Person, key: str, stage: Stage) -> None:
    llm = {"provider": "openai", "config": {"model": "m", "api_key": key, "base_url": stage.model_url}}
    response = alice.post("connect", llm=llm)
    assert "header" in refused(response, 400)
    assert key not in response.text


OPERATORS = {
    "OPENAI_API_KEY": "operators-key",
    "OPENAI_ADMIN_KEY": "operators-admin-key",
    "OPENAI_ORG_ID": "operators-organisation",
    "OPENAI_ORGANIZATION": "operators-organisation",
    "OPENAI_PROJECT_ID": "operators-project",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer operators-header\nX-Custom: operators-header",
    "OLLAMA_API_KEY": "operators-ollama-key",
    "LANGSMITH_API_KEY": "operators-langsmith-key",
}


@pytest.mark.parametrize("key", [None, "my-key"])
@pytest.mark.parametrize("provider", ["openai", "ollama"])
def test_nothing_of_the_operators_environment_reaches_a_users_model_server(
    alice: Person,
    stage: Stage,
    model: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    key: str | None,
) -> None:
    for variable, value in OPERATORS.items():
        monkeypatch.setenv(variable, value)
    config = {"model": "m", "base_url": stage.model_url, "api_key": key}
    alice.connect(llm={"provider": provider, "config": config})
    alice.post("chat", message="hi")
    assert model.headers
    for headers in model.headers:
        assert "operators" not in str(headers)
        assert headers.get("authorization") == (f"Bearer {key}" if key else None)


@pytest.mark.parametrize(
    "variable",
    ["OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_PROXY", "HTTP_PROXY", "ALL_PROXY", "OLLAMA_HOST"],
)
def test_the_environment_does_not_say_where_a_model_is(
    alice: Person, model: ModelServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9/v1")
    alice.connect()
    assert alice.say("hi")["response"] == "1 messages, the last from user: hi"
    assert len(model.requests) == 1


def test_without_an_address_ones_own_key_goes_to_the_provider_and_not_where_the_environment_says(
    alice: Person, model: ModelServer, stage: Stage, monkeypatch: pytest.MonkeyPatch, dials: list[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", stage.model_url)
    monkeypatch.setenv("OPENAI_API_BASE", stage.model_url)
    looked_up: list[str] = []

    async def resolve(_self: Any, host: str, _port: int) -> list[str]:
        looked_up.append(host)
        return ["169.254.169.254"]

    monkeypatch.setattr(GuardedBackend2, "_judged", _judging(resolve))
    alice.connect(llm={"provider": "openai", "config": {"model": "m", "api_key": "my-key"}})
    refused(alice.post("chat", message="hi"), 503)
    assert looked_up == ["api.openai.com"]
    assert dials == []
    assert model.requests == []


def _judging(resolve: Any) -> Any:
    """The guard's own judgement over another resolver."""
    judged = GuardedBackend2._judged

    async def judge(guard: GuardedBackend2, host: str, port: int) -> Any:
        guard._resolve = lambda host, port: resolve(guard, host, port)
        return await judged(guard, host, port)

    return judge


# The server one connects to


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("http://example.org/mcp", id="text"),
        pytest.param({}, id="nothing"),
        pytest.param({"url": None}, id="null"),
        pytest.param({"url": ""}, id="empty url"),
        pytest.param({"url": 5}, id="number"),
        pytest.param({"url": "http://example.org/" + "x" * 2048}, id="long url"),
        pytest.param({"url": "http://example.org/mcp", "name": "demo"}, id="name and url"),
        pytest.param({"url": "http://example.org/mcp", "command": "sh"}, id="command"),
        pytest.param({"url": "http://example.org/mcp", "args": ["-c", "id"]}, id="args"),
        pytest.param({"url": "http://example.org/mcp", "args": []}, id="empty args"),
        pytest.param({"command": "sh", "args": ["-c", "id"]}, id="command alone"),
        pytest.param({"url": "http://example.org/mcp", "env": {"A": "b"}}, id="env"),
        pytest.param({"url": "http://example.org/mcp", "headers": {"A": "b"}}, id="headers"),
        pytest.param({"url": "http://example.org/mcp", "transport": "pigeon"}, id="unknown transport"),
        pytest.param({"url": "http://example.org/mcp", "alias": "a b"}, id="alias with a space"),
        pytest.param({"url": "http://example.org/mcp", "alias": "a__b"}, id="alias with underlines"),
        pytest.param({"url": "http://example.org/mcp", "alias": "x" * 33}, id="long alias"),
        pytest.param({"name": "demo", "alias": "a"}, id="alias beside a name"),
        pytest.param({"name": "demo", "auth_token": "t"}, id="token beside a name"),
        pytest.param({"name": "demo", "transport": "sse"}, id="transport beside a name"),
        pytest.param({"url": "http://example.org/mcp", "auth_token": 5}, id="token number"),
        pytest.param({"url": "http://example.org/mcp", "auth_token": "x" * 16_385}, id="long token"),
    ],
)
@pytest.mark.parametrize("place", ["server", "servers"])
def test_a_server_of_the_wrong_form_is_refused(
    alice: Person, dials: list[str], server: Any, place: str
) -> None:
    body = {"server": server} if place == "server" else {"servers": [server]}
    detail = refused(alice.post("connect", llm={"model": "openai:scripted"}, **body), 422)
    assert detail.startswith(f"body.{place}")
    assert dials == []


@pytest.mark.parametrize(
    "body",
    [
        {"servers": {}},
        {"servers": [{"url": "http://example.org/mcp"}] * 17},
        {"server": {"name": "demo"}, "servers": [{"name": "demo"}]},
    ],
)
def test_servers_of_the_wrong_form_are_refused(alice: Person, body: dict[str, Any]) -> None:
    refused(alice.post("connect", llm={"model": "openai:scripted"}, **body), 422)


def test_two_servers_with_one_alias_are_refused(alice: Person, dials: list[str]) -> None:
    servers = [{"url": "http://example.org/a", "alias": "A"}, {"url": "http://example.org/b", "alias": "a"}]
    response = alice.post("connect", llm={"model": "openai:scripted"}, servers=servers)
    assert "alias of its own" in refused(response, 400)
    assert dials == []


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"auth_token": None, "transport": None, "alias": None, "url": None},
        {"auth_token": "", "transport": "streamable_http", "url": ""},
    ],
)
def test_an_unknown_server_of_the_operator_is_refused(alice: Person, more: dict[str, Any]) -> None:
    response = alice.post("connect", llm={"model": "openai:scripted"}, server={"name": "nothing", **more})
    assert "the operator's servers are: none" in refused(response, 400)


BAD_URLS = [
    "ftp://example.org/mcp",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "data:text/plain,hi",
    "unix:///var/run/docker.sock",
    "gopher://example.org/",
    "example.org/mcp",
    "//example.org/mcp",
    "http://",
    "http:///mcp",
    "http://user@example.org/mcp",
    "http://user:secret-password@example.org/mcp",
    "http://example.org/mcp#part",
    "http://example.org/a b",
    "http://example.org\\@10.0.0.1/",
    "http://example.org/\r\nHost: evil",
    "http://example.org/\x00",
    "http://example.org:99999/",
    "http://example.org:22/",
    "http://127.0.0.1:6379/",
    "http://[::1/mcp",
    " http://example.org/mcp",
    "http://exa mple.org/",
    "http://%31%30.0.0.1/",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_is_no_web_address_is_refused(alice: Person, dials: list[str], url: str) -> None:
    own = {"provider": "openai", "config": {"model": "m", "base_url": url}}
    bodies: list[dict[str, Any]] = [
        {"llm": {"model": "openai:scripted"}, "server": {"url": url}},
        {"llm": {"model": "openai:scripted"}, "server": {"url": url, "transport": "sse"}},
        {"llm": own},
    ]
    for body in bodies:
        response = alice.post("connect", **body)
        refused(response, 400)
        assert "secret-password" not in response.text
    assert dials == []
    assert alice.get("status/{me}").json()["connected"] is False


REFUSED_ADDRESSES = [
    "169.254.169.254",
    "10.0.0.1",
    "192.168.1.1",
    "172.16.0.1",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "2852039166",
    "0xa9fea9fe",
    "[::1]",
    "[::]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
]


@pytest.mark.parametrize("transport", ["streamable_http", "sse"])
@pytest.mark.parametrize("address", REFUSED_ADDRESSES)
def test_an_address_that_is_not_allowed_is_refused_without_dialling(
    alice: Person, dials: list[str], address: str, transport: str
) -> None:
    server = {"url": f"http://{address}:8000/mcp", "transport": transport}
    with within(12):
        response = alice.post("connect", llm={"model": "openai:scripted"}, server=server)
    assert "not allowed" in refused(response, 400)
    assert dials == []


@pytest.mark.parametrize("provider", ["openai", "ollama"])
@pytest.mark.parametrize("address", ["169.254.169.254", "10.0.0.1", "[::1]", "2852039166"])
def test_a_model_at_an_address_that_is_not_allowed_is_never_dialled(
    alice: Person, dials: list[str], address: str, provider: str
) -> None:
    llm = {"provider": provider, "config": {"model": "m", "base_url": f"http://{address}:8000/v1"}}
    with within(12):
        response = alice.post("connect", llm=llm)
        if response.status_code == 200:  # the address is judged when it is dialled, in the first turn
            response = alice.post("chat", message="hi")
            assert response.status_code == 503
            error = ended_in_error(alice.stream("hi"))["error"]
            assert "not allowed" in error
    assert "not allowed" in response.json()["detail"]
    assert not LEAK.search(response.text)
    assert dials == []


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "tökén", "a\tb", "a\u2028b"])
def test_a_token_that_no_header_may_have_is_refused(alice: Person, dials: list[str], token: str) -> None:
    server = {"url": "http://127.0.0.1:8000/mcp", "auth_token": token}
    response = alice.post("connect", llm={"model": "openai:scripted"}, server=server)
    assert "no header may have" in refused(response, 400)
    assert token not in response.text
    assert dials == []


def test_a_user_cannot_have_a_command_run(alice: Person, dials: list[str]) -> None:
    server = {"url": "http://127.0.0.1:8000/mcp", "transport": "stdio"}
    response = alice.post("connect", llm={"model": "openai:scripted"}, server=server)
    assert "'streamable_http' or 'sse'" in refused(response, 422)
    assert dials == []


def test_what_is_refused_leaves_an_earlier_connection_as_it_was(alice: Person, model: ModelServer) -> None:
    session = alice.connect()["session_id"]
    alice.say("first")
    refused(alice.post("connect", llm={"model": "nothing"}), 400)
    refused(alice.post("connect", llm={"model": "openai:scripted"}, server={"url": "http://10.0.0.1/"}), 400)
    refused(alice.post("connect", llm={"model": "openai:scripted", "temperature": 3}), 422)
    refused(alice.http.post("/llmchat/connect", content=b"{", headers=JSON), 400)
    told = usable(alice, model)
    assert told[0]["content"] == "first"
    assert alice.get("config/{me}").json()["session_id"] == session


# Signing in


@pytest.mark.parametrize("user", ["", " ", " a", "a ", "a\nb", "a\x00", "x" * 129, None, 5, ["a"]])
def test_a_name_that_is_none_is_refused(stage: Stage, user: Any) -> None:
    response = httpx.post(f"{stage.url}/auth/demo", json={"user": user}, trust_env=False)
    refused(response, 422)
    assert "set-cookie" not in response.headers
