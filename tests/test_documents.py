"""Users' documents: one contract over memory, Valkey, SQLite and PostgreSQL, and the locks on top of it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from redis.asyncio import Redis
from redis.crc import key_slot
from sqlalchemy import create_engine, text

from mcp_chat.exceptions import ChatError, Fenced, InvalidRequest, Locked, StoreUnavailable, TooLarge
from mcp_chat.message import now
from mcp_chat.papers import Papers
from mcp_chat.stores import redis_documents, sql_documents
from mcp_chat.stores.base import Lease
from mcp_chat.stores.database import driver_url, migrate
from mcp_chat.stores.documents import LARGEST, MOST, TOGETHER, Document, Documents
from mcp_chat.stores.memory import MemoryDocuments, MemoryLeases, MemoryStore
from mcp_chat.stores.redis import open_redis
from mcp_chat.stores.sql import SQLArchive, open_sql
from mcp_chat.stores.tables import metadata
from mcp_chat.vault import Vault
from tests.locker import KEY
from tests.proxy import proxied
from tests.running import wait_until
from tests.test_archive import KINDS, broken, postgresql, sqlite_url
from tests.test_stores import cancelled_at, eventually

pytestmark = pytest.mark.anyio

__all__ = ["postgresql", "sqlite_url"]

VAULT = Vault([KEY])
LONG = 600.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Backend:
    """What two workers have.

    Attributes:
        url: Of the database or Redis; none for memory.
    """

    documents: Documents
    others: Documents
    take_over: Callable[[str], Awaitable[int]]
    url: str = ""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Backend]:
    """The documents of two workers in one store."""
    async with AsyncExitStack() as stack:
        if not url:
            memory = MemoryStore()
            yield Backend(memory.documents, memory.documents, lambda user: claimed(memory, user))
        elif url.startswith(("redis", "unix")):
            one, two = [await stack.enter_async_context(open_redis(url)) for _ in range(2)]
            yield Backend(one.documents, two.documents, lambda user: claimed(one, user), url)
        else:
            mine, theirs = [await stack.enter_async_context(open_sql(url)) for _ in range(2)]
            yield Backend(mine, theirs, lambda user: mine.next_epoch(user, 0), url)


async def claimed(store: Any, user: str) -> int:
    """Take a user over."""
    lease: Lease = await store.leases.claim(user, "w", floor=0, seen=await store.leases.get(user))
    return lease.epoch


@pytest.fixture(scope="module")
def migrated_postgresql(postgresql: str) -> str:
    """A PostgreSQL that the tests share: each has users of its own."""
    migrate(postgresql)
    return postgresql


URLS = {"valkey": "valkey_url", "sqlite": "sqlite_url", "postgresql": "migrated_postgresql"}


def url_of(request: pytest.FixtureRequest) -> str:
    """The URL of the kind of backend that a fixture is to be; none for memory."""
    if request.param == "memory":
        return ""
    url: str = request.getfixturevalue(URLS[request.param])
    return url


@pytest.fixture(params=["memory", "valkey", *KINDS])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """Each backend."""
    async with opened(url_of(request)) as backend:
        yield backend


@pytest.fixture(params=["valkey", *KINDS])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """Each backend that processes share."""
    async with opened(url_of(request)) as backend:
        yield backend


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest) -> str:
    """The URL of each kind of database."""
    return url_of(request)


@pytest.fixture
def documents(backend: Backend) -> Documents:
    return backend.documents


@pytest.fixture
def papers(backend: Backend) -> Papers:
    return Papers(backend.documents, VAULT)


async def put(documents: Documents, user: str, name: str, content: str = "text", **more: Any) -> int:
    """Set a document of a kind, and return its version."""
    options = {"kind": "kind", "seconds": LONG, **more}
    version = await documents.put_document(user, options.pop("kind"), name, content, **options)
    assert version is not None
    return version


async def gone(documents: Documents, user: str, name: str) -> None:
    """Wait until a document's time is over."""

    async def over() -> bool:
        return await documents.get_document(user, "kind", name) is None

    await eventually(over, "its time is over")


# What is put is there


async def test_a_document_is_there_with_its_version_until_it_is_dropped(backend: Backend, name: str) -> None:
    documents, others = backend.documents, backend.others
    assert await documents.get_document(name, "kind", "a") is None
    first = await put(documents, name, "a", "one")
    assert await others.get_document(name, "kind", "a") == Document(name="a", text="one", version=first)
    second = await put(others, name, "a", "two")
    assert second > first > 0
    assert await documents.get_document(name, "kind", "a") == Document(name="a", text="two", version=second)
    assert await documents.drop_document(name, "kind", "a")
    assert await others.get_document(name, "kind", "a") is None
    assert not await others.drop_document(name, "kind", "a")


ODD = [
    "a b",
    " ",
    "a:b",
    "a:b:c",
    "{a}",
    "}:{",
    "*",
    "%",
    "A",
    "a",
    "ä",
    "a\u0308",
    "👩‍👩‍👧",
    "a\nb",
    "'; DROP TABLE chat_document; --",
    "\U0001f600" * 512,
    "x" * 512,
]


async def test_a_name_may_be_odd_and_is_taken_for_no_other(documents: Documents, name: str) -> None:
    for n, odd in enumerate(ODD):
        await put(documents, name, odd, f"{n} \u2028 \U0001f600")
    for n, odd in enumerate(ODD):
        found = await documents.get_document(name, "kind", odd)
        assert found is not None
        assert (found.name, found.text) == (odd, f"{n} \u2028 \U0001f600")
    assert [each.name for each in await documents.list_documents(name, "kind")] == sorted(ODD)
    for n, odd in enumerate(ODD):
        assert await documents.drop_document(name, "kind", odd)
        assert len(await documents.list_documents(name, "kind")) == len(ODD) - n - 1


@pytest.mark.parametrize("wrong", ["", "a\x00b", "\udcff", "x" * 513])
async def test_a_name_that_none_can_have_is_refused_and_is_that_of_none(
    documents: Documents, name: str, wrong: str
) -> None:
    with pytest.raises(InvalidRequest, match="cannot be kept"):
        await put(documents, name, wrong)
    assert await documents.get_document(name, "kind", wrong) is None
    assert not await documents.drop_document(name, "kind", wrong)


@pytest.mark.parametrize("wrong", ["a\x00", "\udcff"])
async def test_a_text_that_no_database_takes_is_refused(documents: Documents, name: str, wrong: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be kept"):
        await put(documents, name, "a", wrong)
    assert await documents.list_documents(name, "kind") == []


async def test_documents_of_other_users_and_kinds_are_apart(documents: Documents, name: str) -> None:
    places = [(name, "kind", "a"), (name, "other", "a"), (f"{name}2", "kind", "a"), (name, "kind", "other:a")]
    for user, kind, each in places:
        await put(documents, user, each, f"{user} {kind} {each}", kind=kind)
    for user, kind, each in places:
        found = await documents.get_document(user, kind, each)
        assert found is not None
        assert found.text == f"{user} {kind} {each}"
    assert [each.name for each in await documents.list_documents(name, "kind")] == ["a", "other:a"]
    assert await documents.drop_document(name, "kind", "a")
    assert await documents.get_document(name, "other", "a")
    assert await documents.get_document(f"{name}2", "kind", "a")
    assert await documents.list_documents(name, "none") == []


# Versions


async def test_only_the_version_that_was_given_is_replaced(documents: Documents, name: str) -> None:
    async def replaced(version: int, content: str) -> int | None:
        return await documents.put_document(name, "kind", "a", content, seconds=LONG, version=version)

    assert await replaced(7, "early") is None
    first = await replaced(0, "first")
    assert first
    assert await replaced(0, "another first") is None
    second = await replaced(first, "second")
    assert second
    assert await replaced(first, "late") is None
    assert await documents.get_document(name, "kind", "a") == Document(
        name="a", text="second", version=second
    )


async def test_only_the_version_that_was_given_is_dropped(documents: Documents, name: str) -> None:
    first = await put(documents, name, "a")
    second = await put(documents, name, "a")
    assert not await documents.drop_document(name, "kind", "a", version=first)
    assert await documents.drop_document(name, "kind", "a", version=second)
    assert not await documents.drop_document(name, "kind", "a", version=second)


async def test_a_version_never_comes_again(documents: Documents, name: str) -> None:
    seen = []
    for _ in range(5):
        seen.append(await put(documents, name, "a"))
        seen.append(await put(documents, name, "b"))
        for each in "ab":
            assert await documents.drop_document(name, "kind", each)
    seen.append(await put(documents, name, "a", seconds=0.02))
    await gone(documents, name, "a")
    if isinstance(documents, SQLArchive):
        await documents.tidy()
    seen.append(await put(documents, name, "a"))
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen)
    for version in seen[:-1]:
        assert not await documents.drop_document(name, "kind", "a", version=version)


async def test_of_many_who_replace_a_version_at_once_one_does(backend: Backend, name: str) -> None:
    for version in (0, await put(backend.documents, name, "b")):
        place = "b" if version else "a"

        async def attempt(n: int, place: str = place, version: int = version) -> int | None:
            documents = (backend.documents, backend.others)[n % 2]
            return await documents.put_document(name, "kind", place, f"by {n}", seconds=LONG, version=version)

        done = await asyncio.gather(*map(attempt, range(20)))
        [winner] = [n for n, version in enumerate(done) if version]
        found = await backend.others.get_document(name, "kind", place)
        assert found == Document(name=place, text=f"by {winner}", version=done[winner] or 0)


async def test_a_number_that_many_raise_at_once_loses_nothing(backend: Backend, name: str) -> None:
    await put(backend.documents, name, "n", "0")

    async def count(documents: Documents) -> None:
        while True:
            found = await documents.get_document(name, "kind", "n")
            assert found is not None
            more = str(int(found.text) + 1)
            if await documents.put_document(name, "kind", "n", more, seconds=LONG, version=found.version):
                return

    await asyncio.gather(*(count(each) for each in (backend.documents, backend.others) * 5))
    found = await backend.documents.get_document(name, "kind", "n")
    assert found is not None
    assert found.text == "10"


@pytest.mark.parametrize("versioned", [True, False])
async def test_of_many_who_drop_at_once_one_is_told_so(backend: Backend, name: str, versioned: bool) -> None:
    for _ in range(3):
        version = await put(backend.documents, name, "a")
        told = await asyncio.gather(
            *(
                documents.drop_document(name, "kind", "a", version=version if versioned else None)
                for documents in (backend.documents, backend.others) * 10
            )
        )
        assert told.count(True) == 1


# Time


async def test_a_document_whose_time_is_over_is_none(documents: Documents, name: str) -> None:
    await put(documents, name, "stays")
    version = await put(documents, name, "a", seconds=0.02)
    await gone(documents, name, "a")
    assert [each.name for each in await documents.list_documents(name, "kind")] == ["stays"]
    assert not await documents.drop_document(name, "kind", "a", version=version)
    assert await documents.put_document(name, "kind", "a", "x", seconds=LONG, version=version) is None
    assert await put(documents, name, "a", "again", version=0) > version


async def test_a_later_write_gives_a_document_its_time_anew(documents: Documents, name: str) -> None:
    await put(documents, name, "a", "long")
    await put(documents, name, "a", "short", seconds=0.02)
    await gone(documents, name, "a")
    await put(documents, name, "b", "short", seconds=0.05)
    await put(documents, name, "b", "long")
    await put(documents, name, "c", seconds=0.05)
    await gone(documents, name, "c")
    assert await documents.get_document(name, "kind", "b")


@pytest.mark.parametrize("seconds", [0, -1, 1e12])
async def test_no_time_is_too_short_or_too_long(documents: Documents, name: str, seconds: float) -> None:
    await put(documents, name, "a", seconds=seconds)
    if seconds > 0:
        assert await documents.get_document(name, "kind", "a")
    else:
        await gone(documents, name, "a")


# Owners


async def test_an_older_epoch_puts_nothing(backend: Backend, name: str) -> None:
    documents = backend.documents
    old = await backend.take_over(name)
    await put(documents, name, "a", "by the old one", epoch=old)
    new = await backend.take_over(name)
    with pytest.raises(Fenced):
        await put(documents, name, "a", "late", epoch=old)
    with pytest.raises(Fenced):
        await put(backend.others, name, "b", "late", epoch=old)
    await put(documents, name, "b", "by no owner")
    await put(documents, name, "c", "by the new one", epoch=new)
    found = [each.text for each in await documents.list_documents(name, "kind")]
    assert found == ["by the old one", "by no owner", "by the new one"]


# Room


async def test_a_text_has_a_largest_size(documents: Documents, name: str) -> None:
    await put(documents, name, "a", "ä" * (LARGEST // 2))
    with pytest.raises(TooLarge, match=f"more than {LARGEST} bytes"):
        await put(documents, name, "a", "ä" * (LARGEST // 2) + "x")
    found = await documents.get_document(name, "kind", "a")
    assert found is not None
    assert len(found.text) == LARGEST // 2


async def test_there_is_room_for_so_many_of_a_kind_of_a_users(documents: Documents, name: str) -> None:
    await put(documents, name, "short", seconds=0.02)
    await gone(documents, name, "short")
    for n in range(MOST):
        await put(documents, name, f"{n}")
    with pytest.raises(TooLarge, match=f"{MOST} pieces"):
        await put(documents, name, "one more")
    await put(documents, name, "0", "replaced")
    await put(documents, name, "one more", kind="other")
    await put(documents, f"{name}2", "one more")
    assert await documents.drop_document(name, "kind", "1")
    await put(documents, name, "one more")
    assert len(await documents.list_documents(name, "kind")) == MOST


async def test_all_of_a_kind_together_have_a_largest_size(documents: Documents, name: str) -> None:
    large = "x" * LARGEST
    for n in range(TOGETHER // LARGEST):
        await put(documents, name, f"{n}", large)
    with pytest.raises(TooLarge, match=f"{TOGETHER} bytes"):
        await put(documents, name, "one more", "x")
    await put(documents, name, "0", large[1:])
    await put(documents, name, "one more", "x")


# What is left behind


def memory(now: Callable[[], float]) -> MemoryDocuments:
    return MemoryDocuments(MemoryLeases(now), now)


async def test_memory_keeps_nothing_whose_time_is_over() -> None:
    now = 0.0
    documents = memory(lambda: now)
    for n in range(100):
        await put(documents, f"user-{n}", "a", seconds=10)
        await put(documents, "ann", f"{n}", seconds=10)
    now = 20
    for _ in range(101):
        await put(documents, "bob", "a", seconds=1000)
    assert list(documents._shelves) == [("bob", "kind")]


async def test_the_database_drops_what_has_had_its_time(sqlite_url: str, name: str) -> None:
    async with open_sql(sqlite_url) as archive:
        await put(archive, name, "stays")
        for n in range(5):
            await put(archive, name, f"{n}", seconds=0.02)
        await gone(archive, name, "4")
        await archive.tidy()
        await broken(archive, "UPDATE chat_document SET expires_at = '2100-01-01 00:00:00.000000'")
        assert [each.name for each in await archive.list_documents(name, "kind")] == ["stays"]


@pytest.mark.slow
async def test_no_hosts_clock_counts_where_several_share_a_database(
    migrated_postgresql: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(migrated_postgresql) as backend:
        await put(backend.documents, name, "a", seconds=60)
        monkeypatch.setattr(sql_documents, "now", lambda: now() + timedelta(hours=1))
        assert await backend.others.get_document(name, "kind", "a")
        await put(backend.others, name, "b", seconds=0.02)
        await gone(backend.documents, name, "b")


def test_the_table_is_the_one_that_the_migrations_make(database: str) -> None:

    def of_documents(_: object, name: str | None, type_: str, _reflected: bool, _to: object) -> bool:
        return type_ != "table" or name == "chat_document"

    engine = create_engine(driver_url(database, asynchronous=False))
    with engine.connect() as connection:
        options = {"include_object": of_documents, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        if database.startswith("sqlite"):
            made = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'chat_document'"))
            assert "AUTOINCREMENT" in made.scalar_one()
    engine.dispose()


# What only Redis can get wrong


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(valkey_url, decode_responses=True) as redis:
        yield redis


async def keys_of(client: Redis, user: str) -> list[str]:
    return sorted([key async for key in client.scan_iter(match=f"*{user}*", count=1000)])


async def test_all_keys_have_a_time_to_live_and_one_slot(valkey_url: str, client: Redis, name: str) -> None:
    async with opened(valkey_url) as backend:
        await put(backend.documents, name, "a{b}", seconds=500)
        await put(backend.documents, name, "short", seconds=50)
        keys = await keys_of(client, name)
        assert keys == [
            f"chat:document:{{{name}}}:kind:a{{b}}",
            f"chat:document:{{{name}}}:kind:short",
            f"chat:documents:{{{name}}}:kind",
            f"chat:version:{{{name}}}",
        ]
        assert {key_slot(key.encode()) for key in keys} == {key_slot(name.encode())}
        lives = [await client.pttl(key) for key in keys[:3]]
        assert all(400_000 < life <= 500_000 for life in (lives[0], lives[2]))
        assert 0 < lives[1] <= 50_000
        assert await client.pttl(keys[3]) > 80_000_000
        for each in ("a{b}", "short"):
            assert await backend.documents.drop_document(name, "kind", each)
        left = await keys_of(client, name)
        assert left == keys[2:]
        assert 0 < await client.pttl(left[0]) <= 600_000


async def test_versions_rise_when_redis_has_lost_its_data(valkey_url: str, client: Redis, name: str) -> None:
    async with opened(valkey_url) as backend:
        first = await put(backend.documents, name, "a")
        await client.delete(*await keys_of(client, name))
        assert await put(backend.documents, name, "a") > first
        await client.set(f"chat:version:{{{name}}}", first + 10**15)
        assert await put(backend.documents, name, "a") == first + 10**15 + 1


async def test_what_is_sent_twice_is_done_once(
    valkey_url: str, client: Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks again when an answer is lost."""
    async with opened(valkey_url) as backend:
        scripts: Any = backend.documents._scripts  # type: ignore[attr-defined]
        run, answers = scripts.run, []

        async def twice(*args: Any) -> Any:
            answers.append([await run(*args), await contents(client, name), await run(*args)])
            assert await contents(client, name) == answers[-1][1]
            return answers[-1][-1]

        monkeypatch.setattr(scripts, "run", twice)
        first = await put(backend.documents, name, "a", "one", version=0)
        await put(backend.documents, name, "a", "two", version=first)
        await put(backend.documents, name, "a", "three")
        assert await backend.documents.drop_document(name, "kind", "a")
        assert all(answer == again for answer, _, again in answers)
        assert not await backend.others.drop_document(name, "kind", "a")


async def contents(client: Redis, user: str) -> dict[str, bytes]:
    """What is in a user's keys, to the last byte."""
    dump: Callable[..., Awaitable[bytes]] = client.execute_command
    return {key: await dump("DUMP", key, NEVER_DECODE=True) for key in await keys_of(client, user)}


async def test_what_was_dropped_is_remembered_for_a_bounded_number(
    valkey_url: str, client: Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_documents, "MOST", 8)
    async with opened(valkey_url) as backend:
        for n in range(30):
            await put(backend.documents, name, f"{n}")
            assert await backend.documents.drop_document(name, "kind", f"{n}")
        assert await client.hlen(f"chat:documents:{{{name}}}:kind") <= 8 + 2


# Sealed


async def test_a_paper_is_sealed_for_its_user_kind_and_name(papers: Papers, name: str) -> None:
    version = await papers.put(name, "kind", "a", "CANARY", seconds=LONG)
    kept = await papers.documents.get_document(name, "kind", "a")
    assert kept is not None
    assert "CANARY" not in kept.text
    assert VAULT.open(kept.text, user=name, field="document kind a") == "CANARY"
    assert await papers.get(name, "kind", "a") == Document(name="a", text="CANARY", version=version or 0)
    await papers.documents.put_document(name, "kind", "b", kept.text, seconds=LONG)
    assert await papers.get(name, "kind", "b") is None
    assert await papers.all(name, "kind") == [replace(kept, text="CANARY")]


async def test_a_large_paper_comes_back_whole(papers: Papers, name: str) -> None:
    large = "ä\x00\u2028" * 400_000
    await papers.put(name, "kind", "a", large, seconds=LONG)
    found = await papers.get(name, "kind", "a")
    assert found is not None
    assert found.text == large


async def test_of_many_who_take_a_paper_one_gets_it(backend: Backend, papers: Papers, name: str) -> None:
    await papers.put(name, "kind", "a", "once", seconds=LONG)
    both = [papers, Papers(backend.others, VAULT)]
    taken = await asyncio.gather(*(each.take(name, "kind", "a") for each in both * 10))
    assert [each.text for each in taken if each] == ["once"]


# Locks


async def is_open(papers: Papers, user: str, lock: str = "lock") -> bool:
    """Whether somebody else could have a lock at once."""
    try:
        async with papers.locked(user, lock, seconds=30, patience=0):
            return True
    except Locked:
        return False


async def test_a_lock_has_one_holder_at_a_time(backend: Backend, name: str) -> None:
    inside = most = 0

    async def work(documents: Documents) -> None:
        nonlocal inside, most
        async with Papers(documents, VAULT).locked(name, "lock", seconds=30, patience=20):
            inside += 1
            most = max(inside, most)
            await anyio.sleep(0.005)
            inside -= 1

    await asyncio.gather(*(work(each) for each in (backend.documents, backend.others) * 5))
    assert (most, inside) == (1, 0)


async def test_who_waits_too_long_for_a_lock_is_told_so(backend: Backend, papers: Papers, name: str) -> None:
    other = Papers(backend.others, VAULT)
    async with papers.locked(name, "lock", seconds=30, patience=0):
        began = time.monotonic()
        with pytest.raises(Locked, match="Please try again") as refused:
            async with other.locked(name, "lock", seconds=30, patience=0.1):
                raise AssertionError("it has two holders")
        assert 0.1 <= time.monotonic() - began < 25
        assert isinstance(refused.value, StoreUnavailable)
        assert refused.value.retryable
        assert not await is_open(other, name), "who was refused has opened it"
        assert await is_open(other, name, "another lock")
        assert await is_open(other, f"{name}2")
    assert await is_open(other, name)


async def test_a_lock_opens_when_its_holder_fails(papers: Papers, name: str) -> None:
    with pytest.raises(ChatError, match="broken"):
        async with papers.locked(name, "lock", seconds=30, patience=0):
            raise ChatError("broken")
    assert await is_open(papers, name)


async def test_who_held_a_lock_for_too_long_does_not_open_the_next_ones(papers: Papers, name: str) -> None:
    async with AsyncExitStack() as next_one:
        async with papers.locked(name, "lock", seconds=0.05, patience=0):
            await next_one.enter_async_context(papers.locked(name, "lock", seconds=30, patience=10))
        assert not await is_open(papers, name)
    assert await is_open(papers, name)


@pytest.mark.parametrize("native", [True, False])
async def test_a_lock_is_left_open_wherever_its_holder_is_cancelled(
    papers: Papers, name: str, native: bool
) -> None:
    async def hold() -> None:
        async with papers.locked(name, "lock", seconds=30, patience=10):
            await anyio.sleep(0.001)

    if native:
        for k in range(100):
            if not await cancelled_at(k, hold):
                break
            assert await is_open(papers, name), f"cancelled at wait {k}"
        assert 0 < k < 100
        return
    for delay in (0.0, 0.0005, 0.001, 0.002, 0.004):
        with anyio.move_on_after(delay):
            await hold()
        assert await is_open(papers, name), f"cancelled after {delay} s"


async def test_a_lock_that_cannot_be_opened_opens_when_its_time_is_over(valkey_url: str, name: str) -> None:
    with proxied(valkey_url) as proxy:
        async with open_redis(proxy.url) as near, open_redis(valkey_url) as far:
            papers, other = Papers(near.documents, VAULT), Papers(far.documents, VAULT)
            async with papers.locked(name, "lock", seconds=6, patience=0):
                proxy.cut()
            assert not await is_open(other, name)
            async with other.locked(name, "lock", seconds=30, patience=30):
                assert not await is_open(other, name)


async def test_no_lock_is_had_while_the_record_is_away(valkey_url: str, name: str) -> None:
    with proxied(valkey_url) as proxy:
        async with open_redis(proxy.url) as store:
            papers = Papers(store.documents, VAULT)
            proxy.cut()
            with pytest.raises(StoreUnavailable) as refused:
                async with papers.locked(name, "lock", seconds=30, patience=10):
                    raise AssertionError("nobody can tell that it has no other holder")
            assert not isinstance(refused.value, Locked)
            proxy.heal()
            await eventually(lambda: is_open(papers, name), "it can be had")


def worker(url: str, user: str, path: Path, times: int, seconds: float) -> subprocess.Popen[bytes]:
    """Start a process that raises a number in a file so often, each time under the lock; once: for ever."""
    args = [url, user, str(path), str(times), str(seconds)]
    return subprocess.Popen([sys.executable, "-m", "tests.locker", *args])


async def test_processes_share_a_lock(shared: Backend, name: str, tmp_path: Path) -> None:
    (path := tmp_path / "number").write_text("0")
    processes = [worker(shared.url, name, path, 15, 60) for _ in range(2)]
    codes = [await anyio.to_thread.run_sync(process.wait, 60) for process in processes]
    assert codes == [0, 0]
    assert path.read_text() == "30"


async def test_a_lock_whose_holder_is_killed_opens_when_its_time_is_over(
    shared: Backend, name: str, tmp_path: Path
) -> None:
    papers = Papers(shared.documents, VAULT)
    (path := tmp_path / "number").write_text("0")
    with worker(shared.url, name, path, 1, 6) as process:
        await anyio.to_thread.run_sync(wait_until, lambda: path.read_text() == "1", "it holds the lock")
        process.send_signal(signal.SIGKILL)
    assert not await is_open(papers, name)
    began = time.monotonic()
    async with papers.locked(name, "lock", seconds=30, patience=60):
        assert time.monotonic() - began < 30
