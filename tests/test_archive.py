"""The record: one contract over SQLite and PostgreSQL."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from anyio import to_thread

from mcp_chat.exceptions import Fenced, SettingsError, StoreUnavailable
from mcp_chat.message import Message, ToolCall
from mcp_chat.stores.base import Archive
from mcp_chat.stores.sql import SQLArchive, driver_url, migrate, open_sql
from tests.conftest import missing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A private PostgreSQL; gives the URL of its first database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        missing("PostgreSQL")
    with TemporaryDirectory(prefix="mcp-chat-") as home:
        data, sockets = Path(home) / "data", Path(home) / "s"
        sockets.mkdir()
        data.mkdir()
        as_user: list[str] = []
        if os.getuid() == 0:  # root may not run it
            as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            for directory in (home, data, sockets):
                shutil.chown(directory, "nobody")

        def run(program: str, *args: str) -> None:
            command = [*as_user, str(programs[-1] / program), "-D", str(data), *args]
            log = sockets / "log"
            with log.open("a") as output:  # not a pipe: the server would hold it open
                code = subprocess.run(
                    command, cwd=sockets, stdout=output, stderr=output, timeout=60, check=False
                ).returncode
            assert code == 0, log.read_text()

        run("initdb", "--username=chat", "--auth=trust", "--no-sync", "--encoding=UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories='{sockets}' -c fsync=off"
        run("pg_ctl", "start", "--wait", "-o", options)
        try:
            yield f"postgresql:///postgres?host={sockets}&user=chat"
        finally:
            run("pg_ctl", "stop", "--wait", "-m", "immediate")


@pytest.fixture
def fresh_postgresql(postgresql: str) -> str:
    """The URL of a database with nothing in it."""
    import psycopg

    database = f"chat_{secrets.token_hex(4)}"
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}".encode())
    return postgresql.replace("/postgres?", f"/{database}?")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with nothing in it, of either kind."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("fresh_postgresql")
        return url
    return f"sqlite:///{tmp_path}/chat.db"


@pytest.fixture
def url(empty_url: str) -> str:
    """The URL of a database with this version's schema."""
    migrate(empty_url)
    return empty_url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """SQLite alone."""
    url = f"sqlite:///{tmp_path}/chat.db"
    migrate(url)
    return url


@pytest.fixture
async def archive(url: str) -> AsyncIterator[SQLArchive]:
    """Each kind of archive."""
    async with open_sql(url) as opened:
        yield opened


def said(*contents: str) -> list[Message]:
    """Messages of a user."""
    return [Message(role="user", content=content) for content in contents]


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
    await archive.append(name, "s", said("a", "b"), epoch=epoch)
    await archive.append(name, "s", said("c"), epoch=epoch)
    assert await contents(archive, name) == ["a", "b", "c"]


async def test_the_last_messages_are_read_when_there_are_more(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await archive.append(name, "s", said(*"abcdef"), epoch=epoch)
    assert [m.content for m in await archive.read(name, "s", limit=2)] == ["e", "f"]


async def test_a_message_that_is_added_again_is_there_once(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    a, b, c = said("a", "b", "c")
    await archive.append(name, "s", [a, b], epoch=epoch)
    await archive.append(name, "s", [b, c], epoch=epoch)
    await archive.append(name, "s", [a], epoch=epoch)
    assert await contents(archive, name) == ["a", "b", "c"]


async def test_adding_nothing_changes_nothing(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await archive.append(name, "s", [], epoch=epoch)
    assert await contents(archive, name) == []


async def test_sessions_and_users_with_equal_ids_are_apart(archive: Archive, name: str) -> None:
    [message] = said("mine")
    for user, session in ((name, "s"), (name, "t"), (f"{name}2", "s")):
        epoch = await archive.next_epoch(user, 1)
        await archive.append(user, session, [message], epoch=epoch)
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
    await archive.append(name, "s", messages, epoch=epoch)
    assert await archive.read(name, "s", limit=10) == messages


async def test_an_older_epoch_adds_nothing(archive: Archive, name: str) -> None:
    old = await archive.next_epoch(name, 1)
    await archive.append(name, "s", said("kept"), epoch=old)
    new = await archive.next_epoch(name, 1)
    with pytest.raises(Fenced):
        await archive.append(name, "s", said("late"), epoch=old)
    with pytest.raises(Fenced):
        await archive.put(name, "late", epoch=old)
    with pytest.raises(Fenced):
        await archive.open_session(name, "late", epoch=old)
    await archive.append(name, "s", said("new"), epoch=new)
    assert await contents(archive, name) == ["kept", "new"]
    assert await archive.get(name) is None


async def test_an_older_epoch_deletes_nothing(archive: Archive, name: str) -> None:
    old = await archive.next_epoch(name, 1)
    new = await archive.next_epoch(name, 1)
    await archive.put(name, "sealed", epoch=new)
    with pytest.raises(Fenced):
        await archive.delete(name, epoch=old)
    assert await archive.get(name) == "sealed"
    assert not await archive.has_session(name, "late")


async def test_an_owner_whose_lease_has_a_higher_epoch_than_was_drawn_may_write(
    archive: Archive, name: str
) -> None:
    drawn = await archive.next_epoch(name, 1)
    await archive.append(name, "s", said("a"), epoch=drawn + 1000)
    assert await contents(archive, name) == ["a"]


async def test_writes_of_an_owner_and_the_next_one_never_mix(url: str, name: str) -> None:
    """An owner writes on and on; once the next epoch is drawn nothing of the older one gets in."""
    async with open_sql(url) as one, open_sql(url) as two:
        old = await one.next_epoch(name, 1)
        written = anyio.Event()

        async def write_on() -> None:
            for n in range(500):
                try:
                    await one.append(name, "s", said(f"old {n}"), epoch=old)
                except Fenced:
                    return
                written.set()
            raise AssertionError("it was never fenced")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_on)
            await written.wait()
            new = await two.next_epoch(name, 1)
            before = await contents(two, name)
            await two.append(name, "s", said("new"), epoch=new)
        assert await contents(two, name) == [*before, "new"]


# Sessions and configurations


async def test_a_session_is_its_users_alone(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await archive.open_session(name, "s", epoch=epoch)
    await archive.open_session(name, "s", epoch=epoch)
    assert await archive.has_session(name, "s")
    assert not await archive.has_session(name, "t")
    assert not await archive.has_session(f"{name}2", "s")


async def test_a_message_opens_its_session(archive: Archive, name: str) -> None:
    epoch = await archive.next_epoch(name, 1)
    await archive.append(name, "s", said("a"), epoch=epoch)
    assert await archive.has_session(name, "s")


@pytest.mark.parametrize("wanted", ["", "x" * 10_000, "a\x00b", "'", "%", "\udcff"])
async def test_any_text_can_be_asked_for_as_a_session(archive: Archive, name: str, wanted: str) -> None:
    assert not await archive.has_session(name, wanted)


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
    await archive.append(f"{name}2", "s", said("a"), epoch=7)
    assert await contents(archive, f"{name}2") == ["a"]
    assert await archive.next_epoch(name, 1) == 8


# Several processes

WRITER = """
import sys, anyio
from mcp_chat.message import Message
from mcp_chat.stores.sql import open_sql

async def main(url, user, n):
    async with open_sql(url) as archive:
        epoch = await archive.next_epoch(user, 1)
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(n):
            await archive.append(user, "s", [Message(role="user", content=f"{user} {i}")], epoch=epoch)
            await archive.next_epoch("everybody", 1)

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
    processes = [started(WRITER, url, user, "100") for user in users]
    assert await to_thread.run_sync(together, processes) == [0, 0]
    async with open_sql(url) as archive:
        for user in users:
            assert await contents(archive, user) == [f"{user} {n}" for n in range(100)]
        assert await archive.next_epoch("everybody", 1) == 201


MIGRATOR = """
import sys
from mcp_chat.stores.sql import migrate
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
        await archive.append(name, "s", said("a"), epoch=epoch)
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
                await archive.append(name, "s", said("lost"), epoch=epoch)
            except StoreUnavailable as error:
                failures.append(error)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                assert await contents(archive, name) == [], "readers do not wait for writers"
                assert not failures
        other.execute("ROLLBACK")
        other.close()
        assert len(failures) == 1
        assert await contents(archive, name) == []
        await archive.append(name, "s", said("kept"), epoch=epoch)
        assert await contents(archive, name) == ["kept"]


async def test_a_read_only_database_acknowledges_nothing(sqlite_url: str, tmp_path: Path, name: str) -> None:
    async with open_sql(sqlite_url) as archive:
        epoch = await archive.next_epoch(name, 1)
    async with open_sql(f"sqlite:///file:{tmp_path}/chat.db?mode=ro&uri=true") as archive:
        await archive.ping()
        with pytest.raises(StoreUnavailable):
            await archive.append(name, "s", said("lost"), epoch=epoch)
        with pytest.raises(StoreUnavailable):
            await archive.next_epoch(name, 1)
        assert await contents(archive, name) == []


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path: Path, name: str) -> None:
    async with open_sql(f"sqlite:///{tmp_path}/no/such/directory/chat.db") as archive:
        with pytest.raises(StoreUnavailable):
            await archive.ping()
        with pytest.raises(StoreUnavailable):
            await archive.next_epoch(name, 1)


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
                await archive.append(name, f"s{n}", said("a", "b"), epoch=epoch)
        for n in range(40):
            assert await contents(archive, name, f"s{n}") in ([], ["a", "b"])
        await archive.append(name, "s", said("after"), epoch=epoch)
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
        await archive.append(name, "s", said("a"), epoch=epoch)
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
            await archive.append(name, "s", said("hello"), epoch=await archive.next_epoch(name, 1))

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
