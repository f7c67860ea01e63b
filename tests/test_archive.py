"""The record: one contract over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from structlog.testing import CapturingLogger

from mcp_chat.exceptions import ChatError, Fenced, SettingsError, StoreUnavailable, TooLarge, TooManySessions
from mcp_chat.message import Message, ToolCall, Usage
from mcp_chat.record import Record
from mcp_chat.session import Session
from mcp_chat.spent import Spent
from mcp_chat.stores import rows
from mcp_chat.stores.base import Addition, Archive, Recency
from mcp_chat.stores.cipher import PLAIN, Sealing
from mcp_chat.stores.database import driver_url, migrate
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.search import searched
from mcp_chat.stores.sql import SQLArchive, open_sql
from mcp_chat.stores.words import index, words
from mcp_chat.upload import Upload
from mcp_chat.vault import Vault
from tests.conftest import missing
from tests.postgres import private_postgresql, programs
from tests.test_stores import cancelled_at

pytestmark = pytest.mark.anyio

SEALING = Sealing(Vault([bytes(range(32))]))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A private PostgreSQL; gives the URL of its first database."""
    where = programs() or missing("PostgreSQL")
    with private_postgresql(where) as url:
        yield url


@pytest.fixture
def fresh_postgresql(postgresql: str) -> str:
    """The URL of a database with nothing in it."""
    import psycopg

    database = f"chat_{secrets.token_hex(4)}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}".encode())
    return postgresql.replace("/postgres?", f"/{database}?")


KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with nothing in it, of either kind."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("fresh_postgresql")
        return url
    return f"sqlite:///{tmp_path}/chat.db"


@pytest.fixture(scope="session", params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database with this version's schema, of either kind; tests share it."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgresql")
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/chat.db"
    migrate(url)
    return url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """SQLite alone."""
    url = f"sqlite:///{tmp_path}/chat.db"
    migrate(url)
    return url


@pytest.fixture(params=["plain", "sealed", "in its thread"])
async def archive(request: pytest.FixtureRequest, url: str) -> AsyncIterator[SQLArchive]:
    """Each kind of archive, with texts as they are and with sealed ones, which are in one database.

    SQLite's small statements are executed at once, or all in its thread: it comes to the same.
    """
    cipher = SEALING if request.param == "sealed" else PLAIN
    async with open_sql(url, cipher, at_once=request.param != "in its thread") as opened:
        yield opened


def said(*contents: str) -> list[Message]:
    """Messages of a user."""
    return [Message(role="user", content=content) for content in contents]


async def add(
    archive: Archive, user: str, session: str, messages: Sequence[Message], *, epoch: int | None = None
) -> None:
    """Add messages to a session."""
    await archive.add(Addition(user=user, session_id=session, messages=tuple(messages), epoch=epoch))


async def contents(archive: Archive, user: str, session: str = "s") -> list[str]:
    return [message.content for message in await archive.read(user, session, limit=1000)]


# Epochs


async def test_an_epoch_rises_each_time_and_is_at_least_its_floor(archive: Archive, name: str) -> None:
    drawn = [await archive.next_epoch(name, floor) for floor in (5, 0, 6, 1_800_000_000_000, 3)]
    assert drawn == [5, 6, 7, 1_800_000_000_000, 1_800_000_000_001]


async def test_epochs_of_two_users_are_apart(archive: Archive, name: str) -> None:
    assert await archive.next_epoch(name, 10) == 10
    assert await archive.next_epoch(f"{name}2", 1) == 1


async def test_no_epoch_is_drawn_twice_by_workers_who_draw_at_once(url: str, name: str) -> None:
    drawn: list[list[int]] = [[] for _ in range(4)]

    async def draw(into: list[int]) -> None:
        async with open_sql(url) as mine:
            for _ in range(25):
                into.append(await mine.next_epoch(name, 1))

    async with anyio.create_task_group() as tasks:
        for into in drawn:
            tasks.start_soon(draw, into)
    assert all(epochs == sorted(epochs) for epochs in drawn)
    assert sorted(chain(*drawn)) == list(range(1, 101))


# Messages


async def test_messages_are_read_in_the_order_in_which_they_were_added(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await add(archive, name, "s", said("a", "b"), epoch=epoch)
    await add(archive, name, "s", said("c"), epoch=epoch)
    assert await contents(archive, name) == ["a", "b", "c"]


async def test_the_last_messages_are_read_when_there_are_more(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await add(archive, name, "s", said(*"abcdef"), epoch=epoch)
    assert [m.content for m in await archive.read(name, "s", limit=2)] == ["e", "f"]


async def test_a_message_that_is_added_again_is_there_once(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    a, b, c = said("a", "b", "c")
    await add(archive, name, "s", [a, b], epoch=epoch)
    await add(archive, name, "s", [b, c], epoch=epoch)
    await add(archive, name, "s", [a], epoch=epoch)
    assert await contents(archive, name) == ["a", "b", "c"]


async def test_adding_nothing_changes_nothing(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await add(archive, name, "s", [], epoch=epoch)
    assert await contents(archive, name) == []


async def test_sessions_and_users_with_equal_ids_are_apart(archive: Archive, name: str) -> None:
    [message] = said("mine")
    for user, session in ((name, "s"), (name, "t"), (f"{name}2", "s")):
        epoch = await archive.next_epoch(user, 1)
        await add(archive, user, session, [message], epoch=epoch)
        assert await contents(archive, user, session) == ["mine"]
    assert await contents(archive, f"{name}2", "t") == []


async def test_a_message_comes_back_as_it_was(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    call = ToolCall(id="1", name="demo__add", args={"a": 2, "deep": [{"x": None, "y": 1.5, "z": "ü"}]})
    messages = [
        Message(
            role="user", content="NUL \x00, control \x1b[31m, \u2028, \ufeff, family 👩‍👩‍👧, e\u0301 and é"
        ),
        Message(role="assistant", content="", tool_calls=(call,), metadata={"interrupted": True}),
        Message(role="tool", content="5", tool_call_id="1", name="demo__add", status="error"),
        Message(role="user", content="'; DROP TABLE chat_message; -- %s :name ${x}"),
        Message(role="user", content="m" * 1_000_000),
    ]
    await add(archive, name, "s", messages, epoch=epoch)
    assert await archive.read(name, "s", limit=10) == messages


async def test_an_older_epoch_adds_nothing(archive: Archive, name: str) -> None:
    old = await archive.next_epoch(name, 1)
    await add(archive, name, "s", said("kept"), epoch=old)
    new = await archive.next_epoch(name, 1)
    with pytest.raises(Fenced):
        await add(archive, name, "s", said("late"), epoch=old)
    with pytest.raises(Fenced):
        await archive.put(name, "late", epoch=old)
    with pytest.raises(Fenced):
        await add(archive, name, "late", [], epoch=old)
    with pytest.raises(Fenced):
        await archive.delete_session(name, "s", epoch=old)
    assert await archive.session(name, "late") is None
    await add(archive, name, "s", said("new"), epoch=new)
    assert await contents(archive, name) == ["kept", "new"]
    assert await archive.get(name) is None


async def test_an_older_epoch_deletes_nothing(archive: Archive, name: str) -> None:
    old = await archive.next_epoch(name, 1)
    new = await archive.next_epoch(name, 1)
    await archive.put(name, "sealed", epoch=new)
    with pytest.raises(Fenced):
        await archive.delete(name, epoch=old)
    assert await archive.get(name) == "sealed"


async def test_an_owner_whose_lease_has_a_higher_epoch_than_was_drawn_may_write(
    archive: Archive, name: str
) -> None:
    drawn = await archive.next_epoch(name, 1)
    await add(archive, name, "s", said("a"), epoch=drawn + 1000)
    assert await contents(archive, name) == ["a"]


async def test_writes_of_an_owner_and_the_next_one_never_mix(url: str, name: str) -> None:
    """An owner writes on and on; once the next epoch is drawn nothing of the older one gets in."""
    async with open_sql(url) as one, open_sql(url) as two:
        old = await one.next_epoch(name, 1)
        written = anyio.Event()

        async def write_on() -> None:
            for n in range(500):
                try:
                    await add(one, name, "s", said(f"old {n}"), epoch=old)
                except Fenced:
                    return
                written.set()
                await anyio.sleep(0.005)  # who waits for SQLite's lock looks now and then
            raise AssertionError("it was never fenced")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_on)
            await written.wait()
            new = await two.next_epoch(name, 1)
            before = await contents(two, name)
            await add(two, name, "s", said("new"), epoch=new)
        assert await contents(two, name) == [*before, "new"]


# Sessions and configurations


async def test_a_session_is_its_users_alone(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await add(archive, name, "s", [], epoch=epoch)
    await add(archive, name, "s", [], epoch=epoch)
    assert await archive.session(name, "s")
    assert not await archive.session(name, "t")
    assert not await archive.session(f"{name}2", "s")


async def test_a_message_opens_its_session(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await add(archive, name, "s", said("a"), epoch=epoch)
    assert await archive.session(name, "s")


@pytest.mark.parametrize("wanted", ["", "x" * 10_000, "a\x00b", "'", "%", "\udcff"])
async def test_any_text_can_be_asked_for_as_a_session(archive: Archive, name: str, wanted: str) -> None:
    assert await archive.session(name, wanted) is None
    assert await archive.read(name, wanted, limit=9) == []
    assert await archive.change_session(name, wanted, name="mine") is None
    assert not await archive.delete_session(name, wanted, epoch=None)
    assert await archive.upload(name, wanted) is None
    assert await archive.pick(name, "s", [wanted]) == []
    await archive.put_away(name, wanted)


async def test_a_configuration_is_kept_until_it_is_deleted(archive: Archive, name: str) -> None:
    assert await archive.get(name) is None
    epoch = await archive.next_epoch(name, 1)
    assert await archive.get(name) is None
    await archive.put(name, "sealed 1", epoch=epoch)
    await archive.put(name, "sealed 2", epoch=epoch)
    assert await archive.get(name) == "sealed 2"
    assert await archive.get(f"{name}2") is None
    await archive.delete(name, epoch=epoch)
    assert await archive.get(name) is None
    assert await archive.next_epoch(name, 1) == epoch + 1


async def test_what_is_written_for_a_user_the_database_has_lost_is_kept(archive: Archive, name: str) -> None:
    """It was restored from a backup, say: an owner goes on and nothing that returns is lost."""
    await archive.put(name, "sealed", epoch=7)
    assert await archive.get(name) == "sealed"
    await add(archive, f"{name}2", "s", said("a"), epoch=7)
    assert await contents(archive, f"{name}2") == ["a"]
    assert await archive.next_epoch(name, 1) == 8


# Several processes

WRITER = """
import sys, anyio
from mcp_chat.message import Message
from mcp_chat.stores.base import Addition
from mcp_chat.stores.sql import open_sql

async def main(url, user, n):
    async with open_sql(url) as archive:
        epoch = await archive.next_epoch(user, 1)
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(n):
            said = Message(role="user", content=f"{user} {i}")
            await archive.add(Addition(user=user, session_id="s", messages=(said,), epoch=epoch))
            await archive.next_epoch(sys.argv[4], 1)

anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def started(script: str, *args: str) -> subprocess.Popen[str]:
    """Start Python code in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def together(processes: Sequence[subprocess.Popen[str]]) -> list[int]:
    """Wait until all are ready, let them go at once, and return their exit codes."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    return [process.returncode for process in processes]


async def test_processes_that_write_at_once_lose_nothing(url: str, name: str) -> None:
    users = [f"{name}-{n}" for n in range(2)]
    processes = [started(WRITER, url, user, "100", f"{name}-all") for user in users]
    assert await to_thread.run_sync(together, processes) == [0, 0]
    async with open_sql(url) as archive:
        for user in users:
            assert await contents(archive, user) == [f"{user} {n}" for n in range(100)]
        assert await archive.next_epoch(f"{name}-all", 1) == 201


MIGRATOR = """
import sys
from mcp_chat.stores.database import migrate
print("ready", flush=True)
sys.stdin.readline()
migrate(sys.argv[1])
"""


async def test_a_database_is_migrated_once_when_two_begin_at_once(empty_url: str, name: str) -> None:
    processes = [started(MIGRATOR, empty_url) for _ in range(2)]
    assert await to_thread.run_sync(together, processes) == [0, 0]
    async with open_sql(empty_url) as archive:
        await archive.ping()
        assert await archive.next_epoch(name, 1) == 1


async def test_migrating_again_changes_nothing(url: str, name: str) -> None:
    async with open_sql(url) as archive:
        epoch = await archive.next_epoch(name, 1)
        await add(archive, name, "s", said("a"), epoch=epoch)
        migrate(url)
        await archive.ping()
        assert await contents(archive, name) == ["a"]


# When it does not work


async def test_a_database_of_this_version_answers_its_ping(archive: Archive) -> None:
    await archive.ping()


async def test_a_database_without_a_schema_is_refused(empty_url: str) -> None:
    async with open_sql(empty_url) as archive:
        with pytest.raises(StoreUnavailable):
            await archive.ping()


async def test_a_database_of_another_version_is_refused_with_advice(sqlite_url: str, tmp_path: Path) -> None:
    async with open_sql(sqlite_url) as archive:
        await archive.ping()
        with sqlite3.connect(tmp_path / "chat.db") as other:
            other.execute("UPDATE mcp_chat_version SET version_num = '0000'")
        other.close()
        with pytest.raises(StoreUnavailable, match="mcp-chat migrate"):
            await archive.ping()


async def test_a_locked_database_acknowledges_nothing(sqlite_url: str, tmp_path: Path, name: str) -> None:
    async with open_sql(sqlite_url) as archive:
        epoch = await archive.next_epoch(name, 1)
        other = sqlite3.connect(tmp_path / "chat.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        failures: list[StoreUnavailable] = []

        async def write() -> None:
            try:
                await add(archive, name, "s", said("lost"), epoch=epoch)
            except StoreUnavailable as error:
                failures.append(error)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                assert await contents(archive, name) == [], "readers do not wait for writers"
                assert not failures
        other.execute("ROLLBACK")
        other.close()
        assert len(failures) == 1
        assert await contents(archive, name) == []
        await add(archive, name, "s", said("kept"), epoch=epoch)
        assert await contents(archive, name) == ["kept"]


async def test_a_read_only_database_acknowledges_nothing(sqlite_url: str, tmp_path: Path, name: str) -> None:
    async with open_sql(sqlite_url) as archive:
        epoch = await archive.next_epoch(name, 1)
    async with open_sql(f"sqlite:///file:{tmp_path}/chat.db?mode=ro&uri=true") as archive:
        await archive.ping()
        with pytest.raises(StoreUnavailable):
            await add(archive, name, "s", said("lost"), epoch=epoch)
        with pytest.raises(StoreUnavailable):
            await archive.next_epoch(name, 1)
        assert await contents(archive, name) == []


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path, name: str) -> None:
    async with open_sql(f"sqlite:///{tmp_path}/no/such/directory/chat.db") as archive:
        with pytest.raises(StoreUnavailable):
            await archive.ping()
        with pytest.raises(StoreUnavailable):
            await archive.next_epoch(name, 1)
    # aiosqlite does not wait for the thread of a connection that failed, which then misses this test's loop
    await eventually(
        lambda: "_connection_worker_thread" not in f"{threading.enumerate()}", "threads have ended"
    )


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_bytes(secrets.token_bytes(8192))
    with pytest.raises(StoreUnavailable):
        migrate(f"sqlite:///{tmp_path}/chat.db")
    async with open_sql(f"sqlite:///{tmp_path}/chat.db") as archive:
        with pytest.raises(StoreUnavailable):
            await archive.ping()


async def test_a_write_that_was_cancelled_is_there_as_a_whole_or_not_at_all(url: str, name: str) -> None:
    async with open_sql(url) as archive:
        epoch = await archive.next_epoch(name, 1)
        for n in range(40):
            with anyio.move_on_after(n / 10_000):
                await add(archive, name, f"s{n}", said("a", "b"), epoch=epoch)
        for n in range(40):
            assert await contents(archive, name, f"s{n}") in ([], ["a", "b"])
        await add(archive, name, "s", said("after"), epoch=epoch)
        assert await contents(archive, name) == ["after"]


@pytest.mark.slow
async def test_a_postgresql_that_restarts_is_found_again(fresh_postgresql: str, name: str) -> None:
    """The server cuts every connection; the pool finds out before it lends one."""
    import psycopg

    migrate(fresh_postgresql)
    async with open_sql(fresh_postgresql) as archive:
        epoch = await archive.next_epoch(name, 1)
        async with await psycopg.AsyncConnection.connect(fresh_postgresql, autocommit=True) as other:
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND datname = current_database()"
            )
        await add(archive, name, "s", said("a"), epoch=epoch)
        assert await contents(archive, name) == ["a"]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p@host/db", "postgresql+psycopg://u:p@host/db"),
        ("postgres://host/db", "postgresql+psycopg://host/db"),
        ("postgresql+psycopg2://host/db", "postgresql+psycopg://host/db"),
        ("sqlite:////data/chat.db", "sqlite+aiosqlite:////data/chat.db"),
    ],
)
def test_urls_are_read_as_operators_write_them(given: str, used: str) -> None:
    assert driver_url(given, asynchronous=True) == used


def test_a_record_is_json_that_others_can_read(sqlite_url: str, tmp_path: Path, name: str) -> None:
    async def write() -> None:
        async with open_sql(sqlite_url) as archive:
            await add(archive, name, "s", said("hello"), epoch=await archive.next_epoch(name, 1))

    anyio.run(write)
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        [(body,)] = connection.execute("SELECT body FROM chat_message").fetchall()
    connection.close()
    assert json.loads(body)["content"] == "hello"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "mysql://h/d", "nonsense"])
def test_a_database_that_cannot_serve_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        migrate(url)


def test_another_programs_migrations_may_live_in_the_same_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shared.db") as other:
        other.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        other.execute("INSERT INTO alembic_version VALUES ('abc123')")
    other.close()
    migrate(f"sqlite:///{tmp_path}/shared.db")
    with sqlite3.connect(tmp_path / "shared.db") as after:
        assert after.execute("SELECT version_num FROM alembic_version").fetchall() == [("abc123",)]
    after.close()


# Epochs in a batch


def transactions(archive: SQLArchive) -> list[None]:
    """Count commits from now on."""
    seen: list[None] = []
    for engine in {archive.engines.writing.sync_engine, archive.engines.committing.sync_engine}:
        event.listen(engine, "commit", lambda _: seen.append(None))
    return seen


async def outcomes(archive: Archive, additions: Sequence[Addition]) -> list[str]:
    """Add all at once and tell what came of each."""
    found = [""] * len(additions)

    async def one(n: int) -> None:
        try:
            await archive.add(additions[n])
        except ChatError as error:
            found[n] = type(error).__name__

    async with anyio.create_task_group() as tasks:
        for n in range(len(additions)):
            tasks.start_soon(one, n)
    return found


async def test_in_one_batch_each_is_judged_by_its_own_epoch(archive: SQLArchive, name: str) -> None:
    """Also by those of the same user before it, as if each had a transaction of its own."""
    await archive.next_epoch(name, 5)
    await archive.next_epoch(f"{name}2", 9)
    epochs = [(name, 5), (f"{name}2", 8), (name, 4), (name, None), (name, 7), (name, 5), (f"{name}2", None)]
    additions = [
        Addition(user=user, session_id="s", messages=tuple(said(f"{n}")), epoch=epoch)
        for n, (user, epoch) in enumerate(epochs)
    ]
    commits = transactions(archive)
    assert await outcomes(archive, additions) == ["", "Fenced", "Fenced", "", "", "Fenced", ""]
    assert len(commits) == 1
    assert await contents(archive, name) == ["0", "3", "4"]
    assert await contents(archive, f"{name}2") == ["6"]
    assert await archive.next_epoch(name, 1) == 8


async def test_many_who_add_at_once_share_transactions_and_keep_their_order(
    archive: SQLArchive, name: str
) -> None:
    commits = transactions(archive)

    async def one(user: str) -> None:
        for n in range(10):
            await add(archive, user, "s", said(f"{n}"))

    users = [f"{name}-{n}" for n in range(50)]
    async with anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(one, user)
    assert len(commits) <= 60, "500 additions"
    for user in users:
        assert await contents(archive, user) == [f"{n}" for n in range(10)]


async def test_who_is_no_owner_is_never_refused(archive: Archive, name: str) -> None:
    await archive.next_epoch(name, 1_800_000_000_000)
    await add(archive, name, "s", said("a"), epoch=None)
    assert await contents(archive, name) == ["a"]
    assert await archive.delete_session(name, "s", epoch=None)


async def test_processes_who_make_the_same_new_users_at_once_do_not_stand_in_each_others_way(
    url: str, name: str
) -> None:
    async with open_sql(url) as one, open_sql(url) as two:
        for turn in range(30):
            users = [f"{name}-{turn}-{n}" for n in range(12)]
            await add(one, users[-1], "s", [])
            found: list[str] = []

            async def all_of(archive: Archive, users: list[str], found: list[str] = found) -> None:
                additions = [Addition(user=user, session_id="s") for user in users]
                found += await outcomes(archive, additions)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(all_of, one, users)
                tasks.start_soon(all_of, two, users[::-1])
            assert set(found) == {""}


# What is not fit


@pytest.mark.parametrize(
    "unfit",
    [
        Message(role="user", content="half \ud800"),
        Message(role="user", content="a", metadata={"a": object()}),
    ],
    ids=["surrogate", "object"],
)
async def test_a_message_that_cannot_be_kept_does_not_fail_its_neighbours(
    archive: Archive, name: str, unfit: Message
) -> None:
    additions = [
        Addition(user=f"{name}-{n}", session_id="s", messages=(unfit,) if n == 3 else tuple(said("a")))
        for n in range(6)
    ]
    assert await outcomes(archive, additions) == ["", "", "", "StoreUnavailable", "", ""]
    for n in range(6):
        assert await contents(archive, f"{name}-{n}") == ([] if n == 3 else ["a"])


@pytest.mark.slow
@pytest.mark.parametrize("id_", ["x" * 65, "a\x00b"])
async def test_an_id_that_postgresql_does_not_take_fails_alone(
    fresh_postgresql: str, name: str, id_: str
) -> None:
    migrate(fresh_postgresql)
    async with open_sql(fresh_postgresql) as archive:
        unfit = Addition(user=name, session_id="s", messages=(Message(role="user", content="a", id=id_),))
        fit = Addition(user=name, session_id="s", messages=tuple(said("b")))
        assert await outcomes(archive, [unfit, fit]) == ["StoreUnavailable", ""]
        assert await contents(archive, name) == ["b"]


HANGUL = [chr(0xAC00 + n) for n in range(11_172)]


@pytest.mark.parametrize(
    "text",
    [
        " ".join(HANGUL[n % 11_172] + HANGUL[n // 11_172] for n in range(66_000)),
        "".join(chr(0x20000 + n) for n in range(42_000)) * 4,
        "\ufdfa" * 200_000,
        " ".join(f"{n:x}" for n in range(60_000)),
        "x" * 1_000_000,
    ],
    ids=["hangul", "han", "ligature", "numbers", "one word"],
)
async def test_a_text_of_nothing_but_rare_words_is_kept(archive: Archive, name: str, text: str) -> None:
    """PostgreSQL has room for a mebibyte of different words, and does not say when there are more."""
    assert len(index(text).encode()) <= 400_000
    await add(archive, name, "s", said(text))
    assert await contents(archive, name) == [text]


async def broken(archive: SQLArchive, statement: str, *values: str) -> None:
    """Change what is in the tables behind the archive's back."""
    values = tuple(f"'{value}'" for value in values)
    async with archive._engine.begin() as connection:
        await connection.exec_driver_sql(statement.format(*values))


async def test_messages_that_nobody_can_read_hide_no_others(
    archive: SQLArchive, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "log", told := CapturingLogger())
    await add(archive, name, "s", said(*(f"{n}" for n in range(1115))))
    kept = await archive.page(name, "s", limit=3000)
    bad, good = kept[10:1110], kept[:10] + kept[1110:]
    await broken(
        archive,
        f"UPDATE chat_message SET body = {{0}} WHERE seq BETWEEN {bad[0].place} AND {bad[-1].place}",
        '{"role":',
    )
    assert await archive.page(name, "s", limit=10) == good[5:]
    assert await archive.page(name, "s", limit=12, after=0) == good[:12]
    assert await Record(MemoryStore().window, archive).all_messages(name, "s") == [k.message for k in good]
    assert ("error", ("message.unreadable",)) in [(call.method_name, call.args) for call in told.calls]
    assert await archive.pick(name, "s", [bad[0].message.id, good[0].message.id]) == [good[0].message]
    await add(archive, name, "s", said("next"))
    assert (await contents(archive, name))[-1] == "next"


@pytest.mark.parametrize("context", ["nonsense", "[1]", "null", "", "7", "[" * 100_000])
async def test_a_context_that_nobody_can_read_is_empty(archive: SQLArchive, name: str, context: str) -> None:
    await add(archive, name, "s", said("a"))
    await broken(archive, "UPDATE chat_session SET context = {0} WHERE user_key = {1}", context, name)
    session = await archive.session(name, "s")
    assert session is not None
    assert session.context == {}
    assert await archive.sessions(name, limit=9) == [session]
    changed = await archive.change_session(name, "s", context={"a": 1})
    assert changed is not None
    assert await archive.session(name, "s") == changed
    assert changed.context == {"a": 1}


# Sessions


async def stamped(archive: SQLArchive, name: str, stamps: Sequence[int]) -> list[str]:
    """Make a session for each second of a day; gives their ids."""
    ids = [f"s{n:02}" for n in range(len(stamps))]
    for id_, stamp in zip(ids, stamps, strict=True):
        await add(archive, name, id_, said(id_))
        moment = f"2026-01-02 03:04:{stamp:02}.000000" + ("+00" if is_postgresql(archive) else "")
        await broken(
            archive,
            "UPDATE chat_session SET updated_at = {0} WHERE user_key = {1} AND id = {2}",
            moment,
            name,
            id_,
        )
    return ids


def is_postgresql(archive: SQLArchive) -> bool:
    return archive._engine.dialect.name == "postgresql"


def place_of(session: Session) -> Recency:
    return Recency(updated_at=session.updated_at, id=session.id)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
async def test_sessions_are_paged_both_ways_and_none_is_missed_when_many_are_as_recent(
    archive: SQLArchive, name: str, limit: int
) -> None:
    stamps = [3, 1, 3, 2, 3, 1, 0, 3, 3, 2]
    ids = await stamped(archive, name, stamps)
    await add(archive, f"{name}2", "s00", said("another's"))
    wanted = sorted(ids, key=lambda id_: (stamps[ids.index(id_)], id_), reverse=True)
    down: list[Session] = []
    while page := await archive.sessions(name, limit=limit, before=place_of(down[-1]) if down else None):
        assert len(page) <= limit
        down += page
        assert len(down) <= len(ids)
    assert [session.id for session in down] == wanted
    up = [down[-1]]
    while page := await archive.sessions(name, limit=limit, after=place_of(up[0])):
        up = [*page, *up]
        assert len(up) <= len(ids)
    assert up == down


async def test_a_session_has_the_name_of_the_first_thing_its_user_said(archive: Archive, name: str) -> None:
    await add(archive, name, "s", [Message(role="system", content="You help.")])
    session = await archive.session(name, "s")
    assert session is not None
    assert session.name == ""
    await add(
        archive, name, "s", [Message(role="assistant", content="Hello?"), *said("How \x00 are\nyou?", "x")]
    )
    await add(archive, name, "s", said("and then"))
    session = await archive.session(name, "s")
    assert session is not None
    assert session.name == "How are you?"


async def test_tokens_add_up_and_the_last_backend_is_kept(archive: Archive, name: str) -> None:
    for n, backend in enumerate(["", "one", "two", ""]):
        usage = Usage(input_tokens=n, output_tokens=10 * n)
        step = Spent(id=f"run-a{n}", day=date(2026, 1, 31), session_id="s", model=backend, usage=usage)
        for _ in range(2):  # whoever writes it again cannot know whether it was written
            await archive.add(Addition(user=name, session_id="s", spent=(step,), backend=backend))
    session = await archive.session(name, "s")
    assert session is not None
    assert session.token_usage == Usage(input_tokens=6, output_tokens=60)
    assert session.llm_backend == "two"


async def test_the_keys_of_a_context_are_set_one_by_one(archive: Archive, name: str) -> None:
    await add(archive, name, "s", said("a"))
    await archive.change_session(name, "s", context={"a": {"deep": ["ü", None]}, "b": 2})
    await archive.change_session(name, "s", name="Mine")
    changed = await archive.change_session(name, "s", context={"b": None, "c": "\udcff \x00"})
    assert changed == await archive.session(name, "s")
    assert changed is not None
    assert changed.context == {"a": {"deep": ["ü", None]}, "c": "\udcff \x00"}
    assert changed.name == "Mine"
    assert await archive.change_session(name, "t", name="none") is None
    assert await archive.change_session(f"{name}2", "s", name="theirs") is None


async def test_changes_that_many_make_to_one_context_at_once_are_all_kept(url: str, name: str) -> None:
    async with open_sql(url) as one, open_sql(url) as two:
        await add(one, name, "s", said("a"))
        async with anyio.create_task_group() as tasks:
            for n in range(10):
                change = partial((one, two)[n % 2].change_session, context={f"{n}": n})
                tasks.start_soon(change, name, "s")
        session = await one.session(name, "s")
        assert session is not None
        assert session.context == {f"{n}": n for n in range(10)}


async def test_a_session_with_nothing_in_it_is_not_listed(archive: Archive, name: str) -> None:
    await add(archive, name, "empty", [])
    await add(archive, name, "s", [Message(role="assistant", content="hello")])
    assert [session.id for session in await archive.sessions(name, limit=9)] == ["s"]


def file(content: bytes = b"content", name: str = "a.txt") -> Upload:
    return Upload(name=name, media_type="text/plain", content=content)


async def rows_in(archive: SQLArchive, table: str, column: str, user: str) -> int:
    async with archive._engine.connect() as connection:
        found = await connection.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE {column} = '{user}'")
        return int(found.scalar_one())


async def test_a_session_is_deleted_with_all_that_only_it_has(archive: SQLArchive, name: str) -> None:
    shared, own = file(b"shared"), file(b"own")
    for upload in (shared, own):
        await archive.put_upload(name, upload, quota=1000)
        await archive.put_upload(f"{name}2", upload, quota=1000)
    both = Message(role="user", content="mine words", parts=(shared.part(), own.part()))
    await add(archive, name, "s", [both])
    await add(archive, name, "t", [Message(role="user", content="other words", parts=(shared.part(),))])
    await add(archive, f"{name}2", "s", [both])
    assert await archive.delete_session(name, "s", epoch=None)
    assert await archive.session(name, "s") is None
    assert await contents(archive, name, "s") == []
    assert [found.session_id for found in await archive.search(name, ["words"], limit=9, before=None)] == [
        "t"
    ]
    assert await archive.upload(name, own.id) is None
    assert await archive.upload(name, shared.id) == shared
    assert await archive.upload(f"{name}2", own.id) == own
    assert await contents(archive, f"{name}2", "s") == ["mine words"]
    assert not await archive.delete_session(name, "s", epoch=None)
    assert await archive.delete_session(name, "t", epoch=None)
    assert await archive.upload(name, shared.id) is None
    for table in ("chat_session", "chat_message", "chat_attachment", "chat_upload"):
        assert await rows_in(archive, table, "user_key", name) == 0
    if not is_postgresql(archive):
        assert await rows_in(archive, "chat_search", "owner", name.encode().hex()) == 0
        await broken(archive, "INSERT INTO chat_search (chat_search, rank) VALUES ('integrity-check', 1)")


async def test_a_session_that_is_put_away_is_another_one_with_all_it_had(archive: Archive, name: str) -> None:
    upload = file()
    await archive.put_upload(name, upload, quota=1000)
    await add(archive, name, "s", [Message(role="user", content="old words", parts=(upload.part(),))])
    await add(archive, f"{name}2", "s", said("theirs"))
    await archive.put_away(name, "s")
    assert await contents(archive, name, "s") == []
    assert await archive.session(name, "s") is None
    [earlier] = await archive.sessions(name, limit=9)
    assert earlier.name == "old words"
    assert await contents(archive, name, earlier.id) == ["old words"]
    await add(archive, name, "s", said("new words"))
    assert await contents(archive, name, "s") == ["new words"]
    found = await archive.search(name, ["words"], limit=9, before=None)
    assert [each.session_id for each in found] == ["s", earlier.id]
    await archive.delete_session(name, "s", epoch=None)
    assert await archive.upload(name, upload.id) == upload
    await archive.delete_session(name, earlier.id, epoch=None)
    assert await archive.upload(name, upload.id) is None
    assert await contents(archive, f"{name}2", "s") == ["theirs"]


async def test_an_imported_session_is_as_it_was(archive: Archive, name: str) -> None:
    session = (
        Session.new("model", name="From elsewhere").add_message("user", "a", key=[1]).set_context({"b": 1})
    )
    session = session.update_token_usage(Usage(input_tokens=3))
    await archive.import_session(name, session)
    assert await archive.session(name, session.id) == replace(session, messages=())
    assert await archive.read(name, session.id, limit=9) == list(session.messages)
    with pytest.raises(StoreUnavailable):
        await archive.import_session(name, session)
    assert await contents(archive, name, session.id) == ["a"]


async def test_a_user_has_no_more_sessions_than_allowed_however_many_are_added_at_once(
    archive: SQLArchive, name: str
) -> None:
    refused: list[str] = []

    async def bring(messages: tuple[Message, ...]) -> None:
        try:
            await archive.import_session(name, Session(messages=messages), most=4)
        except TooManySessions as error:
            refused.append(error.code)

    async with anyio.create_task_group() as tasks:
        for n in range(9):
            tasks.start_soon(bring, tuple(said("a")) if n % 2 else ())
    assert refused == ["too_many_sessions"] * 5
    assert [await archive.has_sessions(name, number) for number in (1, 4, 5)] == [True, True, False]
    assert not await archive.has_sessions(f"{name}2", 1)
    kept = await rows_in(archive, "chat_message", "user_key", name)
    assert kept == sum(
        [await archive.count(name, session.id) for session in await archive.sessions(name, limit=9)]
    ), "nothing is left of those that were refused"
    await archive.import_session(name, Session(messages=tuple(said("b"))))
    assert await archive.has_sessions(name, 5), "an operator may add more"


async def test_an_import_that_fails_leaves_nothing_behind(archive: SQLArchive, name: str) -> None:
    twice = [Message(role="user", content="words", id=f"m{n % 1200}") for n in range(1201)]
    session = Session(name="new", messages=tuple(twice))
    with pytest.raises(StoreUnavailable):
        await archive.import_session(name, session)
    assert await rows_in(archive, "chat_message", "user_key", name) == 0
    assert await archive.session(name, session.id) is None


async def test_an_import_that_meets_a_session_of_its_id_takes_nothing_from_it(
    archive: SQLArchive, name: str
) -> None:
    """The other one was there before, or came while the messages were written."""
    messages = tuple(said(*(f"{n}" for n in range(1100))))
    await add(archive, name, "early", said("theirs"))
    for id_ in ("early", "late"):
        async with anyio.create_task_group() as tasks:
            if id_ == "late":
                tasks.start_soon(partial(add, archive, name, id_, said("theirs")))
            with pytest.raises(StoreUnavailable):
                await archive.import_session(name, Session(id=id_, messages=messages))
        assert await contents(archive, name, id_) == ["theirs"]


async def test_an_imported_message_of_any_size_keeps_its_place(archive: Archive, name: str) -> None:
    texts = [f"{n} " + "x" * (n % 7 * 100_000) for n in range(40)] + [f"{n}" for n in range(40, 1100)]
    session = Session(name="new", messages=tuple(said(*texts)))
    await archive.import_session(name, session)
    found = await Record(MemoryStore().window, archive).all_messages(name, session.id)
    assert found == list(session.messages)


async def test_a_long_import_keeps_nobody_waiting_and_is_seen_when_it_is_whole(
    sqlite_url: str, tmp_path: Path, name: str
) -> None:
    session = Session(name="long", messages=tuple(said(*(f"words {n}" for n in range(30_000)))))
    other = sqlite3.connect(tmp_path / "chat.db", timeout=5, check_same_thread=False)

    def write() -> None:
        with other:
            other.execute("UPDATE chat_user SET epoch = epoch")

    async with open_sql(sqlite_url) as archive:
        importing = asyncio.create_task(archive.import_session(name, session))
        await asyncio.sleep(0)
        written = 0
        while not importing.done():
            await to_thread.run_sync(write)
            assert await archive.sessions(name, limit=9) == [] or await archive.count(name, session.id)
            assert await found_by(archive, name, "words") == [] or await archive.session(name, session.id)
            written += 1
        await importing
        other.close()
        assert written > 10
        assert await archive.count(name, session.id) == 30_000


# Search


async def test_large_messages_are_worked_on_beside_the_loop(
    archive: SQLArchive, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {"index": set(), "excerpt": set()}

    def noting(what: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(rows, what)

        def noted(*args: Any, **kwargs: Any) -> Any:
            threads[what].add(threading.get_ident())
            return original(*args, **kwargs)

        return noted

    for what in threads:
        monkeypatch.setattr(rows, what, noting(what))
    messages = said(*["wörter " * 140_000] * 3)
    await add(archive, name, "s", messages)
    await archive.import_session(name, Session(messages=tuple(messages)))
    assert len(await archive.search(name, ["worter"], limit=30, before=None)) == 6
    assert threads["index"]
    assert threads["excerpt"]
    assert threading.get_ident() not in threads["index"] | threads["excerpt"]


async def test_a_search_goes_on_behind_messages_that_nobody_can_read(archive: SQLArchive, name: str) -> None:
    await add(archive, name, "s", said(*(f"word {n}" for n in range(9))))
    places = [kept.place for kept in await archive.page(name, "s", limit=9)]
    await broken(
        archive,
        f"UPDATE chat_message SET body = {{0}} WHERE seq BETWEEN {places[3]} AND {places[7]}",
        "[",
    )
    found = await archive.search(name, ["word"], limit=3, before=None)
    assert [each.message.content for each in found] == ["word 8", "word 2", "word 1"]
    found = await archive.search(name, ["word"], limit=3, before=found[-1].place)
    assert [each.message.content for each in found] == ["word 0"]


async def found_by(archive: Archive, user: str, *words: str) -> list[str]:
    return [found.message.content for found in await archive.search(user, words, limit=99, before=None)]


TEXTS = [
    "The Crème brûlée costs 12.50",
    "Die Straße nach MÜNCHEN",
    "我昨天去了北京大学",
    "Привет, мир",
    "foo_bar-baz@example.org (v2beta)",
    'it\'s "quoted" AND NOT near(this) OR that*',
]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["creme"], 0),
        (["CRÈME", "brul"], 0),
        (["12", "50"], 0),
        (["12.50"], 0),
        (["strasse", "münch"], 1),
        (["STRASSE"], 1),
        (["北京"], 2),
        (["大"], 2),
        (["京北"], 2),  # signs, wherever they stand
        (["上海"], None),
        (["прив"], 3),
        (["МИР"], 3),
        (["bar"], 4),
        (["baz", "exam"], 4),
        (["foo_bar-baz@example.org"], 4),
        (["v2"], 4),
        (["rème"], None),
        (["quoted"], 5),
        (["AND"], 5),
        (["near", "this"], 5),
        (["*"], None),
        ([], None),
        ([""], None),
        (['"'], None),
        (["'"], None),
        (["a:* | b"], None),
        (["text:foo"], None),
        (["owner:foo"], None),
        (["foo\x00bar"], 4),
        (["\udcff"], None),
        (["that", "absent"], None),
        (["x" * 10_000], None),
        (["it's", "OR"], 5),
    ],
)
async def test_words_are_searched_for_by_how_they_begin_and_sealed_ones_as_they_are(
    archive: SQLArchive, name: str, wanted: list[str], found: int | None
) -> None:
    await add(archive, name, "s", said(*TEXTS))
    if found is not None and archive._cipher is SEALING and set(searched(wanted)) - set(words(TEXTS[found])):
        found = None
    assert await found_by(archive, name, *wanted) == ([] if found is None else [TEXTS[found]])


async def test_one_finds_only_ones_own_messages_the_newest_first(archive: Archive, name: str) -> None:
    await add(archive, name, "s", said("first word", "other"))
    await add(archive, f"{name}2", "s", said("their word"))
    await add(archive, name, "t", said("second word"))
    assert await found_by(archive, name, "word") == ["second word", "first word"]
    assert await found_by(archive, f"{name}2", "word") == ["their word"]
    assert await found_by(archive, name, f"{name}2") == []
    assert await found_by(archive, name, f"{name}2".encode().hex()) == []
    [newest] = await archive.search(name, ["word"], limit=1, before=None)
    assert (newest.session_id, newest.session_name, newest.excerpt) == ("t", "second word", "second word")
    [older] = await archive.search(name, ["word"], limit=1, before=newest.place)
    assert older.message.content == "first word"
    assert await archive.search(name, ["word"], limit=1, before=older.place) == []


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(text=st.text(max_size=60))
async def test_every_word_of_every_text_is_found(archive: Archive, text: str) -> None:
    user, text = f"user-{secrets.token_hex(4)}", text.replace("\udcff", "")
    await add(archive, user, "s", said(text))
    for word in words(text):
        assert await found_by(archive, user, word) == [text], word


async def test_the_last_word_of_a_long_text_is_found(archive: Archive, name: str) -> None:
    text = "word " * 39_000 + "last"
    await add(archive, name, "s", said(text))
    assert await found_by(archive, name, "last") == [text]


# Uploads


async def test_a_file_is_kept_once_for_its_content(archive: SQLArchive, name: str) -> None:
    part = await archive.put_upload(name, file(), quota=10)
    assert await archive.put_upload(name, file(), quota=10) == part
    assert await archive.upload(name, part.upload_id) == file()
    assert await archive.upload(f"{name}2", part.upload_id) is None
    assert await rows_in(archive, "chat_upload", "user_key", name) == 1


async def test_the_files_of_one_user_have_so_much_room_together(archive: Archive, name: str) -> None:
    await archive.put_upload(name, file(b"123456"), quota=10)
    with pytest.raises(TooLarge):
        await archive.put_upload(name, file(b"12345"), quota=10)
    await archive.put_upload(name, file(b"1234"), quota=10)
    await archive.put_upload(name, file(b"1234"), quota=10)
    await archive.put_upload(f"{name}2", file(b"123456"), quota=10)
    assert await archive.upload(name, file(b"12345").id) is None


async def test_files_that_are_sent_at_once_do_not_outgrow_their_room(url: str, name: str) -> None:
    async with open_sql(url) as one, open_sql(url) as two:
        refused: list[TooLarge] = []

        async def put(n: int) -> None:
            try:
                await (one, two)[n % 2].put_upload(name, file(b"%05d" % n), quota=20)
            except TooLarge as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for n in range(10):
                tasks.start_soon(put, n)
        assert len(refused) == 6


async def test_files_that_no_message_has_are_dropped_after_a_day(archive: SQLArchive, name: str) -> None:
    used, unused, fresh, again = (file(content) for content in (b"used", b"unused", b"fresh", b"again"))
    for upload in (used, unused, fresh, again):
        await archive.put_upload(name, upload, quota=100)
    await add(archive, name, "s", [Message(role="user", content="", parts=(used.part(),))])
    ids = ", ".join(f"'{upload.id}'" for upload in (used, unused, again))
    await broken(
        archive, f"UPDATE chat_upload SET created_at = '2026-01-01 00:00:00.000000' WHERE id IN ({ids})"
    )
    await archive.put_upload(name, again, quota=100)
    await archive.tidy()
    assert await archive.upload(name, unused.id) is None
    for upload in (used, fresh, again):
        assert await archive.upload(name, upload.id) == upload


# When it does not work, in the middle


def told_at_checkout(archive: SQLArchive) -> list[str]:
    """Pragmas that each connection gets before it is used."""
    pragmas: list[str] = []

    def tell(connection: Any, *_: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    for engine in {archive.engines.writing.sync_engine, archive.engines.committing.sync_engine}:
        event.listen(engine, "checkout", tell)
    return pragmas


class Story:
    """Someone who writes one message after another, and knows what became of each."""

    def __init__(self, archive: Archive, user: str, content: str = "") -> None:
        self._archive = archive
        self._user = user
        self._content = content
        self.told: list[str] = []
        self.refused: list[str] = []

    async def write(self, n: int) -> None:
        content = f"{n} {self._content}"
        try:
            await add(self._archive, self._user, "s", said(content))
        except StoreUnavailable:
            self.refused.append(content)
        else:
            self.told.append(content)

    async def write_until(self, enough: Callable[[Story], object]) -> None:
        for n in range(10_000):
            if enough(self):
                return
            await self.write(n)
        raise AssertionError("it never came so far")

    async def check(self) -> None:
        """What was acknowledged is there, in order, and what was refused is not."""
        assert await contents(self._archive, self._user) == self.told


def has_told(count: int, story: Story) -> bool:
    return len(story.told) == count


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds that other tasks bring about."""
    with anyio.move_on_after(60):
        while not condition():  # noqa: ASYNC110 - there are many who may bring it about
            await anyio.sleep(0.001)
        return
    raise AssertionError(f"not within 60 s: {what}")


def has_locked(database: sqlite3.Connection) -> bool:
    """Take the lock of a database that others are writing to all the time; tell whether it was free."""
    with suppress(sqlite3.OperationalError):
        database.execute("BEGIN IMMEDIATE")
    return database.in_transaction


async def test_what_is_acknowledged_around_a_lock_is_there_and_nothing_else(
    sqlite_url: str, tmp_path: Path, name: str
) -> None:
    async with open_sql(sqlite_url) as archive:
        told_at_checkout(archive).append("busy_timeout=20")
        stories = [Story(archive, f"{name}-{n}") for n in range(20)]
        other = sqlite3.connect(tmp_path / "chat.db", isolation_level=None, timeout=0.05)
        async with anyio.create_task_group() as tasks:
            for story in stories:
                tasks.start_soon(story.write_until, lambda s: s.refused and len(s.told) > 20)
            await eventually(lambda: all(story.told for story in stories), "all have written")
            await eventually(lambda: has_locked(other), "the other has the lock")
            await eventually(lambda: all(story.refused for story in stories), "all are refused")
            other.execute("ROLLBACK")
        other.close()
        for story in stories:
            await story.check()


async def test_a_database_that_becomes_read_only_and_writable_again_has_what_was_acknowledged(
    sqlite_url: str, name: str
) -> None:
    async with open_sql(sqlite_url) as archive:
        pragmas = told_at_checkout(archive)
        story = Story(archive, name)
        await story.write_until(lambda s: len(s.told) == 3)
        pragmas.append("query_only=ON")
        await story.write_until(lambda s: s.refused)
        with pytest.raises(StoreUnavailable):
            await archive.change_session(name, "s", name="lost")
        await story.check()
        pragmas[0] = "query_only=OFF"
        await story.write_until(lambda s: len(s.told) == 5)
        await story.check()


async def test_a_full_database_acknowledges_nothing_and_goes_on_when_there_is_room(
    sqlite_url: str, name: str
) -> None:
    async with open_sql(sqlite_url) as archive:
        pragmas = told_at_checkout(archive)
        pragmas.append("max_page_count=100")
        stories = [Story(archive, f"{name}-{n}", "x" * 3000) for n in range(5)]
        async with anyio.create_task_group() as tasks:
            for story in stories:
                tasks.start_soon(story.write_until, lambda s: len(s.refused) > 3)
        for story in stories:
            await story.check()
        pragmas[0] = "max_page_count=100000"
        async with anyio.create_task_group() as tasks:
            for story in stories:
                tasks.start_soon(story.write_until, partial(has_told, len(story.told) + 5))
        for story in stories:
            await story.check()


ACCESSES: dict[str, Callable[[SQLArchive, str], Awaitable[object]]] = {
    "add": lambda archive, user: add(archive, user, "other", said("x")),
    "next_epoch": lambda archive, user: archive.next_epoch(f"{user}-other", 1),
    "put": lambda archive, user: archive.put(f"{user}-other", "sealed", epoch=1 << 50),
    "change_session": lambda archive, user: archive.change_session(user, "s", name="x"),
    "import_session": lambda archive, user: archive.import_session(user, Session(messages=tuple(said("x")))),
    "delete_session": lambda archive, user: archive.delete_session(user, "other", epoch=None),
    "put_away": lambda archive, user: archive.put_away(user, "other"),
    "put_upload": lambda archive, user: archive.put_upload(user, file(), quota=100),
    "read": lambda archive, user: archive.read(user, "s", limit=9),
    "search": lambda archive, user: archive.search(user, ["x"], limit=9, before=None),
    "ping": lambda archive, user: archive.ping(),
}


@pytest.mark.parametrize("access", ACCESSES)
async def test_a_task_that_is_cancelled_at_any_moment_leaves_no_lock_behind(
    archive: SQLArchive, name: str, access: str
) -> None:
    """A stopped turn cancels its calls half-way; asyncio's cancellation knows no shield."""
    await add(archive, name, "s", said("before"))
    for n in range(25):
        task = asyncio.ensure_future(ACCESSES[access](archive, name))
        await asyncio.sleep(n / 5000)
        task.cancel()
        await asyncio.wait([task])
        with anyio.fail_after(9):
            await add(archive, name, f"s{n}", said("after"))
            assert await contents(archive, name, f"s{n}") == ["after"]
    for k in range(4):
        await cancelled_at(k, partial(ACCESSES[access], archive, name))
        with anyio.fail_after(9):
            await archive.next_epoch(name, 1)


async def test_additions_whose_tasks_are_cancelled_are_written_in_order(archive: Archive, name: str) -> None:
    """Nobody waits for them any more, and still they are on their way."""
    for n in range(60):
        task = asyncio.create_task(add(archive, name, "s", said(f"{n} a", f"{n} b")))
        await asyncio.sleep(n % 20 / 5000)
        task.cancel()
    await add(archive, name, "s", said("last"))
    pairs = [[f"{n} a", f"{n} b"] for n in range(60) if n % 20]
    found = await contents(archive, name)
    assert found[-1] == "last"
    assert [each for each in found if each != "last" and int(each.split()[0]) % 20] == list(chain(*pairs))


async def test_an_archive_that_is_closed_has_written_what_it_took_and_takes_nothing_more(
    url: str, name: str
) -> None:
    async with open_sql(url) as archive:
        tasks = [asyncio.create_task(add(archive, name, f"s{n}", said("a"))) for n in range(600)]
        await asyncio.sleep(0)
    done, _ = await asyncio.wait(tasks)
    assert {type(task.exception()) for task in done} == {type(None)}
    with pytest.raises(StoreUnavailable):
        await add(archive, name, "s", said("late"))
    async with open_sql(url) as again:
        assert len(await again.sessions(name, limit=1000)) == 600
