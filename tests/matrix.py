"""Every place in a request where an id can stand, by route; and two people whose ids are tried there."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import jwt
from starlette.applications import Starlette

from mcp_chat.app import create_app
from mcp_chat.demo.server import build_app
from mcp_chat.desk import Desk
from mcp_chat.grants import Grants, grant_of
from mcp_chat.message import new_id
from mcp_chat.papers import Papers
from mcp_chat.questions import Question
from mcp_chat.settings import load_settings
from mcp_chat.stores.database import migrate
from mcp_chat.stores.sql import open_sql
from mcp_chat.vault import Vault
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running

SECRET = "a secret of more than 32 bytes, for tests"
KEY = base64.b64encode(bytes(range(32))).decode()

Ids = Mapping[str, Sequence[str]]
"""By kind: user, server, session, message, asked, upload, turn, event, question, approval, and so on."""

Sent = dict[str, Any]


def token(sub: str, **claims: Any) -> str:
    """A token that is good but for what is given."""
    return jwt.encode({"sub": sub, "aud": "chat", "exp": int(time.time()) + 7200, **claims}, SECRET, "HS256")


# The table


def body(**fields: Any) -> Callable[[Ids], Sent]:
    """A good request with a JSON body, in which the user is named."""
    return lambda me: {"body": {"user_id": me["user"][0], **fields}}


def of_session(**more: Any) -> Callable[[Ids], Sent]:
    """A good request about a conversation."""
    return lambda me: {"path": {"session_id": me["session"][-1]}, **more}


def of_branch(me: Ids) -> Sent:
    """A good request to show what is shown."""
    return {"path": {"session_id": me["session"][-1], "branch_id": me["message"][-1]}, "body": {}}


def of_server(**more: Any) -> Callable[[Ids], Sent]:
    """A good request about a server that one is connected to."""
    return lambda me: {"path": {"alias": me["server"][0]}, **more}


def connecting(me: Ids) -> Sent:
    """A good request to connect to what one is connected to."""
    servers = [{"url": url, "alias": me["server"][0]} for url in me.get("mcp", ())]
    return {"body": {"user_id": me["user"][0], "llm": {"model": "openai:scripted"}, "servers": servers}}


def one_more(me: Ids) -> Sent:
    """A good request to connect to one more server."""
    url, alias = me.get("mcp", ["http://127.0.0.1:9/mcp"])[0], f"s-{secrets.token_hex(6)}"
    return {"body": {"url": url, "alias": alias, "user_id": me["user"][0]}}


def of_user(me: Ids) -> Sent:
    """A good request about a user."""
    return {"path": {"user_id": me["user"][0]}}


def of_question(me: Ids) -> Sent:
    """A good answer to a question."""
    return {"path": {"question_id": me["question"][0]}, **body(action="decline")(me)}


def of_approval(me: Ids) -> Sent:
    """A good decision about a call."""
    return {"path": {"approval_id": me["approval"][0]}, **body(decision="deny")(me)}


def of_no_server(*, query: Sent | None = None, **fields: Any) -> Callable[[Ids], Sent]:
    """A good request about a server, which nobody is connected to."""
    sent: Sent = {"path": {"alias": "none"}, **({"query": query} if query else {})}
    return lambda me: {**sent, **({"body": {"user_id": me["user"][0], **fields}} if fields else {})}


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
    side = {"fork": "m1", "messages": [{"role": "user", "content": "d", "id": "m3"}]}
    return {
        "body": {
            "schema": "mcp-chat/session/1",
            "id": me["session"][-1],
            "messages": messages,
            "branches": [side],
        }
    }


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
OWN = {"body.user_id": "user"}
SERVER = {"path.alias": "server", **USER}
ONE = {"path.session_id": "session", **USER}
PAGED = ("query.before", "query.after")

TABLE: dict[str, Row] = {
    "POST connect": Row(connecting, SAID, silent=SILENT),
    "POST chat": Row(
        lambda me: {"body": {"user_id": me["user"][0], "message": "hello", "session_id": me["session"][-1]}},
        {
            **SAID,
            "body.session_id": "session",
            "body.message_id": "turn",
            "body.attachments": "upload",
            "body.edit": "asked",
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
    "GET usage": Row(lambda me: {}, USER),
    "GET servers": Row(lambda me: {}, USER),
    "POST servers": Row(one_more, {"body.user_id": "user"}, 201),
    "GET servers/{alias}/tools": Row(of_server(), SERVER),
    "PATCH servers/{alias}/tools": Row(
        of_server(body={"enabled": {"add": False}}), {"path.alias": "server", "body.user_id": "user"}
    ),
    "POST servers/{alias}/sign-in": Row(of_server(body={}), {"path.alias": "server", "body.user_id": "user"}),
    "POST oauth/callback": Row(lambda me: {"body": {"state": "s" * 43}}, {"body.user_id": "user"}, 400),
    "DELETE servers/{alias}/sign-in": Row(of_server(), SERVER, 404, silent=("path.alias",)),
    "PATCH servers/{alias}": Row(
        of_server(body={"enabled": True}), {"path.alias": "server", "body.user_id": "user"}
    ),
    "DELETE servers/{alias}": Row(of_server(), SERVER),
    "GET questions": Row(lambda me: {}, {"query.session_id": "session", **USER}),
    "POST questions/{question_id}": Row(
        of_question, {"path.question_id": "question", "body.user_id": "user"}
    ),
    "GET approvals": Row(lambda me: {}, {"query.session_id": "session", **USER}),
    "GET approvals/{approval_id}": Row(
        lambda me: {"path": {"approval_id": me["approval"][0]}}, {"path.approval_id": "approval", **USER}
    ),
    "POST approvals/{approval_id}": Row(
        of_approval, {"path.approval_id": "approval", "body.user_id": "user"}
    ),
    "GET approvals/grants": Row(lambda me: {}, USER),
    "DELETE approvals/grants/{grant_id}": Row(
        lambda me: {"path": {"grant_id": me["grant"][0]}}, {"path.grant_id": "grant", **USER}
    ),
    "DELETE approvals/grants": Row(lambda me: {}, USER),
    "GET turns/{turn_id}/recording": Row(
        lambda me: {"path": {"turn_id": me["turn"][-1]}}, {"path.turn_id": "turn", **USER}
    ),
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
            "body.branches.0.messages.0.id": "message",
            **USER,
        },
        201,
        silent=(
            "body.branches.0.messages.0.id",
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
    "GET sessions/{session_id}/branches": Row(of_session(), ONE),
    "POST sessions/{session_id}/branches/{branch_id}": Row(
        of_branch, {"path.session_id": "session", "path.branch_id": "message", "body.user_id": "user", **USER}
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
    "GET apps/view": Row(lambda me: {"query": {"tool": "toys__none"}}, USER, 404),
    "POST apps/calls": Row(body(tool="toys__none", name="none"), {"body.user_id": "user"}, 404),
    "POST apps/resources": Row(body(tool="toys__none", uri="ui://none"), {"body.user_id": "user"}, 404),
    "GET servers/{alias}/prompts": Row(of_no_server(), USER, 404),
    "POST servers/{alias}/prompts/get": Row(of_no_server(name="p"), OWN, 404),
    "POST servers/{alias}/complete": Row(of_no_server(prompt="p", argument="a"), OWN, 404),
    "GET servers/{alias}/resources": Row(of_no_server(), USER, 404),
    "GET servers/{alias}/resource-templates": Row(of_no_server(), USER, 404),
    "POST servers/{alias}/resources/read": Row(of_no_server(uri="a:b"), OWN, 404),
    "POST servers/{alias}/resources/subscriptions": Row(of_no_server(uri="a:b"), OWN, 404),
    "DELETE servers/{alias}/resources/subscriptions": Row(of_no_server(query={"uri": "a:b"}), USER, 404),
    "POST retry": Row(
        lambda me: {"body": {"user_id": me["user"][0], "session_id": me["session"][-1]}},
        {**SAID, "body.session_id": "session", "body.message_id": "message"},
        silent=SILENT,
    ),
    "POST disconnect": Row(body(), SAID, silent=SILENT),
}
"""A route or a place that is not here fails a test; deleting and disconnecting come after what they end."""

NO_IDS = frozenset(
    {
        *("message", "streaming", "if_running", "record", "name", "context", "system_prompt"),
        *("limit", "format", "decision", "reason"),
        *("action", "content"),  # what is answered
        *("llm", "model", "provider", "config", "temperature", "max_tokens", "timeout"),
        *("server", "servers", "transport", "command", "args"),  # the operator's, or an address
        *("url", "base_url", "auth_token", "api_key", "alias"),
        *("region", "api_version", "project_id", "deployment", "secret_key", "session_token"),  # a provider's
        *("tool", "prompt", "template", "argument", "arguments", "value", "resources", "uri"),  # a server's
        *("state", "code", "iss", "error"),  # of a sign-in: tests/test_oauth.py tries another's
        *("enabled", "accept", "policy"),  # names of tools, and hashes of what they say
        *("since", "until", "by"),  # days, and what is told apart
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
        mcp: A server with tools.
        database: Where everything is kept.
    """

    url: str
    mcp: str
    database: str
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
        kept = self.connected(self.keeper)
        word = f"kept{secrets.token_hex(4)}"
        ids = busy(self.keeper, {**furnished(self.keeper, word), **kept}, word)
        return {**ids, **asked_of(self.keeper, self.database, ids["session"][-1], word)}

    def connected(self, person: Person) -> dict[str, list[str]]:
        """Connect somebody to a server under a name of their own."""
        alias = f"{person.name.partition('-')[0]}-{secrets.token_hex(4)}"
        person.connect(servers=[{"url": self.mcp, "alias": alias}])
        return {"server": [alias], "mcp": [self.mcp]}

    def inventory(self) -> dict[str, bytes]:
        """Everything that the owner can see of their own."""
        sessions = self.owner.get("sessions?limit=200").json()["sessions"]
        ids = [each["session_id"] for each in sessions]
        paths = [
            *(
                "questions",
                "approvals",
                "approvals/grants",
                "sessions?limit=200",
                "config/{me}",
                "status/{me}",
                "history/{me}",
                f"search?q={self.marker}",
            ),
            *(f"uploads/{upload}" for upload in self.owned["upload"]),
            *(
                f"sessions/{id_}{part}"
                for id_ in ids
                for part in ("", "/messages", "/branches", "/context", "/export")
            ),
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
        "asked": [messages[3]["id"]],
        "upload": [upload],
        "place": [cursor_of(person, f"sessions/{session}/messages")],
        "word": [marker],
    }


def asked_of(person: Person, database: str, session_id: str, marker: str) -> dict[str, list[str]]:
    """Ask someone something, and whether a call may be made, and grant something; return the ids."""
    until = time.time() + 3600
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    question = Question(
        kind="form", server="s", message=marker, schema=schema, session_id=session_id, until=until
    )
    approval = Question(
        kind="approval",
        server="s",
        message="",
        session_id=session_id,
        tool="s__send",
        name="send",
        place="p",
        definition="d",
        arguments={"text": marker},
        choices=("once", "always", "deny"),
        until=until,
    )
    grant = replace(grant_of(approval), tool=f"s__{marker}", name=marker)

    async def ask() -> None:
        async with open_sql(database) as archive:
            papers = Papers(archive, Vault([base64.b64decode(KEY)]))
            await Desk(papers).put(person.name, question, epoch=None)
            await Desk(papers).put(person.name, approval, epoch=None)
            await Grants(papers=papers, seconds=3600).put(person.name, grant)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, ask()).result()
    return {"question": [question.id], "approval": [approval.id], "grant": [grant.id]}


def busy(person: Person, ids: dict[str, list[str]], marker: str, *, runs: str = "") -> dict[str, list[str]]:
    """Have a connected person say something, and begin a turn that does not end where a name is given."""
    ended, running_ = new_id(), runs or new_id()
    answer = person.say(f"{marker} said", message_id=ended, record=True)
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
    with running(model.app, grace=0) as model_host, running(build_app("127.0.0.1")) as mcp:
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
                theirs = {"url": f"{mcp}/mcp", "alias": f"bob-{secrets.token_hex(4)}"}
                owner.post(
                    "connect", llm={"provider": "openai", "config": secret}, servers=[theirs]
                ).raise_for_status()
                furniture = {**furnished(owner, marker), "server": [theirs["alias"]]}
                model.will(
                    Reply(text=f"{marker} answered"), Reply(text=f"{marker} goes on for ever", hang_after=3)
                )
                owned = busy(owner, furniture, marker, runs=new_id())
                owned |= asked_of(owner, settings["database_url"], owned["session"][-1], marker)
                alias = f"ann-{secrets.token_hex(4)}"
                other.connect(servers=[{"url": f"{mcp}/mcp", "alias": alias}])
                servers = {"server": [alias], "mcp": [f"{mcp}/mcp"]}
                own = busy(other, {**furnished(other, "plain"), **servers}, "plain")
                own |= asked_of(other, settings["database_url"], own["session"][-1], "plain")
                yield World(
                    url=url,
                    mcp=f"{mcp}/mcp",
                    database=settings["database_url"],
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
        "approvals": False,
        "log_level": "error",
        "allowed_networks": "127.0.0.0/8",
        "requests_per_minute": 0,
        "turn_timeout": 3600,
        "model_timeout": 3600,
    }
