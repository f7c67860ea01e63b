"""Signing in to MCP servers: begun on one worker, ended on another, used by its user, and taken back."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx
import jwt
import pytest

from mcp_chat.app import create_app
from mcp_chat.settings import load_settings
from mcp_chat.stores.database import migrate
from tests.authorization_server import AuthorizationServer, ProtectedMCP, agreed, guarded_server
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until

KEY = base64.b64encode(bytes(range(32))).decode()
SECRET = "a secret of more than 32 bytes, for tests"
PUBLIC_URL = "http://127.0.0.1:9"
CALLBACK = f"{PUBLIC_URL}/llmchat/oauth/callback"


@pytest.fixture
def both() -> Iterator[tuple[AuthorizationServer, ProtectedMCP]]:
    """An authorization server and an MCP server behind it."""
    with guarded_server() as both:
        yield both


@pytest.fixture
def by(both: tuple[AuthorizationServer, ProtectedMCP]) -> AuthorizationServer:
    """The authorization server."""
    return both[0]


@pytest.fixture
def far(both: tuple[AuthorizationServer, ProtectedMCP]) -> ProtectedMCP:
    """The MCP server."""
    return both[1]


Worker = Callable[..., str]


@pytest.fixture(scope="module")
def script() -> ModelServer:
    """The model's script, of all tests here."""
    return ModelServer()


@pytest.fixture
def model(script: ModelServer) -> ModelServer:
    """The same without what other tests have left."""
    script.will()
    return script


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory, valkey_url: str, script: ModelServer
) -> Iterator[Worker]:
    """Run a worker; all of them share the database, Redis and the keys. Arguments are settings."""
    folder = tmp_path_factory.mktemp("oauth")
    models, servers, database = folder / "models.yaml", folder / "servers.json", f"sqlite:///{folder}/chat.db"
    servers.write_text('{"mcpServers": {}}')
    migrate(database)
    with ExitStack() as stack:
        there = stack.enter_context(running(script.app, grace=0))
        models.write_text(f"models:\n  - model: openai:scripted\n    base_url: {there}/v1\n")
        shared = {
            "workers": 1,
            "database_url": database,
            "redis_url": valkey_url,
            "ollama_url": "off",
            "models_file": models,
            "servers_file": servers,
            "allowed_networks": "127.0.0.0/8",
            "encryption_key": KEY,
            "jwt_secret_key": SECRET,
            "public_url": PUBLIC_URL,
            "connect_timeout": 15,
            "tool_timeout": 15,
            "turn_timeout": 40,
            "log_level": "error",
        }

        def run(**values: Any) -> str:
            return stack.enter_context(
                running(create_app(load_settings(**{**shared, "approvals": False, **values})))
            )

        yield run


@pytest.fixture(scope="module")
def url(worker: Worker) -> str:
    """One worker."""
    return worker()


@pytest.fixture(scope="module")
def other_url(worker: Worker) -> str:
    """Another one."""
    return worker()


@pytest.fixture
def alice(url: str, name: str) -> Iterator[Person]:
    """Somebody at it."""
    with Person(url, name) as person:
        yield person


def connected(person: Person, far: ProtectedMCP, **more: Any) -> dict[str, Any]:
    """Connect to the server; return how it is then."""
    person.connect(servers=[{"url": far.url, "alias": "far", **more}])
    return state(person)


def state(person: Person) -> dict[str, Any]:
    """How the server is."""
    [found] = person.get("servers").json()["connected"]
    return dict(found)


def page(person: Person) -> str:
    """Where the person signs in."""
    answer = person.http.post("/llmchat/servers/far/sign-in", json={})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["url"])


def back(person: Person, given: dict[str, str]) -> httpx.Response:
    """Come back from a sign-in, as a browser does."""
    return person.http.get("/llmchat/oauth/callback", params=given)


def signed_in(person: Person, far: ProtectedMCP) -> None:
    """Connect, and sign in."""
    connected(person, far)
    answer = back(person, agreed(page(person)))
    assert answer.status_code == 200, answer.text
    wait_until(lambda: state(person)["state"] == "open", "the server is open")


def used(person: Person, model: ModelServer, tool: str = "read") -> str:
    """Let the model call a tool; return what the tool has said."""
    model.will(Reply(calls=[(f"far__{tool}", {})]), Reply(text="done"))
    person.say(f"use {tool}")
    said: list[str] = [m["content"] for m in person.history() if m["role"] == "tool"]
    return said[-1]


def test_a_sign_in_is_ended_on_another_worker_and_the_tool_call_carries_its_token(
    other_url: str, alice: Person, far: ProtectedMCP, model: ModelServer
) -> None:
    assert connected(alice, far)["state"] == "sign_in"
    given = agreed(page(alice))
    with Person(other_url, alice.name) as elsewhere:
        answer = back(elsewhere, given)
    assert answer.status_code == 200
    assert "You are signed in to far." in answer.text
    wait_until(lambda: state(alice)["state"] == "open", "the server is open")
    assert state(alice)["signed_in"]
    assert used(alice, model) == "what was read"
    [(_, token)] = far.seen
    assert token in far.by.tokens


def test_what_is_asked_for_is_what_the_protocol_wants(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer
) -> None:
    signed_in(alice, far)
    [registered] = by.clients.values()
    assert registered["redirect_uris"] == [CALLBACK]
    assert registered["application_type"] == "native"
    [asked], [token] = by.requests("/authorize"), by.requests("/token")
    assert asked["resource"] == token["resource"] == far.url
    assert asked["code_challenge_method"] == "S256"
    assert (asked["scope"], asked["redirect_uri"]) == ("read", CALLBACK)
    assert len(asked["state"]) == 43
    assert alice.name not in str(by.asked)


@pytest.mark.parametrize(
    ("path", "form"), [("", "openid"), ("/t", "oauth"), ("/t", "openid"), ("/t", "behind")]
)
def test_the_metadata_of_the_authorization_server_is_found_in_all_its_places(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, path: str, form: str
) -> None:
    by.path, by.form = path, form
    signed_in(alice, far)
    assert len(by.tokens) == 1


def test_two_users_never_share_a_token(
    url: str, alice: Person, far: ProtectedMCP, model: ModelServer
) -> None:
    signed_in(alice, far)
    with Person(url, f"{alice.name}-other") as other:
        assert connected(other, far)["state"] == "sign_in"
        used(alice, model)
        signed_in(other, far)
        used(other, model)
    (_, first), (_, second) = far.seen
    assert first != second


def test_a_sign_in_is_ended_by_nobody_else(
    url: str, alice: Person, far: ProtectedMCP, by: AuthorizationServer
) -> None:
    """Else somebody could let another one work with their own account, or get at the other one's."""
    connected(alice, far)
    given = agreed(page(alice))
    with Person(url, f"{alice.name}-other") as other:
        connected(other, far)
        answer = back(other, given)
        assert (answer.status_code, state(other)["state"]) == (400, "sign_in")
        assert "is not yours" in answer.text
    assert by.requests("/token") == []
    assert back(alice, given).status_code == 200


def test_a_state_is_good_once(alice: Person, far: ProtectedMCP, by: AuthorizationServer) -> None:
    connected(alice, far)
    given = agreed(page(alice))
    assert back(alice, given).status_code == 200
    assert back(alice, given).status_code == 400
    assert len(by.requests("/token")) == 1
    assert back(alice, {**given, "state": "x" * 43}).status_code == 400
    assert back(alice, {**given, "state": "../.."}).status_code == 400


def test_who_looks_only_uses_nothing_up(alice: Person, far: ProtectedMCP) -> None:
    connected(alice, far)
    given = agreed(page(alice))
    alice.http.head("/llmchat/oauth/callback", params=given)
    assert back(alice, given).status_code == 200


@pytest.mark.parametrize(
    ("iss", "promised"), [("https://evil.example", True), ("https://evil.example", None), (False, True)]
)
def test_an_answer_of_another_server_than_the_one_that_was_asked_is_not_used(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, iss: Any, promised: bool | None
) -> None:
    by.iss, by.metadata = iss, {"authorization_response_iss_parameter_supported": promised}
    connected(alice, far)
    answer = back(alice, agreed(page(alice)))
    assert answer.status_code == 400
    assert "does not come from the server that you were sent to" in answer.text
    assert by.requests("/token") == []


def test_no_letter_of_the_issuer_may_differ(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer
) -> None:
    connected(alice, far)
    given = agreed(page(alice))
    assert back(alice, {**given, "iss": f"{given['iss']}/"}).status_code == 400


def test_what_a_wrong_server_says_is_not_shown(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer
) -> None:
    by.declines, by.iss = "access_denied", "https://evil.example"
    connected(alice, far)
    answer = back(alice, agreed(page(alice)))
    assert "does not come from the server" in answer.text
    assert "declined" not in answer.text


@pytest.mark.parametrize(
    ("error", "said"), [("access_denied", "was declined"), ("<script>x</script>", "was not accepted")]
)
def test_a_refusal_is_told_in_our_own_words(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, error: str, said: str
) -> None:
    by.declines = error
    connected(alice, far)
    answer = back(alice, agreed(page(alice)))
    assert answer.status_code == 400
    assert said in answer.text
    assert "own words" not in answer.text
    assert "x</script>" not in answer.text


@pytest.mark.parametrize(
    "metadata",
    [
        {"code_challenge_methods_supported": None},
        {"code_challenge_methods_supported": ["plain"]},
        {"issuer": "https://elsewhere.example"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://elsewhere.example/authorize"},
        {"authorization_endpoint": "https://good.example@evil.example/authorize"},
    ],
)
def test_an_authorization_server_that_is_not_to_be_trusted_is_not_used(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, metadata: dict[str, Any]
) -> None:
    by.metadata = metadata
    answer = alice.post("connect", llm={"model": "openai:scripted"}, servers=[{"url": far.url}])
    assert (answer.status_code, answer.json()["code"]) == (400, "sign_in_failed")
    assert by.requests("/register") == []


def test_metadata_of_another_resource_is_not_used(alice: Person, far: ProtectedMCP) -> None:
    far.metadata = {"resource": "https://elsewhere.example/mcp"}
    answer = alice.post("connect", llm={"model": "openai:scripted"}, servers=[{"url": far.url}])
    assert answer.json()["code"] == "sign_in_failed"


@pytest.mark.parametrize("where", ["authorization_servers", "token_endpoint", "registration_endpoint"])
def test_no_address_is_dialled_for_a_sign_in_that_is_not_allowed(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, where: str
) -> None:
    private = "http://169.254.169.254/latest"
    if where == "authorization_servers":
        far.metadata = {where: [private]}
    else:
        by.metadata = {where: private}
    answer = alice.post(
        "connect", llm={"model": "openai:scripted"}, servers=[{"url": far.url, "alias": "far"}]
    )
    if where == "token_endpoint":
        answer = back(alice, agreed(page(alice)))
    assert answer.status_code == 400
    assert "an address that is not allowed" in answer.text


def test_plain_http_to_a_public_address_is_refused(alice: Person, far: ProtectedMCP) -> None:
    far.metadata = {"authorization_servers": ["http://93.184.216.34"]}
    answer = alice.post("connect", llm={"model": "openai:scripted"}, servers=[{"url": far.url}])
    assert "an address that is not allowed" in answer.text


@pytest.mark.parametrize("path", ["oauth-authorization-server", "register"])
def test_an_answer_without_end_ends(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, path: str
) -> None:
    by.endless = path
    answer = alice.post("connect", llm={"model": "openai:scripted"}, servers=[{"url": far.url}])
    assert (answer.status_code, answer.json()["code"]) == (503, "answer_too_large")


def used_with_a_sign_in(person: Person, model: ModelServer, tool: str) -> tuple[str, dict[str, str]]:
    """Let the model call a tool for which the user signs in; return what it says, and what was asked for."""
    with ThreadPoolExecutor(1) as aside:
        saying = aside.submit(used, person, model, tool)
        [question] = wait_until(lambda: person.get("questions").json()["questions"], "a question")
        assert (question["kind"], question["server"]) == ("sign_in", "far")
        assert back(person, agreed(question["url"])).status_code == 200
        return saying.result(20), dict(parse_qsl(urlsplit(question["url"]).query))


def test_a_tool_that_needs_more_waits_for_it_alone(
    alice: Person, far: ProtectedMCP, model: ModelServer
) -> None:
    signed_in(alice, far)
    said, asked = used_with_a_sign_in(alice, model, "write")
    assert (said, set(asked["scope"].split())) == ("it is written", {"read", "write"})
    assert state(alice)["state"] == "open"
    assert used(alice, model) == "what was read"


def test_who_signs_out_is_out_on_all_workers(
    other_url: str,
    alice: Person,
    far: ProtectedMCP,
    by: AuthorizationServer,
    model: ModelServer,
) -> None:
    signed_in(alice, far)
    used(alice, model)
    with Person(other_url, alice.name) as elsewhere:
        answer = elsewhere.http.delete("/llmchat/servers/far/sign-in")
        assert (answer.status_code, answer.json()) == (200, {"alias": "far", "signed_in": False})
        assert elsewhere.http.delete("/llmchat/servers/far/sign-in").status_code == 404
    assert (by.tokens, by.refreshers) == ({}, {})
    wait_until(lambda: state(alice)["state"] == "sign_in", "the connection is closed")
    assert not state(alice)["signed_in"]


@pytest.mark.parametrize("leave", ["disconnects", "removes the server"])
def test_who_leaves_is_signed_out(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, model: ModelServer, leave: str
) -> None:
    signed_in(alice, far)
    used(alice, model)
    if leave == "disconnects":
        alice.post("disconnect").raise_for_status()
        connected(alice, far)
    else:
        alice.http.delete("/llmchat/servers/far").raise_for_status()
    assert (by.tokens, by.refreshers) == ({}, {})


def test_a_sign_in_that_waits_is_gone_when_its_user_signs_out(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer
) -> None:
    signed_in(alice, far)
    by.revoke_all()
    alice.http.delete("/llmchat/servers/far/sign-in")
    wait_until(lambda: state(alice)["state"] == "sign_in", "the connection is closed")
    given = agreed(page(alice))
    alice.http.delete("/llmchat/servers/far/sign-in")
    assert back(alice, given).status_code == 400


@pytest.mark.parametrize("again", [False, True], ids=["opened by a sign-in", "opened by a connect"])
def test_a_token_that_has_ended_at_the_server_leads_to_one_sign_in_and_the_call_goes_on(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, model: ModelServer, again: bool
) -> None:
    signed_in(alice, far)
    if again:
        assert connected(alice, far)["state"] == "open"
    by.revoke_all()
    model.will(Reply(calls=[("far__read", {})]), Reply(text="done"))
    asked = []
    with alice.streaming("use read") as frames:
        for event, data in frames:
            if event == "question":
                asked.append(data)
                assert back(alice, agreed(data["url"])).status_code == 200
    assert [m["content"] for m in alice.history() if m["role"] == "tool"] == ["what was read"]
    assert [question["kind"] for question in asked] == ["sign_in"]
    assert state(alice)["state"] == "open"


def test_a_token_that_ends_breaks_no_other_call_off(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, model: ModelServer
) -> None:
    signed_in(alice, far)
    by.revoke_all()
    model.will(Reply(calls=[("far__read", {}), ("far__read", {})]), Reply(text="done"))
    asked = []
    with alice.streaming("use read twice") as frames:
        for event, data in frames:
            if event == "question":
                asked.append(data)
            if len(asked) == 2 and event == "question":
                assert back(alice, agreed(data["url"])).status_code == 200
    assert [m["content"] for m in alice.history() if m["role"] == "tool"] == ["what was read"] * 2


def test_nor_does_it_when_what_is_refused_is_the_stream_of_news(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer, model: ModelServer
) -> None:
    far.may_listen, far.may_answer = threading.Event(), threading.Event()
    signed_in(alice, far)
    wait_until(lambda: far.listened == 1, "news are asked for")
    model.will(Reply(calls=[("far__read", {})]), Reply(text="done"))
    with alice.streaming("use read") as frames:
        wait_until(lambda: far.seen, "the call was let in")
        by.revoke_all()
        far.may_listen.set()
        wait_until(lambda: far.listened > 1, "news are asked for once more, behind the refusal")
        far.may_answer.set()
        list(frames)
    assert [m["content"] for m in alice.history() if m["role"] == "tool"] == ["what was read"]


def test_who_needs_the_same_sign_in_is_led_to_the_same_one(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer
) -> None:
    """Else each attempt to open a connection would register us once more."""
    connected(alice, far)
    assert page(alice) == page(alice)
    assert len(by.clients) == 1


def test_without_its_own_address_the_chat_says_what_to_set(
    worker: Worker, name: str, far: ProtectedMCP
) -> None:
    with Person(worker(public_url=""), name) as person:
        answer = person.post("connect", llm={"model": "openai:scripted"}, servers=[{"url": far.url}])
    assert "MCP_CHAT_PUBLIC_URL" in answer.json()["detail"]


def test_a_server_with_a_token_of_its_own_needs_no_sign_in(
    alice: Person, far: ProtectedMCP, by: AuthorizationServer
) -> None:
    answer = alice.post(
        "connect",
        llm={"model": "openai:scripted"},
        servers=[{"url": far.url, "alias": "far", "auth_token": "mine"}],
    )
    assert (answer.status_code, answer.json()["code"]) == (503, "server_unavailable")
    assert set(far.headers) == {"mine"}
    assert by.asked == []


def test_a_browser_without_a_login_is_given_a_page_that_ends_the_sign_in_elsewhere(
    worker: Worker, far: ProtectedMCP, name: str, by: AuthorizationServer
) -> None:
    values = {"auth": "jwt", "jwt_secret_key": SECRET}
    url = worker(**values)
    with Person(url, name, token=token(name)) as person:
        connected(person, far)
        given = agreed(page(person))
        bare = httpx.get(f"{url}/llmchat/oauth/callback", params=given, trust_env=False)
        assert (bare.status_code, by.requests("/token")) == (200, [])
        assert 'data-outcome="ask"' in bare.text
        assert given["code"] not in bare.text
        assert "script-src 'self'" in bare.headers["content-security-policy"]
        assert httpx.post(f"{url}/llmchat/oauth/callback", json=given, trust_env=False).status_code == 401
        answer = person.http.post("/llmchat/oauth/callback", json=given)
        assert answer.json() == {"alias": "far", "signed_in": True}
        wait_until(lambda: state(person)["state"] == "open", "the server is open")


def test_the_pages_files_are_served_below_any_prefix(alice: Person) -> None:
    for prefix in ("", "/v1"):
        path = f"{prefix}/llmchat/oauth/callback"
        found = alice.http.get(path, params={"state": "x"})
        links = re.findall(r'(?:src|href)="([^"]+)"', found.text)
        assert len(links) == 4
        for link in links:
            assert alice.http.get(urljoin(f"{alice.http.base_url}{path}", link)).status_code == 200, link


def test_who_we_are_is_published_where_the_chat_has_a_public_address(worker: Worker) -> None:
    url = worker(public_url="https://chat.example.org/tools")
    answer = httpx.get(f"{url}/llmchat/oauth/client.json", trust_env=False)
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.json() == {
        "client_id": "https://chat.example.org/tools/llmchat/oauth/client.json",
        "client_uri": "https://chat.example.org/tools",
        "client_name": "mcp-chat",
        "redirect_uris": ["https://chat.example.org/tools/llmchat/oauth/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "application_type": "web",
        "token_endpoint_auth_method": "none",
    }


def test_that_document_is_our_name_where_it_is_understood(
    worker: Worker, name: str, far: ProtectedMCP, by: AuthorizationServer
) -> None:
    by.metadata = {"client_id_metadata_document_supported": True}
    with Person(worker(public_url="https://chat.example.org"), name) as person:
        signed_in(person, far)
    assert by.clients == {}
    [asked] = by.requests("/authorize")
    assert asked["client_id"] == "https://chat.example.org/llmchat/oauth/client.json"


def test_without_a_public_address_nothing_is_published(alice: Person) -> None:
    assert alice.http.get("/llmchat/oauth/client.json").status_code == 404


def test_no_token_is_in_an_answer_an_event_or_a_log_line(
    worker: Worker, name: str, far: ProtectedMCP, model: ModelServer, capfd: Any
) -> None:
    with Person(worker(log_level="debug"), name) as person:
        signed_in(person, far)
        used(person, model)
        secrets = [*far.by.tokens, *far.by.refreshers]
        said = [person.get(path).text for path in ("servers", "config/{me}", "history/{me}")]
        with person.following(after="0-0") as events:
            model.will(Reply(text="the end"))
            person.say("stop")
            said += [str(event) for event in _until(events, "the end")]
    said += capfd.readouterr()
    assert len(secrets) == 2
    assert not [secret for secret in secrets if any(secret in text for text in said)]


def _until(events: Any, text: str) -> list[Any]:
    heard = []
    for event in events:
        heard.append(event)
        if text in str(event):
            break
    return heard


def token(sub: str) -> str:
    """The token of a login."""
    return jwt.encode({"sub": sub, "exp": int(time.time()) + 900}, SECRET, "HS256")
