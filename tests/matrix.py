"""Every place in a request where an id can stand, by route; and two people whose ids are tried there."""

from __future__ import annotations

import base64
import copy
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
from starlette.applications import Starlette

from mcp_chat.app import create_app
from mcp_chat.message import new_id
from mcp_chat.settings import load_settings
from mcp_chat.stores.database import migrate
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running

SECRET = "a secret of more than 32 bytes, for tests"
KEY = base64.b64encode(bytes(range(32))).decode()

Ids = Mapping[str, Sequence[str]]
"""By kind: user, session, message, upload, turn, event, recency and place (cursors), word."""

Sent = dict[str, Any]


def token(sub: str, **claims: Any) -> str:
    """A token that is good but for what is given."""
    return jwt.encode({"sub": sub, "aud": "chat", "exp": int(time.time()) + 900, **claims}, SECRET, "HS256")


# The table


def body(**fields: Any) -> Callable[[Ids], Sent]:
    """A good request with a JSON body, in which the user is named."""
    return lambda me: {"body": {"user_id": me["user"][0], **fields}}


def of_session(**more: Any) -> Callable[[Ids], Sent]:
    """A good request about a conversation."""
    return lambda me: {"path": {"session_id": me["session"][-1]}, **more}


def of_user(me: Ids) -> Sent:
    """A good request about a user."""
    return {"path": {"user_id": me["user"][0]}}


def of_upload(me: Ids) -> Sent:
    """A good request about a file."""
    return {"path": {"upload_id": me["upload"][0]}}


def exported(me: Ids) -> Sent:
    """A conversation that is brought along."""
    part = {"upload_id": me["upload"][0], "media_type": "text/plain", "name": "a", "size": 1}
    messages = [
        {"role": "user", "content": "a", "id": me["message"][0], "parts": [part]},
        {
            "role": "assistant",
            "content": "",
            "id": "m1",
            "tool_calls": [{"id": "c", "name": "t", "args": {}}],
        },
        {"role": "tool", "content": "b", "id": "m2", "tool_call_id": "c"},
    ]
    return {"body": {"schema": "mcp-chat/session/1", "id": me["session"][-1], "messages": messages}}


@dataclass(frozen=True, slots=True)
class Row:
    """A route, without its prefix.

    Attributes:
        good: A request by whoever has these ids that is answered well.
        places: Where an id can stand, and of which kind it is: ``path.session_id``, ``body.messages.0.id``.
        status: Of the good answer.
        silent: Places where an own id and one of nothing may be answered alike.
    """

    good: Callable[[Ids], Sent]
    places: Mapping[str, str]
    status: int = 200
    silent: Sequence[str] = ()


USER, AGAIN = {"query.user_id": "user"}, {"header.Idempotency-Key": "turn"}
SAID = {"body.user_id": "user", **AGAIN}
SILENT = ("header.Idempotency-Key",)
ONE = {"path.session_id": "session", **USER}
PAGED = ("query.before", "query.after")

TABLE: dict[str, Row] = {
    "POST connect": Row(body(llm={"model": "openai:scripted"}), SAID, silent=SILENT),
    "POST chat": Row(
        body(message="hello"),
        {
            **SAID,
            "body.session_id": "session",
            "body.message_id": "turn",
            "body.attachments": "upload",
        },
        silent=SILENT,
    ),
    "GET events": Row(
        lambda me: {"query": {"after": me["event"][0]}},
        {
            "query.session_id": "session",
            "query.after": "event",
            "header.Last-Event-ID": "event",
            **USER,
        },
        silent=("query.after", "header.Last-Event-ID"),
    ),
    "POST cancel": Row(body(), {**SAID, "body.session_id": "session"}, silent=("body.session_id", *SILENT)),
    "GET status/{user_id:path}": Row(of_user, {"path.user_id": "user"}),
    "GET config/{user_id:path}": Row(of_user, {"path.user_id": "user"}),
    "GET history/{user_id:path}": Row(of_user, {"path.user_id": "user", "query.session_id": "session"}),
    "GET gateway/models": Row(lambda me: {}, {}),
    "GET servers": Row(lambda me: {}, {}),
    "GET search": Row(
        lambda me: {"query": {"q": me["word"][0]}},
        {"query.q": "word", "query.before": "place", **USER},
        silent=PAGED,
    ),
    "GET sessions": Row(
        lambda me: {}, {"query.before": "recency", "query.after": "recency", **USER}, silent=PAGED
    ),
    "POST sessions": Row(body(name="mine"), {"body.user_id": "user", **USER}, 201),
    "POST sessions/import": Row(
        exported,
        {
            "body.id": "session",
            "body.messages.0.id": "message",
            "body.messages.0.parts.0.upload_id": "upload",
            "body.messages.1.tool_calls.0.id": "message",
            "body.messages.2.tool_call_id": "message",
            "body.context.pinned": "message",
            **USER,
        },
        201,
        silent=(
            "body.id",
            "body.messages.0.id",
            "body.messages.0.parts.0.upload_id",
            "body.messages.1.tool_calls.0.id",
            "body.messages.2.tool_call_id",
            "body.context.pinned",
        ),
    ),
    "GET sessions/{session_id}": Row(of_session(), ONE),
    "GET sessions/{session_id}/messages": Row(
        of_session(), {**ONE, "query.before": "place", "query.after": "place"}, silent=PAGED
    ),
    "GET sessions/{session_id}/context": Row(of_session(), ONE),
    "GET sessions/{session_id}/export": Row(of_session(), ONE),
    "PATCH sessions/{session_id}": Row(
        of_session(body={"name": "mine"}),
        {**ONE, "body.user_id": "user", "body.pinned": "message"},
    ),
    "DELETE sessions/{session_id}": Row(of_session(), ONE),
    "POST uploads": Row(
        lambda me: {"content": b"mine", "header": {"content-type": "text/plain"}},
        {"query.name": "upload", **USER},
        201,
        silent=("query.name",),
    ),
    "GET uploads/{upload_id}": Row(of_upload, {"path.upload_id": "upload", **USER}),
    "DELETE uploads/{upload_id}": Row(of_upload, {"path.upload_id": "upload", **USER}),
    "POST disconnect": Row(body(), SAID, silent=SILENT),
}
"""A route or a place that is not here fails a test; deleting and disconnecting come after what they end."""

NO_IDS = frozenset(
    {
        *("message", "streaming", "if_running", "name", "context", "limit", "format"),
        *("llm", "model", "provider", "config", "temperature", "max_tokens", "timeout"),
        *("server", "servers", "transport", "command", "args"),  # the operator's, or an address
        *("url", "base_url", "auth_token", "api_key", "alias"),
    }
)
"""Names of parameters and fields in which no id of a user's object stands."""


# Asking


def put(sent: Sent, place: str, value: str) -> None:
    """Write an id into a request."""
    *way, last = place.split(".")
    inner: Any = sent
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner.setdefault(step, {})
    inner[last] = [value] if last in ("attachments", "pinned") else value


def request_of(http: httpx.Client, prefix: str, route: str, sent: Sent) -> httpx.Request:
    """Return a request for a row."""
    method, path = route.split(" ")
    for name, value in sent.get("path", {}).items():
        path = re.sub(rf"{{{name}(:\w+)?}}", lambda _, value=value: quote(value, safe=""), path)  # type: ignore[misc]
    return http.build_request(
        method,
        f"{prefix}/{path}",
        params=sent.get("query"),
        headers=sent.get("header"),
        content=sent.get("content"),
        json=sent.get("body"),
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: all of it, or of a stream without end what came up to an event."""

    status: int
    headers: Mapping[str, str]
    text: str

    def without(self, *ids: str) -> Answer:
        """Return it with ids, times and durations replaced, so that two can be compared."""
        text = self.text
        headers = {k: v for k, v in self.headers.items() if k not in ("date", "content-length")}
        for id_ in ids:
            text = text.replace(json.dumps(id_)[1:-1], "<id>").replace(id_, "<id>")
            headers = {k: v.replace(id_, "<id>") for k, v in headers.items()}
        text = re.sub(r"\b[0-9a-f]{32}\b", "<new>", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>", text)
        text = re.sub(r'"elapsed_ms":\d+', '"elapsed_ms":0', text)
        headers = {k: re.sub(r"\b[0-9a-f]{32}\b", "<new>", v) for k, v in headers.items()}
        return Answer(self.status, headers, text)


def asked(
    http: httpx.Client,
    prefix: str,
    route: str,
    me: Ids,
    place: str = "",
    value: str = "",
) -> Answer:
    """Ask, with an id in a place of an otherwise good request of somebody's.

    A stream without end is left behind its first event.
    """
    sent = copy.deepcopy(TABLE[route].good(me))
    if place:
        put(sent, place, value)
    response = http.send(request_of(http, prefix, route, sent), stream=True)
    try:
        text = ""
        endless = route == "GET events" and response.status_code == 200
        for part in response.iter_text():
            text += part
            if endless and (event := re.match(r"[^\x00]*?event: .*?\n\n", text, re.DOTALL)):
                text = event[0]
                break
        return Answer(response.status_code, dict(response.headers), text)
    finally:
        response.close()


# Two people


class Confidant(ModelServer):
    """A model that says what it was asked last, and how often it was told the marker before."""

    marker = ""

    def reply_to(self, sent: dict[str, Any]) -> Reply:
        """Return the next answer of the script, or what it was told."""
        if self.script:
            return super().reply_to(sent)
        *before, last = sent["messages"]
        return Reply(text=f"{json.dumps(before).count(self.marker)} before, and now {last['content']}")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """An application, and who is there.

    Attributes:
        marker: What is in everything of the owner's, and nowhere else.
        model: Answers both.
        owner: Has all kinds of objects, and a turn that runs.
        other: Has some of their own, and is curious.
        keeper: Uses their own things, and loses them.
    """

    url: str
    app: Starlette
    marker: str
    model: Confidant
    owner: Person
    owned: Ids
    other: Person
    own: Ids
    keeper: Person

    def anonymous(self, bearer: str = "") -> httpx.Client:
        """Somebody who is not signed in."""
        headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=20)

    def kept(self) -> Ids:
        """New things for the keeper, who is connected then."""
        self.keeper.connect()
        word = f"kept{secrets.token_hex(4)}"
        return busy(self.keeper, furnished(self.keeper, word), word)

    def inventory(self) -> dict[str, bytes]:
        """Everything that the owner can see of their own."""
        sessions = self.owner.get("sessions?limit=200").json()["sessions"]
        ids = [each["session_id"] for each in sessions]
        paths = [
            *("sessions?limit=200", "config/{me}", "status/{me}", "history/{me}", f"search?q={self.marker}"),
            *(f"uploads/{upload}" for upload in self.owned["upload"]),
            *(f"sessions/{id_}{part}" for id_ in ids for part in ("", "/messages", "/context", "/export")),
            *(f"history/{{me}}?session_id={id_}" for id_ in ids),
        ]
        return {path: self.owner.get(path).content for path in paths}

    def has_nothing_of_the_owners(self, answer: Answer, *sent: str) -> None:
        """Fail if a text, a name, a secret or an id of the owner's is in an answer that did not send it."""
        told = answer.text + json.dumps(dict(answer.headers))
        for id_ in sent:
            told = told.replace(id_, "")
        for theirs in (self.marker, *(id_ for ids in self.owned.values() for id_ in ids)):
            if theirs not in "".join(sent):
                assert theirs not in told, f"{theirs} of the owner's was told: {told[:500]}"


def cursor_of(person: Person, path: str) -> str:
    """A cursor behind which there is one thing more."""
    page = person.get(f"{path}?limit=2").json()
    cursor: str = page["before"]
    return cursor


def unlike(id_: str) -> str:
    """An id of the same form that nothing has."""
    if re.fullmatch(r"\d+-\d+", id_):
        moment, _, n = id_.partition("-")
        return f"{int(moment) + 1}-{n}"
    if id_.startswith("Wz"):  # a cursor
        where = json.loads(base64.urlsafe_b64decode(id_ + "=" * (-len(id_) % 4)))
        where[-1] = where[-1] + 1 if isinstance(where[-1], int) else unlike(where[-1])
        return (
            base64.urlsafe_b64encode(json.dumps(where, separators=(",", ":")).encode()).rstrip(b"=").decode()
        )
    return secrets.token_hex(len(id_))[: min(8, len(id_))] + id_[8:]


def nothing_like(ids: Ids) -> Ids:
    """The ids of nothing, of the same forms."""
    return {kind: [unlike(each) for each in some] for kind, some in ids.items()}


def furnished(person: Person, marker: str) -> dict[str, list[str]]:
    """Give someone a conversation with pinned messages and a file; all of it says the marker."""
    messages = [
        {"role": "user" if n % 2 else "assistant", "content": f"{marker} {n}", "id": new_id()}
        for n in range(4)
    ]
    document = {
        "schema": "mcp-chat/session/1",
        "name": f"{marker} name",
        "messages": messages,
        "context": {"note": marker, "pinned": [messages[0]["id"]]},
    }
    session = person.http.post("/llmchat/sessions/import", json=document).json()["session_id"]
    upload = person.http.post(
        f"/llmchat/uploads?name={marker}.txt", content=marker, headers={"content-type": "text/plain"}
    ).json()["upload_id"]
    return {
        "user": [person.name],
        "session": [session],
        "message": [messages[1]["id"]],
        "upload": [upload],
        "place": [cursor_of(person, f"sessions/{session}/messages")],
        "word": [marker],
    }


def busy(person: Person, ids: dict[str, list[str]], marker: str, *, runs: str = "") -> dict[str, list[str]]:
    """Have a connected person say something, and begin a turn that does not end where a name is given."""
    ended, running_ = new_id(), runs or new_id()
    answer = person.say(f"{marker} said", message_id=ended)
    with person.sending(f"{marker} asked", message_id=running_) as events:
        first = next(events)
        if not runs:
            list(events)
    said = person.history()[0]["id"]
    person.http.post("/llmchat/sessions", json={"name": f"{marker} empty"})
    return {
        **ids,
        "session": [answer["session_id"], *ids["session"]],
        "message": [said, *ids["message"]],
        "turn": [running_, ended],
        "event": [first.id],
        "recency": [cursor_of(person, "sessions")],
    }


@contextmanager
def populated(folder: Path, redis_url: str) -> Iterator[World]:
    """Run one application on Valkey and SQLite with two people in it."""
    model = Confidant()
    model.marker = marker = f"marker{secrets.token_hex(8)}"
    with running(model.app, grace=0) as model_host:
        settings = _settings(folder, redis_url, f"{model_host}/v1")
        app = create_app(load_settings(**settings))
        with running(app) as url:
            tail = secrets.token_hex(4)
            names = [f"{name}-{tail}" for name in ("bob", "ann", "cid")]
            with ExitStack() as stack:
                owner, other, keeper = (
                    stack.enter_context(Person(url, name, token=token(name))) for name in names
                )
                secret = {"model": "scripted", "api_key": f"{marker}-key", "base_url": f"{model_host}/v1"}
                owner.post("connect", llm={"provider": "openai", "config": secret}).raise_for_status()
                furniture = furnished(owner, marker)
                model.will(
                    Reply(text=f"{marker} answered"), Reply(text=f"{marker} goes on for ever", hang_after=3)
                )
                owned = busy(owner, furniture, marker, runs=new_id())
                other.connect()
                own = busy(other, furnished(other, "plain"), "plain")
                yield World(
                    url=url,
                    app=app,
                    marker=marker,
                    model=model,
                    owner=owner,
                    owned=owned,
                    other=other,
                    own=own,
                    keeper=keeper,
                )
                owner.post("cancel")


def _settings(folder: Path, redis_url: str, model_url: str) -> dict[str, Any]:
    models, servers, url = folder / "models.yaml", folder / "servers.json", f"sqlite:///{folder}/chat.db"
    models.write_text(f"models:\n  - model: openai:scripted\n    base_url: {model_url}\n")
    servers.write_text('{"mcpServers": {}}')
    migrate(url)
    return {
        "workers": 1,
        "auth": "jwt",
        "jwt_secret_key": SECRET,
        "jwt_audience": "chat",
        "encryption_key": KEY,
        "redis_url": redis_url,
        "database_url": url,
        "models_file": models,
        "servers_file": servers,
        "ollama_url": "off",
        "log_level": "error",
        "allowed_networks": "127.0.0.0/8",
        "requests_per_minute": 0,
        "turn_timeout": 600,
        "model_timeout": 600,
    }
