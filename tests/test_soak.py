"""Marked users on real workers never meet; see `tests.soak`. `make soak` runs longer."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import create_engine, text

from mcp_chat.stores.database import migrate
from tests.soak import leaky, search
from tests.soak.canary import Canary, foreign, found, of_another_turn, secrets
from tests.soak.findings import Findings
from tests.soak.run import Plan, run
from tests.soak.user import Scene, User
from tests.soak.wire import Answer
from tests.soak.witness import Witness, wrong

MINE, THEIRS = Canary(1, "msg", 5), Canary(2, "msg", 5)
KEY, TOKEN = Canary(1, "key", 10), Canary(1, "tok", 11)
LOGIN = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyLTAwMSJ9.c2lnbmF0dXJl"


def said(*canaries: Canary) -> bytes:
    """Bytes with marks among other things."""
    return json.dumps([f"before {canary} behind" for canary in canaries]).encode()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_marked_users_of_two_workers_never_meet(tmp_path: Path) -> None:
    report = run(Plan(turns=250, workers=2, users=8, seed=7), tmp_path)
    assert not report.findings.count, f"\n{report}"
    assert report.findings.turns >= 250
    assert report.findings.whole > 150
    assert report.outbound > 250
    assert {"answers", "logs", "Valkey", "database", "files", "processes"} <= set(report.findings.searched)
    assert min(report.findings.deeds.values()) > 0
    assert json.loads(report.line().removeprefix("soak "))["violations"] == 0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_worker_that_mixes_users_up_is_noticed(tmp_path: Path) -> None:
    report = run(Plan(turns=150, workers=2, users=6, seed=7, env=leaky.ENV), tmp_path)
    told = "\n".join(report.findings.violations)
    assert "search of user-" in told, report
    assert "log stderr: the secret" in told, report
    assert "outbound to tools: " in told, report


# What it must notice


@pytest.mark.parametrize(
    "data", [said(THEIRS), said(MINE, THEIRS), b"zq7-002", said(KEY), said(TOKEN), LOGIN], ids=str
)
def test_a_user_is_shown_neither_what_is_anothers_nor_a_secret(data: bytes) -> None:
    assert list(foreign(data, 1))
    assert not list(foreign(said(MINE), 1))


def test_an_answer_is_that_of_its_turn() -> None:
    assert list(of_another_turn(said(MINE, Canary(1, "ans", 4)), 5))
    assert not list(of_another_turn(said(MINE, Canary(1, "ans", 5), Canary(1, "nam", 4)), 5))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (said(KEY), said(THEIRS)),
        (said(Canary(2, "key", 10)), said(MINE)),
        (said(KEY), said(MINE, THEIRS)),
        (said(KEY, Canary(1, "key", 20)), said(MINE)),
        (said(), said(MINE)),
        (said(Canary(0, "key", 0)), said(MINE)),
        (said(TOKEN), said(MINE)),
        (said(Canary(1, "key", 11)), said(MINE)),
        (said(KEY), said(MINE, TOKEN)),
    ],
    ids=[
        "token of one, text of another",
        "token of another",
        "texts of two",
        "two tokens",
        "no token",
        "the operator's",
        "for another server",
        "for another place",
        "a token in the body",
    ],
)
def test_a_request_has_the_credentials_of_whom_it_is_for(head: bytes, body: bytes) -> None:
    assert list(wrong(head, body, "key", 0))
    assert not list(wrong(said(KEY), said(MINE), "key", 0))
    assert not list(wrong(said(Canary(0, "key", 0)), said(Canary(5, "msg", 1)), "key", 0))


def test_a_session_of_the_protocol_has_one_user() -> None:
    witness = Witness(lambda *_: asyncio.sleep(0), "tok", 1)
    for user in (1, 1):
        witness._note(requested(user), b"")
    assert not witness._tally()["violations"]
    witness._note(requested(2), b"")
    assert witness._tally()["violations"] == ["one session of the protocol has users [1, 2]"]


def requested(user: int) -> dict[str, Any]:
    """A request's head with a user's token in one and the same session of the protocol."""
    headers = [(b"authorization", said(Canary(user, "tok", 11))), (b"mcp-session-id", b"s")]
    return {"path": "/mcp", "query_string": b"", "headers": headers}


@pytest.mark.parametrize("canary", [KEY, TOKEN, MINE], ids=str)
def test_a_log_has_no_mark_at_all_not_even_across_two_pieces(tmp_path: Path, canary: Canary) -> None:
    log = tmp_path / "stderr"
    log.write_bytes(b"x" * (search.AT_ONCE - 7) + str(canary).encode() + b"\n")
    assert [mark for piece in search.in_pieces(log) for mark in search.any_mark(piece)]
    assert [mark for piece in search.in_pieces(log, search.AT_ONCE) for mark in search.any_mark(piece)]
    log.write_bytes(b"a line\n" + LOGIN)
    assert [mark for piece in search.in_pieces(log) for mark in search.any_mark(piece)] == ["a login"]


def test_valkey_has_marks_only_under_the_keys_of_their_users_and_no_secret(valkey_url: str) -> None:
    searched: Counter[str] = Counter()
    with Redis.from_url(valkey_url, db=9) as client:
        planted = {
            "chat:history:{user-001}": ("rpush", said(THEIRS)),
            "active:session:{user-001}": ("sadd", said(THEIRS)),
            "user:config:{user-001}": ("set", said(KEY)),
            "worker:one": ("set", said(MINE)),
            f"chat:seen:{{user-001}}:{THEIRS}": ("set", b"0-0"),
        }
        client.flushdb()
        client.xadd("chat:events:{user-001}", {"e": said(MINE)})
        client.hset("chat:aside:{user-001}", "field", said(MINE).decode())
        client.zadd("workers", {"one": 1})
        assert list(search.redis(client, searched)) == []
        for key, (command, value) in planted.items():
            client.execute_command(command, key, value)
        found_in = "\n".join(search.redis(client, searched))
        client.flushdb()
    assert all(key in found_in for key in planted), found_in
    assert searched["Valkey"] > 100


def test_a_database_has_marks_only_in_the_rows_of_their_users_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "mcp-chat.db"
    url = f"sqlite:///{path}"
    migrate(url)
    insert = text(
        "INSERT INTO chat_user (user_key, epoch, config, updated_at) VALUES (:u, 1, :c, '2026-01-01')"
    )

    def planted(**row: str) -> list[str]:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM chat_user"))
            connection.execute(insert, row)
        engine.dispose()
        return list(search.database(path, Counter()))

    assert planted(u="user-001", c=str(MINE)) == []
    assert planted(u="user-001", c=str(THEIRS)) == [f"chat_user of user-001 has the text {THEIRS}"]
    assert planted(u="user-001", c=str(KEY)) == [f"chat_user of user-001 has the secret {KEY}"]
    assert list(secrets(path.read_bytes()))


def test_a_process_has_no_users_mark_in_its_title_or_environment() -> None:
    assert list(search.no_operators(said(MINE)))
    assert not list(search.no_operators(said(Canary(0, "key", 0))))


@pytest.mark.anyio
async def test_a_user_who_gives_up_is_heard(user: Scripted) -> None:
    await user.run()  # nobody is at the door
    assert user.given_up()


# What a user says about an answer


class Scripted(User):
    """A user whose answers are written here."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(1, scene, Random(1))

    def hears(self, answer: Answer, **how: Any) -> list[str]:
        """Judge an answer to turn 5; return what is wrong."""
        findings = self._findings
        findings.violations.clear()
        self._search("chat", answer)
        self._judge(answer, 5, how.get("tool", ""), not_resumed=how.get("not_resumed", False))
        return findings.violations

    def given_up(self) -> list[str]:
        """What is said about users who could not go on."""
        return [violation for violation in self._findings.violations if "gives up" in violation]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def user() -> Scripted:
    nobody: dict[str, str] = {}
    return Scripted(
        Scene(host="", port=0, model_url="", servers=nobody, findings=Findings(), more=lambda: False)
    )


def heard(*canaries: Canary, **headers: str) -> Answer:
    """A whole answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status=200, headers=named, body=bytearray(said(*canaries)), complete=True)


ANSWER, RESULT = Canary(1, "ans", 5), Canary(1, "res", 5)


def test_a_whole_answer_has_the_marks_of_its_turn(user: Scripted) -> None:
    assert user.hears(heard(ANSWER)) == []
    assert user.hears(heard(ANSWER, RESULT), tool="one__note") == []
    assert user.hears(heard()) == [f"chat: {ANSWER} is missing in its answer"]
    assert user.hears(heard(ANSWER), tool="one__note") == [f"chat: {RESULT} is missing in its answer"]
    assert user.hears(heard(ANSWER, Canary(1, "ans", 4)))
    assert user.hears(heard(ANSWER, Canary(2, "ans", 5)))
    assert user.hears(heard(ANSWER, mcp_chat_session=str(THEIRS)))


def test_anothers_conversation_is_not_resumed(user: Scripted) -> None:
    assert user.hears(heard(ANSWER, mcp_chat_resumed="true"), not_resumed=True)
    assert user.hears(heard(ANSWER, mcp_chat_resumed="false"), not_resumed=True) == []


def test_a_mark_says_whose_it_is() -> None:
    assert found(said(MINE, THEIRS)) == {MINE, THEIRS}
