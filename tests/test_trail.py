"""The audit trail: what is in it, what never is, and how an operator reads it."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from mcp_chat import cli
from mcp_chat.config import ModelConfig, ServerConfig, UserConfig
from mcp_chat.deed import Deed, places_of
from mcp_chat.exceptions import Fenced
from mcp_chat.message import Message, now
from mcp_chat.stores import database
from mcp_chat.stores.base import Addition, Archive
from mcp_chat.stores.database import migrate
from mcp_chat.stores.sql import SQLArchive, open_sql
from mcp_chat.urls import origin_of
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until
from tests.test_archive import archive, empty_url, fresh_postgresql, postgresql, transactions, url
from tests.test_identity import JWT, token

__all__ = ["archive", "empty_url", "fresh_postgresql", "postgresql", "url"]

MARKERS = ("MARKTOKEN", "MARKPATH", "MARKQUERY", "MARKTEXT", "MARKARG", "MARKANSWER", "MARKKEY", "MARKTOOL")

Audit = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Lines:
    """What the application has logged."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def text(self) -> str:
        """Return all of it."""
        self._text += self._capture.readouterr().err
        return self._text

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of an event."""
        found = [json.loads(line) for line in self.text().splitlines()]
        return [line for line in found if line["event"] == event]


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """Take the log lines of the application that begins after this."""
    before = structlog.get_config()
    yield Lines(capsys)
    structlog.configure(**before)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run `mcp-chat audit` in this process; keywords are environment variables."""

    def run(*args: str, **env: str) -> tuple[int, str, str]:
        before = structlog.get_config()
        with monkeypatch.context() as patch:
            for variable, value in {"DATABASE_URL": f"sqlite:///{tmp_path}/chat.db", **env}.items():
                patch.setenv(variable, value)
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["mcp-chat", "audit", *args])
            out, err = io.StringIO(), io.StringIO()
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
                cli.main()
        structlog.configure(**before)
        lines = err.getvalue().splitlines(keepends=True)
        said = "".join(line for line in lines if not line.startswith("{"))  # the application here logs, too
        return int(left.value.code or 0), out.getvalue(), said

    return run


@pytest.fixture
def audit(ran: Callable[..., tuple[int, str, str]]) -> Audit:
    """Read the trail as a program does, the last deed last."""

    def read(*args: str) -> list[dict[str, Any]]:
        code, out, err = ran("--json", *args)
        assert (code, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return read


def brief(deed: dict[str, Any]) -> tuple[str, str, str, str]:
    """What a deed says in short."""
    return deed["action"], deed["decision"], deed["tool"] or deed["server"], deed["outcome"]


def asked(person: Person, model: ModelServer, *calls: tuple[str, Any]) -> dict[str, Any]:
    """Have the model ask for calls; return the answer."""
    model.will(Reply(calls=list(calls)), Reply(text="done"))
    return person.say("go")


# What is done


def test_a_connect_a_call_and_a_disconnect_are_in_the_trail(
    alice: Person, model: ModelServer, demo_url: str, audit: Audit
) -> None:
    before = now()
    session = alice.connect(server={"url": demo_url, "alias": "toys"})["session_id"]
    asked(alice, model, ("toys__add", {"b": 2, "a": 1}))
    alice.post("disconnect")
    connect, call, disconnect = audit()
    assert brief(connect) == ("connect", "allowed", f"toys {origin_of(demo_url)}", "succeeded")
    assert brief(call) == ("call", "allowed", "toys__add", "succeeded")
    assert brief(disconnect) == ("disconnect", "allowed", "", "succeeded")
    assert call["server"] == "toys"
    assert call["arguments"] == hashlib.sha256(b'{"a":1,"b":2}').hexdigest()
    assert call["by"] == "policy"
    assert {each["session_id"] for each in (connect, call, disconnect)} == {session}
    assert {each["user"] for each in (connect, call, disconnect)} == {alice.name}
    times = [datetime.fromisoformat(each["at"]) for each in (connect, call, disconnect)]
    assert [before, *times] == sorted([before, *times])


def test_equal_arguments_have_equal_hashes_and_others_have_others(
    alice: Person, model: ModelServer, demo_url: str, audit: Audit
) -> None:
    alice.connect(server={"url": demo_url, "alias": "toys"})
    for args in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}):
        asked(alice, model, ("toys__add", args))
    one, same, other = [deed["arguments"] for deed in audit("--action", "call")]
    assert one == same != other


def test_a_call_that_fails_is_a_call_that_failed(
    alice: Person, model: ModelServer, demo_url: str, audit: Audit
) -> None:
    alice.connect(server={"url": demo_url, "alias": "toys"})
    asked(alice, model, ("toys__divide", {"a": 1, "b": 0}))
    assert [brief(deed) for deed in audit("--action", "call")] == [
        ("call", "allowed", "toys__divide", "failed")
    ]


def test_calls_that_were_never_made_are_refused_and_do_not_say_what_the_model_wrote(
    alice: Person, model: ModelServer, demo_url: str, audit: Audit
) -> None:
    alice.connect(server={"url": demo_url, "alias": "toys"})
    asked(alice, model, ("toys__add", '{"a": NaN}'), ("my_password_is_hunter2", {}))
    deeds = audit("--action", "call")
    assert sorted(brief(deed) for deed in deeds) == [
        ("call", "refused", "", "invalid_arguments"),
        ("call", "refused", "", "unknown_tool"),
    ]
    assert "hunter2" not in json.dumps(deeds)


def test_a_call_whose_arguments_do_not_fit_is_refused_by_name(
    alice: Person, model: ModelServer, demo_url: str, audit: Audit
) -> None:
    alice.connect(server={"url": demo_url, "alias": "toys"})
    asked(alice, model, ("toys__add", {"a": "hunter2", "b": 1}))
    [deed] = audit("--action", "call")
    assert brief(deed) == ("call", "refused", "toys__add", "unfit_arguments")
    assert deed["server"] == "toys"
    assert "hunter2" not in json.dumps(deed)


def test_a_call_that_its_user_has_stopped_says_so(
    alice: Person, model: ModelServer, demo_url: str, audit: Audit
) -> None:
    alice.connect(server={"url": demo_url, "alias": "toys"})
    model.will(Reply(calls=[("toys__slow_count", {"steps": 50, "pause": 0.1})]))
    with alice.streaming("count") as frames:
        assert next(frames)[0] == "tool_start"
        alice.http.post("/llmchat/cancel", json={"user_id": alice.name})
        assert list(frames)[-1][1]["stopped"] is True
    assert [brief(deed) for deed in audit("--action", "call")] == [
        ("call", "allowed", "toys__slow_count", "stopped")
    ]


def test_an_address_that_is_refused_is_in_the_trail_without_its_path(alice: Person, audit: Audit) -> None:
    server = {"url": "http://10.0.0.1:8000/MARKPATH?key=MARKQUERY", "alias": "inner"}
    assert alice.post("connect", llm={"model": "openai:scripted"}, server=server).status_code == 400
    [deed] = audit()
    assert brief(deed) == ("connect", "refused", "inner http://10.0.0.1:8000", "address_not_allowed")
    assert not any(marker in json.dumps(deed) for marker in MARKERS)


def test_a_server_that_does_not_answer_is_an_allowed_connect_that_failed(alice: Person, audit: Audit) -> None:
    server = {"url": "http://127.0.0.1:8999/mcp", "alias": "gone"}
    assert alice.post("connect", llm={"model": "openai:scripted"}, server=server).status_code == 503
    assert [brief(deed) for deed in audit()] == [
        ("connect", "allowed", "gone http://127.0.0.1:8999", "server_unavailable")
    ]


def test_a_model_at_an_address_of_ones_own_is_a_place_one_connects_to(
    alice: Person, model_url: str, audit: Audit
) -> None:
    own = {"provider": "openai", "config": {"model": "m", "base_url": model_url, "api_key": "sk-MARKKEY"}}
    assert alice.post("connect", llm=own).status_code == 200
    assert [brief(deed) for deed in audit()] == [
        ("connect", "allowed", f"model {origin_of(model_url)}", "succeeded")
    ]


def test_a_model_whose_address_is_refused_when_it_is_dialled_is_in_the_trail(
    alice: Person, audit: Audit
) -> None:
    own = {"provider": "openai", "config": {"model": "m", "base_url": "http://10.0.0.1:8000/v1"}}
    session = alice.post("connect", llm=own).json()["session_id"]
    assert alice.post("chat", message="hi").status_code == 503
    connect, refused = audit()
    assert connect["server"] == "model http://10.0.0.1:8000"
    assert brief(refused) == ("connect", "refused", "model", "address_not_allowed")
    assert refused["session_id"] == session
    assert refused["turn"]


def test_connections_that_are_opened_again_after_a_rest_are_in_the_trail(
    serve: Callable[..., str], name: str, demo_url: str, logged: Lines, audit: Audit
) -> None:
    with Person(serve(idle_timeout=0.2, log_level="info"), name) as person:
        person.connect(server={"url": demo_url, "alias": "toys"})
        wait_until(lambda: logged.of("user.released"), "the user rests")
        person.say("hello")
    [deed] = wait_until(lambda: audit("--action", "reconnect"), "it is in the trail")
    assert brief(deed) == ("reconnect", "allowed", f"toys {origin_of(demo_url)}", "succeeded")


def test_a_message_that_is_sent_again_leaves_one_deed(
    alice: Person, model: ModelServer, demo_url: str, audit: Audit
) -> None:
    alice.connect(server={"url": demo_url, "alias": "toys"})
    model.will(Reply(calls=[("toys__add", {"a": 1, "b": 2})]), Reply(text="3"))
    for _ in range(2):
        assert alice.keyed("chat", "once", message="add").json()["response"] == "3"
    assert len(audit("--action", "call")) == 1


def test_a_conversation_that_is_deleted_leaves_its_deeds(
    alice: Person, model: ModelServer, demo_url: str, audit: Audit
) -> None:
    session = alice.connect(server={"url": demo_url, "alias": "toys"})["session_id"]
    asked(alice, model, ("toys__add", {"a": 1, "b": 2}))
    before = audit()
    assert alice.http.delete(f"/llmchat/sessions/{session}").status_code == 200
    assert audit() == before
    assert before[-1]["session_id"] == session


# What never is in it


def test_no_secret_and_no_chat_text_is_in_a_row_or_a_log_line(
    serve: Callable[..., str],
    name: str,
    model: ModelServer,
    model_url: str,
    demo_url: str,
    logged: Lines,
    tmp_path: Path,
) -> None:
    with Person(serve(log_level="debug"), name) as person:
        own = {"provider": "openai", "config": {"model": "m", "base_url": model_url, "api_key": "sk-MARKKEY"}}
        server = {"url": f"{demo_url}?k=MARKQUERY", "alias": "toys", "auth_token": "MARKTOKEN"}
        assert person.post("connect", llm=own, server=server).status_code == 200
        calls = [("toys__add_todo", {"text": "MARKARG"}), ("toys__fail", {"reason": "MARKANSWER"})]
        model.will(
            Reply(text="MARKTEXT", calls=[*calls, ("MARKTOOL", {}), ("toys__add", '{"MARKARG": NaN}')]),
            Reply(text="MARKANSWER"),
        )
        person.say("MARKTEXT")
        elsewhere = {"url": "http://10.0.0.1/MARKPATH", "alias": "inner", "auth_token": "MARKTOKEN"}
        assert person.post("connect", llm=own, server=elsewhere).status_code == 400
        person.post("disconnect")
    with sqlite3.connect(tmp_path / "chat.db") as database:
        rows = database.execute("SELECT * FROM chat_deed").fetchall()
    assert len(rows) == 2 + 4 + 2 + 1
    assert not [marker for marker in MARKERS if marker in repr(rows)]
    assert len(logged.of("deed")) == len(rows)
    assert not [marker for marker in MARKERS if marker in logged.text()]


# The log


def test_a_log_line_says_who_did_it_for_whom_in_which_conversation(
    serve: Callable[..., str], name: str, model: ModelServer, demo_url: str, logged: Lines, audit: Audit
) -> None:
    with Person(serve(log_level="info"), name) as person:
        session = person.connect(server={"url": demo_url, "alias": "toys"})["session_id"]
        asked(person, model, ("toys__add", {"a": 1, "b": 2}))
    [ready] = logged.of("worker.ready")
    connect, call = logged.of("deed")
    assert (connect["action"], call["action"]) == ("connect", "call")
    for line in (connect, call):
        assert (line["user"], line["worker"], line["session"]) == (name, ready["worker"], session)
    row = audit()[-1]
    assert {said: call[said] for said in ("turn", "tool", "arguments", "outcome", "by")} == {
        said: row[said] for said in ("turn", "tool", "arguments", "outcome", "by")
    }
    assert call["turn"]


def test_without_a_database_the_log_has_the_deeds(
    serve: Callable[..., str], name: str, model: ModelServer, demo_url: str, logged: Lines
) -> None:
    with Person(serve(log_level="info", database_url=""), name) as person:
        person.connect(server={"url": demo_url, "alias": "toys"})
        asked(person, model, ("toys__add", {"a": 1, "b": 2}))
        person.post("disconnect")
    assert [line["action"] for line in logged.of("deed")] == ["connect", "call", "disconnect"]


def test_who_is_not_let_in_is_a_log_line_without_what_they_presented(
    serve: Callable[..., str], logged: Lines
) -> None:
    with Person(serve(log_level="info", **JWT), "ann", token=token()) as ann:
        assert ann.get("status/bob").status_code == 403
        ann.http.headers["authorization"] = "Bearer MARKTOKEN"
        assert ann.http.get("/llmchat/servers").status_code == 401
        del ann.http.headers["authorization"]
        assert ann.http.get("/llmchat/servers").status_code == 401
    said = [(line["code"], line["user"], line["peer"]) for line in logged.of("refused")]
    assert said == [
        ("forbidden", "ann", "127.0.0.1"),
        ("not_authenticated", "", "127.0.0.1"),
        ("not_authenticated", "", "127.0.0.1"),
    ]
    assert "MARKTOKEN" not in logged.text()


# Reading it


@pytest.fixture
def deeds(tmp_path: Path) -> list[Deed]:
    """A trail of two users, the first deed first."""
    import anyio

    database, began = f"sqlite:///{tmp_path}/chat.db", now() - timedelta(days=3)
    migrate(database)
    made = [
        Deed(action="connect", server="shop", outcome="succeeded", at=began),
        Deed(action="call", server="shop", tool="shop__buy", outcome="failed", at=began + timedelta(days=2)),
        Deed(action="connect", server="\x1b[31mx", decision="refused", outcome="address_not_allowed"),
    ]

    async def write() -> None:
        async with open_sql(database) as opened:
            for user, deed in zip(("ann", "bob", "ann"), made, strict=True):
                await opened.note(user, [deed])

    anyio.run(write)
    return made


def test_the_last_deeds_are_shown_the_last_one_last(
    deeds: list[Deed], ran: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = ran()
    assert (code, err) == (0, "")
    first, second, third = out.splitlines()
    assert first.endswith(" ann connect shop succeeded 0ms")
    assert second.startswith(f"{deeds[1].at:%Y-%m-%d %H:%M:%S} bob call shop__buy failed")
    assert "refused (address_not_allowed) by policy" in third
    assert "\x1b" not in out
    assert ran("--limit", "1")[1].splitlines() == [third]


def test_deeds_are_picked_by_user_action_and_time(deeds: list[Deed], audit: Audit) -> None:
    def ids(*args: str) -> list[str]:
        return [deed["id"] for deed in audit(*args)]

    one, two, three = [deed.id for deed in deeds]
    assert ids() == [one, two, three]
    assert ids("--user", "ann") == [one, three]
    assert ids("--user", "nobody") == []
    assert ids("--action", "connect", "--user", "ann", "--limit", "1") == [three]
    assert ids("--since", "2d") == [two, three]
    assert ids("--since", "30m") == [three]
    assert ids("--since", f"{deeds[1].at:%Y-%m-%dT%H:%M:%S.%f}") == [two, three]
    assert ids("--since", deeds[1].at.isoformat()) == [two, three]


def test_more_deeds_than_a_page_are_shown_in_order(tmp_path: Path, audit: Audit) -> None:
    import anyio

    database = f"sqlite:///{tmp_path}/chat.db"
    migrate(database)

    async def write() -> None:
        async with open_sql(database) as opened:
            await opened.note("ann", [Deed(action="call", id=f"{n:04}") for n in range(1203)])

    anyio.run(write)
    assert [deed["id"] for deed in audit("--limit", "1100")] == [f"{n:04}" for n in range(103, 1203)]


def test_what_cannot_be_shown_is_one_sentence(
    tmp_path: Path, ran: Callable[..., tuple[int, str, str]]
) -> None:
    def refused(*args: str, **env: str) -> str:
        code, out, err = ran(*args, **env)
        assert (code, out) == (2, "")
        [line] = err.splitlines()
        return line

    assert "There is no database" in refused(DATABASE_URL="", MCP_CHAT_DATA_DIR=str(tmp_path / "none"))
    assert "mcp-chat migrate" in refused(DATABASE_URL=f"sqlite:///{tmp_path}/new.db")
    assert "is no time" in refused("--since", "yesterday")
    assert "is no time" in refused("--since", "999999d")
    assert "use connect" in refused("--action", "fly")
    migrate(f"sqlite:///{tmp_path}/chat.db")
    assert ran()[1] == "The trail has nothing of the kind.\n"
    assert ran("--json")[1] == ""


# The contract, over SQLite and PostgreSQL


FULL = Deed(
    action="call",
    decision="refused",
    by="ann",
    session_id="s" * 64,
    turn="t" * 64,
    server="ä" * 300,
    tool="shop__" + "x" * 300,
    arguments="f" * 64,
    outcome="address_not_allowed",
    ms=2**40,
    at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
)


@pytest.mark.anyio
async def test_a_deed_comes_back_as_it_was_and_is_there_once(archive: Archive, name: str) -> None:
    await archive.note(name, [FULL])
    await archive.note(name, [replace(FULL, outcome="succeeded"), Deed(action="connect", id="c")])
    await archive.note(f"{name}2", [FULL])
    kept = await archive.deeds(name, limit=10)
    assert [(each.user, each.deed.id) for each in kept] == [(name, "c"), (name, FULL.id)]
    assert kept[1].deed == FULL
    assert [each.deed for each in await archive.deeds(f"{name}2", limit=10)] == [FULL]
    assert {name, f"{name}2"} <= {each.user for each in await archive.deeds(None, limit=1000)}


@pytest.mark.anyio
async def test_deeds_are_paged_the_latest_first_and_picked(archive: Archive, name: str) -> None:
    made = [Deed(action="call", id=str(n), at=now() - timedelta(hours=9 - n)) for n in range(9)]
    await archive.note(name, [replace(deed, action="connect") if deed.id == "4" else deed for deed in made])
    found: list[str] = []
    before: int | None = None
    while page := await archive.deeds(name, limit=4, before=before):
        found += [each.deed.id for each in page]
        before = page[-1].place
    assert found == list("876543210")
    assert [each.deed.id for each in await archive.deeds(name, limit=9, action="connect")] == ["4"]
    since = await archive.deeds(name, limit=9, since=made[6].at)
    assert [each.deed.id for each in since] == ["8", "7", "6"]


@pytest.mark.anyio
async def test_a_deed_is_written_with_the_message_that_is_its_result_or_not_at_all(
    archive: Archive, name: str
) -> None:
    def addition(epoch: int, *deeds: Deed) -> Addition:
        message = Message(role="tool", content="ok", tool_call_id="c", name="t")
        return Addition(user=name, session_id="s", messages=(message,), deeds=deeds, epoch=epoch)

    await archive.add(addition(5, FULL))
    with pytest.raises(Fenced):
        await archive.add(addition(4, Deed(action="call")))
    assert [each.deed for each in await archive.deeds(name, limit=10)] == [FULL]
    assert await archive.delete_session(name, "s", epoch=5)
    assert [each.deed for each in await archive.deeds(name, limit=10)] == [FULL]


@pytest.mark.anyio
async def test_many_old_deeds_are_dropped_a_few_at_a_time(
    empty_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "DROPPED", 4)
    migrate(empty_url)
    async with open_sql(empty_url, audit_days=30) as opened:
        long_ago = now() - timedelta(days=31)
        await opened.note(name, [Deed(action="call", id=f"{n}", at=long_ago) for n in range(10)])
        commits = transactions(opened)
        await opened._drop_old_deeds()
        assert len(commits) == 3
        assert await opened.deeds(name, limit=10) == []


@pytest.mark.anyio
@pytest.mark.parametrize(("days", "left"), [(30, ["new"]), (0, ["new", "old"])])
async def test_old_deeds_are_dropped_when_their_time_is_over(
    url: str, name: str, days: int, left: list[str]
) -> None:
    async with open_sql(url, audit_days=days) as opened:
        old = Deed(action="call", id="old", at=now() - timedelta(days=31))
        await opened.note(name, [old, Deed(action="call", id="new", at=now() - timedelta(days=29))])
        await opened.tidy()
        assert [each.deed.id for each in await opened.deeds(name, limit=9)] == left


def test_the_setting_says_for_how_long(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[timedelta | None] = []
    original = SQLArchive.__init__

    def noted(self: SQLArchive, *given: Any, **more: Any) -> None:
        original(self, *given, **more)
        kept.append(self._deeds_kept)

    monkeypatch.setattr(SQLArchive, "__init__", noted)
    serve(audit_days=7)
    serve(audit_days=0)
    assert kept == [timedelta(days=7), None]


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://user:pass@example.org/a?b#c", "https://example.org"),
        ("http://[::1]:8000/mcp", "http://[::1]:8000"),
        ("http://[::1/mcp", "?"),
        ("http://example.org:99999/", "?"),
    ],
)
def test_of_an_address_the_trail_has_the_origin(given: str, origin: str) -> None:
    config = UserConfig(
        servers=(ServerConfig(alias="s", url=given),), model=ModelConfig(provider="demo", model="")
    )
    assert places_of(config) == [f"s {origin}"]
