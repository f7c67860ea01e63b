"""The document that says what can be asked, held against what is answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from starlette.routing import Route

from mcp_chat.app import create_app
from mcp_chat.settings import Settings
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running

NOT_LISTED = {"/openapi.json", "/"}


@pytest.fixture
def served(settings: Callable[..., Settings]) -> Iterator[tuple[str, set[tuple[str, str]]]]:
    """An application's address and its routes."""
    app = create_app(settings())
    with running(app) as url:
        routes = {
            (method.lower(), re.sub(r":\w+}", "}", route.path))
            for route in app.router.routes
            if isinstance(route, Route)
            for method in route.methods or ()
            if method != "HEAD" and route.path not in NOT_LISTED
        }
        yield url, routes


@pytest.fixture
def document(served: tuple[str, set[tuple[str, str]]]) -> dict[str, Any]:
    """The document."""
    found: dict[str, Any] = httpx.get(f"{served[0]}/openapi.json", trust_env=False).json()
    return found


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(method, path): op for path, item in document["paths"].items() for method, op in item.items()}


def everything(part: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from everything(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from everything(inner)


def test_every_route_is_in_the_document_and_nothing_else(
    served: tuple[str, set[tuple[str, str]]], document: dict[str, Any]
) -> None:
    assert set(operations(document)) == served[1]


def test_it_says_which_version_it_is(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "mcp-chat"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", document["info"]["version"])


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = {part["$ref"] for part in everything(document) if "$ref" in part}
    assert references
    for reference in references:
        target: Any = document
        assert reference.startswith("#/")
        for step in reference[2:].split("/"):
            target = target[step]
        assert isinstance(target, dict)


def test_every_schema_is_one(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_each_operation_has_an_id_of_its_own_a_summary_its_parameters_and_its_answers(
    document: dict[str, Any],
) -> None:
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(ids) == len(set(ids))
    for (method, path), operation in operations(document).items():
        assert operation["summary"]
        placed = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert placed == set(re.findall(r"{(\w+)}", path))
        assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
        assert len({"200", "201"} & set(operation["responses"])) == 1
        assert all(answer["description"] for answer in operation["responses"].values())
        assert ("requestBody" in operation) == (method in ("post", "patch"))
        if operation["security"]:
            assert {"401", "403"} <= set(operation["responses"])
            assert set().union(*operation["security"]) <= set(document["components"]["securitySchemes"])


def schema_of(document: dict[str, Any], path: str) -> Draft202012Validator:
    """What checks a body of an operation."""
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]
    return Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize(
    ("path", "body", "good"),
    [
        ("connect", {"user_id": "ann", "llm": {"model": "openai:scripted"}}, True),
        (
            "connect",
            {"user_id": "ann", "llm": {"model": "m"}, "server": {"url": "http://127.0.0.1/mcp"}},
            True,
        ),
        ("connect", {"user_id": "ann"}, False),
        ("connect", {"user_id": "ann", "llm": {"model": 7}}, False),
        ("connect", {"user_id": "ann", "llm": {"model": "m"}, "more": 1}, False),
        ("chat", {"user_id": "ann", "message": "hello"}, True),
        ("chat", {"user_id": "ann", "message": None}, False),
        ("chat", {"user_id": "ann", "message": "x", "streaming": "yes"}, False),
        ("chat", {"user_id": "ann", "message": "x", "message_id": "a b"}, False),
        ("chat", {"user_id": "ann", "message": "x", "if_running": "interrupt"}, True),
        ("chat", {"user_id": "ann", "message": "x", "if_running": "stop"}, False),
        ("chat", {"user_id": "ann", "message": "x", "attachments": ["a b"]}, False),
        ("chat", {"user_id": "ann", "message": "x", "attachments": ["a"] * 9}, False),
        ("sessions", {}, True),
        ("sessions", {"user_id": "ann", "name": "x", "context": {"a": [None]}}, True),
        ("sessions", {"name": None}, False),
        ("sessions", {"name": "x" * 201}, False),
        ("sessions", {"context": []}, False),
        ("cancel", {"user_id": "ann"}, True),
        ("disconnect", {}, False),
    ],
)
def test_bodies_are_accepted_and_refused_as_the_document_says(
    alice: Person, path: str, body: dict[str, Any], good: bool
) -> None:
    document = alice.http.get("/openapi.json").json()
    assert schema_of(document, f"/llmchat/{path}").is_valid(body) == good
    if "user_id" in body:
        body["user_id"] = alice.name
    assert (alice.http.post(f"/llmchat/{path}", json=body).status_code == 422) == (not good)


def test_a_field_without_effect_says_so(document: dict[str, Any]) -> None:
    timeout = document["components"]["schemas"]["ModelSettings"]["properties"]["timeout"]
    assert "the operator's limits hold" in timeout["description"]


@contextmanager
def watched(person: Person) -> Iterator[None]:
    """Check each answer against the document."""
    document = person.http.get("/openapi.json").json()
    paths = [(re.sub(r"{\w+}", "(.*)", path), item) for path, item in document["paths"].items()]
    unlike: list[str] = []

    def check(response: httpx.Response) -> None:
        request = response.request
        found = next((item for path, item in paths if re.fullmatch(path, request.url.path)), None)
        declared = (found or {}).get(request.method.lower(), {}).get("responses", {})
        kind = response.headers.get("content-type", "").partition(";")[0]
        answer = declared.get(str(response.status_code), {})
        if kind not in answer.get("content", {}):
            unlike.append(f"{request.method} {request.url.path}: {response.status_code} {kind}")

    person.http.event_hooks["response"].append(check)
    yield
    person.http.event_hooks["response"].clear()
    assert unlike == []


def ask_about_sessions(person: Person, prefix: str) -> None:
    """Each operation on conversations and files, with each answer that it can have here."""

    def ask(method: str, path: str, status: int, **options: Any) -> Any:
        response = person.http.request(method, f"{prefix}/{path}", **options)
        assert response.status_code == status, (path, response.text)
        return response

    other, text = {"params": {"user_id": "bob"}}, {"headers": {"content-type": "text/plain"}}
    made = ask("POST", "sessions", 201, json={"name": "x"}).json()["session_id"]
    exported = ask("GET", f"sessions/{made}/export", 200).json()
    ask("POST", "sessions/import", 201, json=exported)
    upload = ask("POST", "uploads", 201, content=b"x", **text).json()["upload_id"]
    ask("GET", f"uploads/{upload}", 200)
    for path in ("sessions", f"sessions/{made}", f"sessions/{made}/messages", "search?q=x"):
        ask("GET", path, 200)
    ask("GET", f"sessions/{made}/export?format=markdown", 200)
    ask("GET", f"sessions/{made}/context", 200)
    ask("PATCH", f"sessions/{made}", 200, json={"name": "y"})
    for path in (
        "sessions?limit=0",
        f"sessions/{made}/messages?limit=0",
        "search",
        f"sessions/{made}/export?format=x",
    ):
        ask("GET", path, 400)
    for method, path in (("POST", "sessions"), ("PATCH", f"sessions/{made}"), ("POST", "sessions/import")):
        ask(method, path, 400, content=b"{", headers={"content-type": "application/json"})
        ask(method, path, 415, content=b"{", **text)
        ask(method, path, 403, json={}, **other)
    ask("PATCH", f"sessions/{made}", 422, json={"name": 7})
    ask("POST", "uploads", 400, content=b"", **text)
    ask("POST", "uploads", 413, content=b"x" * 11_000_000, **text)
    ask("POST", "uploads", 415, content=b"x")
    for path in ("sessions/x", "sessions/x/messages", "sessions/x/context", "sessions/x/export", "uploads/x"):
        ask("GET", path, 404)
    ask("PATCH", "sessions/x", 404, json={})
    ask("DELETE", f"sessions/{made}", 200)
    ask("DELETE", f"sessions/{made}", 404)
    ask("DELETE", "uploads/x", 404)


def test_every_answer_is_one_that_the_document_names(
    alice: Person, model: ModelServer, demo_url: str
) -> None:
    with watched(alice):
        for path in ("/livez", "/readyz", "/metrics", "/auth"):
            alice.http.get(path)
        alice.http.post("/auth/demo", json={"user": alice.name})
        alice.http.post("/auth/demo", json={"user": 7})
        alice.http.post("/auth/demo", json={"user": "x"}, headers={"origin": "null"})
        for prefix in ("/llmchat", "/v1/llmchat"):
            me = {"user_id": alice.name}

            def post(path: str, prefix: str = prefix, **kwargs: Any) -> httpx.Response:
                return alice.http.post(f"{prefix}/{path}", **kwargs)

            def get(path: str, prefix: str = prefix) -> httpx.Response:
                return alice.http.get(f"{prefix}/{path}")

            needed: dict[str, dict[str, Any]] = {"connect": {"llm": {"model": "m"}}, "chat": {"message": "x"}}
            for name in ("connect", "chat", "cancel", "disconnect"):
                post(name, content=b"{", headers={"content-type": "application/json"})
                post(name, content=b"x")
                post(name, json={})
                post(name, json={**me, "more": "x" * 300_000})
                assert post(name, json={"user_id": "bob", **needed.get(name, {})}).status_code == 403
            post("chat", json={**me, "message": "hello"})
            post("disconnect", json=me)
            post("connect", json={**me, "llm": {"model": "no:such"}})
            away = {"url": "http://127.0.0.1:1/mcp"}
            post("connect", json={**me, "llm": {"model": "openai:scripted"}, "server": away})
            server = {"url": demo_url}
            connected = post("connect", json={**me, "llm": {"model": "openai:scripted"}, "server": server})
            assert connected.status_code == 200
            model.will(Reply(text="hello"), Reply(status=500), Reply(text="streamed"))
            post("chat", json={**me, "message": "hello"})
            post("chat", json={**me, "message": "hello"})
            post("chat", json={**me, "message": "hello", "streaming": True})
            post("chat", json={**me, "message": " "})
            post("chat", json={**me, "message": "x" * 40_000})
            for query in ("", "?limit=1", "?limit=0", "?limit=x", "?session_id=none"):
                get(f"history/{alice.name}{query}")
            for path in (f"status/{alice.name}", f"config/{alice.name}", "gateway/models", "servers"):
                get(path)
            for path in ("status/bob", "config/bob", "history/bob"):
                assert get(path).status_code == 403
            for query in ("?after=x", "?session_id=none"):
                assert get(f"events{query}").status_code in (400, 404)
            assert get("events?user_id=bob").status_code == 403
            with alice.http.stream("GET", f"{prefix}/events") as events:
                assert events.status_code == 200
            ask_about_sessions(alice, prefix)
            post("cancel", json=me)
            post("disconnect", json=me)
            assert get(f"config/{alice.name}").status_code == 404
        alice.http.post("/auth/logout", json={})
        assert alice.get("status/{me}").status_code == 401
        assert alice.post("chat", message="x").status_code == 401
