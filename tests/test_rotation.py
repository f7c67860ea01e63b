"""`mcp-chat keys`: from one key to the next while the chat runs, and nothing is lost."""

from __future__ import annotations

import base64
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from redis import Redis
from structlog.testing import capture_logs

from mcp_chat import cli
from mcp_chat.app import create_app
from mcp_chat.commands import Command, Connect, Send
from mcp_chat.config import CONFIG, ModelConfig, UserConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.embedded import DataDir, EmbeddedValkey
from mcp_chat.events import Entry, Failed, TextDelta
from mcp_chat.exceptions import KeyMissing
from mcp_chat.message import Message, Usage
from mcp_chat.papers import Papers
from mcp_chat.record import Record
from mcp_chat.settings import Settings
from mcp_chat.spent import Spent
from mcp_chat.stores import rows
from mcp_chat.stores.base import START, Addition
from mcp_chat.stores.cipher import PLAIN, Cipher, Sealing
from mcp_chat.stores.database import migrate
from mcp_chat.stores.documents import Document
from mcp_chat.stores.redis import RedisStore, open_redis
from mcp_chat.stores.redis_branches import owner_key
from mcp_chat.stores.redis_sweep import RedisSweep
from mcp_chat.stores.renewal import Renewal, Tally
from mcp_chat.stores.scripts import Scripts
from mcp_chat.stores.sql import SQLArchive, open_sql
from mcp_chat.stores.sql_sweep import SQLSweep, open_sweep
from mcp_chat.upload import Upload
from mcp_chat.vault import Vault
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until
from tests.test_archive import empty_url, fresh_postgresql, postgresql

__all__ = ["empty_url", "fresh_postgresql", "postgresql"]

OLD_KEY, NEW_KEY = bytes(range(32)), bytes(range(100, 132))
OLD, BOTH, NEW = Vault([OLD_KEY]), Vault([NEW_KEY, OLD_KEY]), Vault([NEW_KEY])
OLD_TEXT, NEW_TEXT = (base64.b64encode(key).decode() for key in (OLD_KEY, NEW_KEY))
BOTH_TEXT: Final = f"{NEW_TEXT},{OLD_TEXT}"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[str]:
    """A Valkey of the test's own: a rotation goes through all of it."""
    with DataDir(tmp_path / "valkey") as data, EmbeddedValkey(data) as valkey:
        yield valkey.url


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database with nothing in it."""
    migrate(url := f"sqlite:///{tmp_path}/chat.db")
    return url


Keys = Callable[..., tuple[int, str]]


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Keys:
    """Run `mcp-chat keys` with some settings; gives the exit code and what it wrote."""

    def run(*args: str, **env: str) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            for variable, value in {"MCP_CHAT_ENCRYPTION_KEY": BOTH_TEXT, **env}.items():
                patch.setenv(variable, value)
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["mcp-chat", "keys", *args])
            patch.setattr(sys, "stdout", out := StringIO())
            with pytest.raises(SystemExit) as left:
                cli.main()
        return int(left.value.code or 0), out.getvalue()

    return run


def counted(table: str) -> dict[str, int]:
    """The table of `mcp-chat keys status`: values by key."""
    return {line[:16].strip(): int(line.split()[-1]) for line in table.splitlines()[1:]}


def config_of(model: str) -> UserConfig:
    return UserConfig(servers=(), model=ModelConfig(provider="openai", model=model, api_key="CANARY"))


def sealed(vault: Vault, user: str, model: str = "m", field: str = "config") -> str:
    """A configuration."""
    return vault.seal(CONFIG.dump_json(config_of(model)).decode(), user=user, field=field)


# The command


def test_a_fresh_key_is_one(keys: Keys) -> None:
    made = [keys("new") for _ in range(3)]
    assert [code for code, _ in made] == [0, 0, 0]
    assert len({base64.b64decode(text) for _, text in made}) == 3
    assert all(len(base64.b64decode(text)) == 32 for _, text in made)


@pytest.mark.parametrize("command", ["status", "rotate"])
def test_without_a_key_there_is_nothing_to_rotate(keys: Keys, capsys: Any, command: str) -> None:
    assert keys(command, MCP_CHAT_ENCRYPTION_KEY="")[0] == 2
    assert capsys.readouterr().err.startswith("mcp-chat: There is no key: set MCP_CHAT_ENCRYPTION_KEY")


@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("encrypted", [True, False])
def test_keys_change_while_the_chat_runs_and_nothing_is_lost(
    settings: Callable[..., Settings],
    valkey: str,
    keys: Keys,
    model: ModelServer,
    demo_url: str,
    tmp_path: Path,
    name: str,
    encrypted: bool,
    archived: bool,
) -> None:
    url = f"sqlite:///{tmp_path}/chat.db" if archived else ""
    env = {"REDIS_URL": valkey, "DATABASE_URL": url, "MCP_CHAT_ENCRYPT_HISTORY": str(encrypted)}

    @contextmanager
    def worker(key: str) -> Iterator[Person]:
        given = settings(redis_url=valkey, database_url=url, encryption_key=key, encrypt_history=encrypted)
        with running(create_app(given)) as base, Person(base, name) as person:
            yield person

    with worker(OLD_TEXT) as person:
        session = person.connect(server={"url": demo_url, "auth_token": "CANARY"})["session_id"]
        person.say("the first wording", session_id=session)
        if archived:
            kind = {"content-type": "text/plain"}
            sent = person.http.post("/llmchat/uploads?name=a.txt", content=b"the file", headers=kind)
            upload = sent.json()["upload_id"]
    before = counted(keys("status", **env)[1])
    assert before[OLD.newest] > 0
    assert before[NEW.newest] == 0
    with worker(BOTH_TEXT) as person:
        model.will(Reply(text="one two three", hang_after=2))
        with person.streaming("still running", session_id=session) as frames:
            next(frames)
            code, text = keys("rotate", **env)
            assert code == 0, text
            after = counted(keys("status", **env)[1])
            assert after[OLD.newest] == 0
            assert after[NEW.newest] >= before[OLD.newest]
            person.post("cancel", session_id=session)
            assert list(frames)[-1][0] == "final"
        model.will()
    with worker(NEW_TEXT) as person:
        shown = person.get("config/{me}").json()
        assert shown["mcp_server"]["auth_token"] == "*****"
        told = [
            each["content"] for each in person.history(f"?session_id={session}") if each["role"] == "user"
        ]
        assert told == ["the first wording", "still running"]
        assert "now" in person.say("now", session_id=session)["response"]
        if archived:
            assert person.http.get(f"/llmchat/uploads/{upload}").content == b"the file"
            found = person.http.get("/llmchat/search", params={"q": "wording"}).json()["results"]
            assert "the first wording" in [each["message"]["content"] for each in found]
    code, text = keys("rotate", **env, MCP_CHAT_ENCRYPTION_KEY=NEW_TEXT)
    assert (code, text) == (0, "Renewed: 0. Left under older keys or unsealed: 0. Unreadable: 0.\n")


def test_what_no_key_opens_is_counted_and_does_not_stop_the_rest(
    keys: Keys, database: str, tmp_path: Path
) -> None:
    strange = Vault([os.urandom(32)])
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        rows = [("ann", sealed(OLD, "ann")), ("bob", sealed(strange, "bob")), ("eve", sealed(OLD, "ann"))]
        connection.executemany("INSERT INTO chat_user VALUES (?, 1, ?, '2026-01-01')", rows)
    before = counted(keys("status", DATABASE_URL=database)[1])
    assert before == {NEW.newest: 0, OLD.newest: 2, strange.newest: 1, "not sealed": 0}
    code, text = keys("rotate", DATABASE_URL=database)
    assert (code, text) == (3, "Renewed: 1. Left under older keys or unsealed: 0. Unreadable: 2.\n")


def test_what_goes_on_being_written_under_the_old_key_is_told(
    keys: Keys, capsys: Any, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, written, renew = threading.Event(), list[int](), SQLSweep.renew

    def write() -> None:
        while not ended.is_set():
            with sqlite3.connect(tmp_path / "chat.db", timeout=10) as connection:
                values = ("ann", sealed(OLD, "ann"))
                connection.execute("INSERT OR REPLACE INTO chat_user VALUES (?, 1, ?, '2026-01-01')", values)
            written.append(1)

    async def behind_a_write(self: SQLSweep) -> Tally:
        before = len(written)
        while len(written) < before + 2:  # noqa: ASYNC110 - the second has begun behind the last round
            await anyio.sleep(0.01)
        return await renew(self)

    writing = threading.Thread(target=write)
    writing.start()
    wait_until(lambda: counted(keys("status", DATABASE_URL=database)[1])[OLD.newest], "it is written")
    with monkeypatch.context() as patch:
        patch.setattr(SQLSweep, "renew", behind_a_write)
        code, text = keys("rotate", DATABASE_URL=database)
    ended.set()
    writing.join()
    assert code == 1, text
    assert "give all of them the newest one first" in capsys.readouterr().err
    assert keys("rotate", DATABASE_URL=database)[0] == 0


def test_a_rotation_that_was_killed_is_run_again(keys: Keys, database: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        users = [f"user-{n:05}" for n in range(3000)]
        rows = [(user, sealed(OLD, user, model=user)) for user in users]
        connection.executemany("INSERT INTO chat_user VALUES (?, 1, ?, '2026-01-01')", rows)
    env = {**os.environ, "DATABASE_URL": database, "MCP_CHAT_ENCRYPTION_KEY": BOTH_TEXT}
    rotating = subprocess.Popen([sys.executable, "-m", "mcp_chat", "keys", "rotate"], env=env, cwd=tmp_path)

    def under(vault: Vault) -> int:
        with sqlite3.connect(tmp_path / "chat.db", timeout=10) as connection:
            query = "SELECT count(*) FROM chat_user WHERE config LIKE ?"
            return int(connection.execute(query, (f"{vault.head}%",)).fetchone()[0])

    wait_until(lambda: under(NEW), "it has begun")
    rotating.send_signal(signal.SIGKILL)
    assert rotating.wait(10) == -signal.SIGKILL
    left = under(OLD)
    assert 0 < left < 3000
    assert counted(keys("status", DATABASE_URL=database)[1]) == {
        NEW.newest: 3000 - left,
        OLD.newest: left,
        "not sealed": 0,
    }
    code, text = keys("rotate", DATABASE_URL=database)
    assert (code, text) == (0, f"Renewed: {left}. Left under older keys or unsealed: 0. Unreadable: 0.\n")
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        for user, kept in connection.execute("SELECT user_key, config FROM chat_user"):
            opened = CONFIG.validate_json(NEW.open(kept, user=user, field="config"))
            assert opened.model.model == user


# The sweeps


class Meddling(Vault):
    """A vault with which somebody writes a value whenever it has been read."""

    def __init__(self, write: Callable[[], object]) -> None:
        super().__init__([NEW_KEY, OLD_KEY])
        self._write = write

    def renewed(self, sealed: str, *, user: str) -> str | None:
        self._write()
        return super().renewed(sealed, user=user)


@pytest.mark.anyio
async def test_a_newer_value_in_the_database_is_never_overwritten(database: str, tmp_path: Path) -> None:
    newer = sealed(OLD, "ann", "newer")

    def write() -> None:
        with sqlite3.connect(tmp_path / "chat.db", timeout=10) as connection:
            connection.execute("UPDATE chat_user SET config = ?", (newer,))

    async with open_sql(database) as archive:
        await archive.put("ann", sealed(OLD, "ann", "older"), epoch=1)
        async with open_sweep(database, Renewal(Meddling(write), seals=False)) as sweep:
            assert await sweep.renew() == Tally(missed=1)
        assert await archive.get("ann") == newer


@pytest.mark.anyio
async def test_a_newer_paper_in_the_database_is_never_overwritten(database: str, tmp_path: Path) -> None:
    newer = sealed(NEW, "ann", "newer", field="document kind a")

    def write() -> None:
        """As a worker does: each write is a new row."""
        with sqlite3.connect(tmp_path / "chat.db", timeout=10) as connection:
            connection.execute("UPDATE chat_document SET seq = seq + 1, text = ?", (newer,))

    async with open_sql(database) as archive:
        await Papers(archive, OLD).put("ann", "kind", "a", "older", seconds=1000)
        async with open_sweep(database, Renewal(Meddling(write), seals=False)) as sweep:
            assert await sweep.renew() == Tally(missed=1)
        found = await archive.get_document("ann", "kind", "a")
        assert found is not None
        assert found.text == newer


@pytest.mark.anyio
async def test_a_newer_paper_in_redis_is_never_overwritten_and_none_comes_back(valkey: str) -> None:
    newer = f"9999999999999999 {sealed(OLD, 'ann', 'newer', field='document kind a')}"
    key = "chat:document:{ann}:kind:a"
    with Redis.from_url(valkey, decode_responses=True) as redis:
        async with open_redis(valkey) as store:
            for write, left in ((lambda: redis.set(key, newer), newer), (lambda: redis.delete(key), None)):
                await Papers(store.documents, OLD).put("ann", "kind", "a", "older", seconds=1000)
                sweep = RedisSweep(store.redis, Renewal(Meddling(write), seals=False))
                assert await sweep.renew() == Tally(missed=1)
                assert redis.get(key) == left


@pytest.mark.anyio
async def test_a_newer_value_in_redis_is_never_overwritten_and_none_comes_back(valkey: str) -> None:
    newer = sealed(OLD, "ann", "newer")
    with Redis.from_url(valkey, decode_responses=True) as redis:
        async with open_redis(valkey) as store:
            for write, left in (
                (lambda: redis.set("user:config:{ann}", newer), newer),
                (lambda: redis.delete("user:config:{ann}"), None),
            ):
                await store.configs.put("ann", sealed(OLD, "ann", "older"), epoch=1)
                sweep = RedisSweep(store.redis, Renewal(Meddling(write), seals=False))
                assert await sweep.renew() == Tally(missed=1)
                assert redis.get("user:config:{ann}") == left


ENTRIES = [Entry(id=f"7-{n}", command_id="c", event=TextDelta(text=f"text {n}")) for n in range(1, 4)]
ODD = "a:b }:{ ü"
PAPER = f"chat:document:{{ann}}:kind:{ODD}"
SAID = [Message(role="user", content=f"word {n}") for n in range(3)]


@asynccontextmanager
async def store_with(url: str, cipher: Cipher) -> AsyncIterator[RedisStore]:
    async with open_redis(url, cipher=cipher) as store:
        yield store


@pytest.mark.anyio
@pytest.mark.parametrize("cipher", [PLAIN, Sealing(OLD)])
@pytest.mark.parametrize("seals", [True, False])
async def test_what_is_in_redis_is_the_same_afterwards(valkey: str, cipher: Cipher, seals: bool) -> None:
    connect = Connect(sealed=sealed(OLD, "ann", field="connect"), user_id="Ann")
    waiting: list[Command] = [connect, Send(session_id="s", text="hello")]
    with Redis.from_url(valkey, decode_responses=True) as redis:
        redis.set("chat:history:ann", "a gateway's")
        redis.hset(owner_key("ann"), mapping={"worker": "w", "epoch": 7})
        async with store_with(valkey, cipher) as store:
            await store.log.append("ann", 7, ENTRIES, ttl=1000)
            await store.log.erase("ann", ENTRIES[-1:], [], epoch=7)
            for command in waiting:
                await store.inbox.put("ann", command, limit=9)
            await store.window.append("ann", "s", SAID, epoch=7, create=True)
            await store.configs.put("ann", sealed(OLD, "ann"), epoch=7)
            version = await Papers(store.documents, OLD).put("ann", "kind", ODD, "kept", seconds=1000)
            places = [each.place for each in await store.inbox.read("ann", START)]
        kept = ("chat:events:{ann}", "chat:inbox:{ann}", "chat:history:{ann}:s", "user:config:{ann}", PAPER)
        lives = [redis.ttl(key) for key in kept]
        async with store_with(valkey, Sealing(NEW)) as store:
            sweep = RedisSweep(store.redis, Renewal(BOTH, seals=seals))
            texts = 2 + 2 + 3 if seals or cipher is not PLAIN else 1
            assert await sweep.renew() == Tally(renewed=texts + 2)
            assert await sweep.renew() == Tally()
            assert all(0 <= was - redis.ttl(key) < 9 for key, was in zip(kept, lives, strict=True))
            counts = await sweep.key_ids()
            assert counts[NEW.newest] == (10 if seals or cipher is not PLAIN else 3)
            assert counts[OLD.newest] == 0
            found_paper = await Papers(store.documents, NEW).get("ann", "kind", ODD)
            assert found_paper == Document(name=ODD, text="kept", version=version or 0)
            assert await store.log.read("ann", START) == ENTRIES[:2]
            assert await store.log.end("ann") == "7-3"
            found = await store.inbox.read("ann", START)
            assert [each.place for each in found] == places
            assert found[1].command == waiting[1]
            assert isinstance(first := found[0].command, Connect)
            assert (first.id, first.user_id) == (connect.id, "Ann")
            assert NEW.open(first.sealed, user="ann", field="connect")
            assert await store.window.read("ann", "s") == SAID
            assert NEW.open(await store.configs.get("ann") or "", user="ann", field="config")
            await store.log.append("ann", 7, [Entry(id="7-4", command_id="c", event=TextDelta(text="!"))])
        assert redis.get("chat:history:ann") == "a gateway's"


@pytest.mark.anyio
@pytest.mark.parametrize("cipher", [PLAIN, Sealing(OLD)])
@pytest.mark.parametrize("seals", [True, False])
async def test_what_is_in_the_database_is_the_same_afterwards(
    empty_url: str, tmp_path: Path, cipher: Cipher, seals: bool
) -> None:
    migrate(database := empty_url)
    upload = Upload(name="a.txt", media_type="text/plain", content=b"sealed:= \0\xff" * 99)
    connect = Connect(sealed=sealed(OLD, "ann", field="connect"))
    async with open_sql(database, cipher) as archive:
        await archive.put("ann", sealed(OLD, "ann"), epoch=1)
        await archive.add(Addition(user="ann", session_id="s", messages=tuple(SAID)))
        await archive.change_session("ann", "s", name="sealed:named", context={"a": ["b"]})
        await archive.put_upload("ann", upload, quota=10_000)
        for command in (connect, Send(id="c", session_id="s", text="hello")):
            await archive.accept("ann", command)
        version = await Papers(archive, OLD).put("ann", "kind", ODD, "kept", seconds=1000)
        session = await archive.session("ann", "s")
    both = seals or cipher is not PLAIN
    async with open_sweep(database, Renewal(BOTH, seals=seals)) as sweep:
        values = {"config": 1, "connect": 1, "send": 1, "session": 2, "messages": 3, "upload": 2, "paper": 1}
        expected = sum(values.values()) if both else 3
        assert await sweep.renew() == Tally(renewed=expected)
        assert await sweep.renew() == Tally()
        counts = await sweep.key_ids()
        assert counts[OLD.newest] == 0
        assert counts[NEW.newest] == (12 if both else 3)
    async with open_sql(database, Sealing(NEW, on=False)) as archive:
        assert await archive.session("ann", "s") == session
        assert await archive.read("ann", "s", limit=9) == SAID
        assert await archive.upload("ann", upload.id) == upload
        found = await Papers(archive, NEW).get("ann", "kind", ODD)
        assert found == Document(name=ODD, text="kept", version=version or 0)
        first, second = await archive.open_commands("ann")
        assert second == Send(id="c", session_id="s", text="hello", run=second.run)  # type: ignore[union-attr]
        assert isinstance(first, Connect)
        assert NEW.open(first.sealed, user="ann", field="connect")
        for wanted, there in (("word", 3), ("1", 1), ("wor", 0 if both else 3), ("absent", 0)):
            assert len(await archive.search("ann", [wanted], limit=9, before=None)) == there
        assert await archive.delete_session("ann", "s", epoch=None)
        assert await archive.search("ann", ["word"], limit=9, before=None) == []
    if database.startswith("sqlite"):
        with sqlite3.connect(tmp_path / "chat.db") as connection:
            connection.execute("INSERT INTO chat_search (chat_search) VALUES ('integrity-check')")


@pytest.mark.anyio
async def test_a_copy_under_a_key_that_is_gone_hides_no_record_and_one_that_is_written_is_renewed(
    valkey: str, database: str
) -> None:
    async with open_redis(valkey) as store, open_sql(database) as archive:
        await archive.put("ann", sealed(NEW, "ann", "record"), epoch=1)
        await store.configs.put("ann", sealed(OLD, "ann", "copy"), epoch=1)
        new = await UserConfigs(store.configs, archive, NEW).get("ann")
        assert new is not None
        assert new.model.model == "record"
        both = UserConfigs(store.configs, archive, BOTH)
        await both.touch("ann", epoch=1)
        copy = await store.configs.get("ann")
        assert copy is not None
        assert CONFIG.validate_json(NEW.open(copy, user="ann", field="config")).model.model == "copy"


# A worker that lacks a key


@pytest.fixture
async def both_ways(database: str) -> AsyncIterator[tuple[SQLArchive, SQLArchive]]:
    """The archive of a worker with the key, and that of one without."""
    async with open_sql(database, Sealing(OLD)) as with_key, open_sql(database, Sealing(NEW)) as without:
        yield with_key, without


Two = tuple[SQLArchive, SQLArchive]


@pytest.mark.anyio
async def test_a_command_that_only_a_key_is_missing_for_waits_for_it_for_a_day(
    both_ways: Two, tmp_path: Path
) -> None:
    archive, without = both_ways
    command = Send(id="c", session_id="s", text="hello")
    await archive.accept("ann", command)
    assert await without.open_commands("ann") == []
    found = await without.accepted("ann", "c")
    assert found is not None
    assert (found.command, found.outcome) == (None, None)
    with pytest.raises(KeyMissing, match="key is missing"):
        await without.accept("ann", command)
    assert await archive.open_commands("ann") == [command]
    with sqlite3.connect(tmp_path / "chat.db", timeout=10) as connection:
        connection.execute("UPDATE chat_command SET created_at = '2026-01-01 00:00:00.000000'")
    assert await archive.open_commands("ann") == [command]
    assert await without.open_commands("ann") == []
    found = await archive.accepted("ann", "c")
    assert found is not None
    assert isinstance(found.outcome, Failed)


@pytest.mark.anyio
async def test_a_context_that_only_a_key_is_missing_for_is_not_written_over(both_ways: Two) -> None:
    archive, without = both_ways
    await archive.add(Addition(user="ann", session_id="s", messages=tuple(SAID), epoch=1))
    await archive.change_session("ann", "s", context={"a": "b"})
    with pytest.raises(KeyMissing):
        await without.change_session("ann", "s", name="lost", context={"c": 1})
    renamed = await without.change_session("ann", "s", name="named", context={})
    assert renamed is not None
    usage = Usage(input_tokens=3, output_tokens=4)
    spent = Spent(id="summary-1", day=date(2026, 1, 31), session_id="s", model="m", usage=usage)
    assert not await without.keep_summary("ann", "s", {"text": "new"}, spent, epoch=1)
    session = await archive.session("ann", "s")
    assert session is not None
    assert (session.context, session.token_usage) == ({"a": "b"}, usage)
    assert await archive.keep_summary("ann", "s", {"text": "new"}, spent, epoch=1)


@pytest.mark.anyio
async def test_a_command_in_the_inbox_that_only_a_key_is_missing_for_waits_for_it_for_a_day(
    valkey: str,
) -> None:
    async with store_with(valkey, Sealing(OLD)) as store, store_with(valkey, Sealing(NEW)) as without:
        long_ago = Sealing(OLD).seal("x", user="ann", field="inbox")
        await store.redis.xadd("chat:inbox:{ann}", {"c": long_ago}, id="7-1")
        command = Send(id="c", session_id="s", text="hello")
        await store.inbox.put("ann", command, limit=9)
        await without.inbox.put("ann", Send(id="d", session_id="s", text="mine"), limit=9)
        with capture_logs() as logged:
            for _ in range(2):
                assert [each.command.id for each in await without.inbox.read("ann", START)] == ["d"]
        assert [each["event"] for each in logged] == ["command.unknown", "command.unreadable"]
        assert [each.command for each in await store.inbox.read("ann", START)] == [command]


@pytest.mark.anyio
async def test_a_window_that_only_a_key_is_missing_for_stays_and_is_not_appended_to(valkey: str) -> None:
    async with store_with(valkey, Sealing(OLD)) as store, store_with(valkey, Sealing(NEW)) as without:
        await store.window.append("ann", "s", SAID, epoch=1, create=True)
        record = Record(without.window, None)
        for refused in (
            lambda: record.messages("ann", "s", limit=9),
            lambda: record.recent("ann", "s", epoch=1),
            lambda: record.add("ann", "s", SAID, epoch=1),
        ):
            with pytest.raises(KeyMissing):
                await refused()
        assert await store.window.read("ann", "s") == SAID
        assert not await store.redis.exists("chat:aside:{ann}")
        assert await record.delete("ann", "s", epoch=1)
        assert await store.window.read("ann", "s") is None


@pytest.mark.anyio
async def test_with_an_archive_a_window_that_a_key_is_missing_for_is_filled_anew(
    valkey: str, database: str
) -> None:
    async with (
        store_with(valkey, Sealing(OLD)) as store,
        store_with(valkey, Sealing(NEW)) as without,
        open_sql(database, Sealing(BOTH)) as archive,
    ):
        await archive.add(Addition(user="ann", session_id="s", messages=tuple(SAID), epoch=1))
        await store.window.append("ann", "s", SAID[:1], epoch=1, create=True)
        assert await Record(without.window, archive).recent("ann", "s", epoch=1) == SAID
        assert await without.window.read("ann", "s") == SAID


# What a sweep meets


@pytest.mark.anyio
async def test_what_was_put_aside_is_renewed_too_and_a_key_of_a_wrong_type_stops_nothing(valkey: str) -> None:
    text = Sealing(OLD).seal("said", user="ann", field="window")
    with Redis.from_url(valkey, decode_responses=True) as redis:
        redis.rpush("chat:aside:{ann}", text, b"\xff")
        redis.set("chat:aside:{ann}:key", text)
        redis.hset("chat:aside:{bob}:key", "a", "b")
        redis.rpush("user:config:{ann}", "a")
        redis.set("chat:events:{ann}", "a")
        redis.xadd("chat:inbox:{ann}", {"a": "b", "c": "d"})
        redis.set("chat:history:{ann}", "a")
        redis.set("user:config:{eve}", b"\xff")
        redis.set("user:config:{bob}", sealed(OLD, "bob"))
        async with open_redis(valkey) as store:
            sweep = RedisSweep(store.redis, Renewal(BOTH, seals=False))
            assert (await sweep.key_ids())[OLD.newest] == 3
            assert await sweep.renew() == Tally(renewed=3, unreadable=7)
            assert await sweep.renew() == Tally(unreadable=7)
            assert (await sweep.key_ids())[OLD.newest] == 0
        assert redis.type("chat:aside:{bob}:key") == "hash"


def entries(first: int, last: int) -> list[Entry]:
    """Events of a user's, the first and the last of these numbers included."""
    return [
        Entry(id=f"7-{n}", command_id="c", event=TextDelta(text=f"text {n}")) for n in range(first, last + 1)
    ]


@pytest.mark.anyio
async def test_a_long_log_is_renewed_in_steps_while_it_grows_and_is_cut(
    valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Scripts.run
    steps: list[int] = []

    async def noted(self: Scripts, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        if name == "swap_stream":
            with Redis.from_url(valkey) as redis:
                redis.xtrim("chat:events:{ann}", minid="7-11", approximate=False)
            await store.log.append("ann", 7, entries(1001, 1003))
        if name.startswith(("copy", "swap")):
            steps.append(len(args))
        return await run(self, name, keys, args)

    with Redis.from_url(valkey) as redis:
        redis.hset(owner_key("ann"), mapping={"worker": "w", "epoch": 7})
    async with store_with(valkey, Sealing(OLD)) as store, store_with(valkey, Sealing(NEW)) as new:
        await store.log.append("ann", 7, entries(1, 1000))
        monkeypatch.setattr(Scripts, "run", noted)
        sweep = RedisSweep(store.redis, Renewal(BOTH, seals=True))
        assert await sweep.renew() == Tally(renewed=1000)
        assert max(steps) < 1000
        assert await new.log.read("ann", START, limit=2000) == entries(11, 1000)
        assert await sweep.renew() == Tally(renewed=3)
        assert await new.log.read("ann", START, limit=2000) == entries(11, 1003)
        assert not await store.redis.keys("chat:renewed:*")


@pytest.mark.anyio
async def test_a_log_that_has_lost_entries_meanwhile_is_left_as_it_is(
    valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Scripts.run

    async def meddled(self: Scripts, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        if name == "swap_stream":
            await store.log.erase("ann", entries(2, 2), [], epoch=7)
        return await run(self, name, keys, args)

    with Redis.from_url(valkey) as redis:
        redis.hset(owner_key("ann"), mapping={"worker": "w", "epoch": 7})
    async with store_with(valkey, Sealing(OLD)) as store:
        await store.log.append("ann", 7, entries(1, 3))
        monkeypatch.setattr(Scripts, "run", meddled)
        assert await RedisSweep(store.redis, Renewal(BOTH, seals=True)).renew() == Tally(missed=3)
        assert await store.log.read("ann", START) == [*entries(1, 1), *entries(3, 3)]
        assert not await store.redis.keys("chat:renewed:*")


def test_a_count_waits_for_nobody_who_writes(keys: Keys, database: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "chat.db") as writing:
        writing.execute("BEGIN IMMEDIATE")
        code, text = keys("status", DATABASE_URL=database)
        assert (code, counted(text)[OLD.newest]) == (0, 0)


def test_nothing_is_brought_under_a_key_that_nobody_made_by_chance(
    keys: Keys, capsys: Any, database: str
) -> None:
    zeros = base64.b64encode(bytes(32)).decode()
    code, _ = keys("rotate", DATABASE_URL=database, MCP_CHAT_ENCRYPTION_KEY=f"{zeros},{OLD_TEXT}")
    assert code == 2
    assert "must be made by chance" in capsys.readouterr().err
    away = f"{NEW_TEXT},{zeros}"  # away from it is possible
    assert keys("rotate", DATABASE_URL=database, MCP_CHAT_ENCRYPTION_KEY=away)[0] == 0


@pytest.mark.anyio
async def test_the_words_of_a_long_message_are_sealed_beside_the_loop(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    original: Callable[[str], str] = vars(rows)["index"]

    def noted(text: str) -> str:
        threads.append(threading.get_ident())
        return original(text)

    monkeypatch.setattr(rows, "index", noted)
    long = Message(role="user", content=" ".join(f"w{n}" for n in range(1000)))
    for cipher in (PLAIN, Sealing(OLD, on=False), Sealing(OLD)):
        async with open_sql(database, cipher) as archive:
            await archive.add(Addition(user="ann", session_id="s", messages=(long,)))
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [True, True, False]
