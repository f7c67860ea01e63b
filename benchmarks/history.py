"""What history costs in each store: appends, appends to long histories, reads, and a refill."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.figures import percentile
from mcp_chat.embedded import DataDir, EmbeddedValkey
from mcp_chat.message import Message
from mcp_chat.record import Record
from mcp_chat.session import Session
from mcp_chat.stores.base import Addition, Archive, Window
from mcp_chat.stores.database import migrate
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import open_redis
from mcp_chat.stores.sql import open_sql
from tests.postgres import private_postgresql, programs

TASKS = 20
APPENDS = 4000
TIMED = 1000
LENGTHS = (10, 1_000, 100_000)
TEXT = "A message of some words, as people write them to a model that knows their tools."

Act = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Subject:
    """A store under measurement: how to append to a history, and how to make one of some length first."""

    append: Callable[[str], Awaitable[object]]
    fill: Callable[[str, int], Awaitable[object]]
    read: Callable[[str], Awaitable[object]]
    refill: Callable[[str], Awaitable[object]] | None = None


def message() -> Message:
    """Return a new message."""
    return Message(role="user", content=TEXT)


def of_window(window: Window) -> Subject:
    """Measure a window, whose limit is lifted."""

    async def append(session: str) -> None:
        await window.append("bench", session, [message()], epoch=1, create=True)

    async def fill(session: str, length: int) -> None:
        for place in range(0, length, 1000):
            batch = [message() for _ in range(min(1000, length - place))]
            await window.append("bench", session, batch, epoch=1, create=True)

    return Subject(append, fill, lambda session: window.read("bench", session))


def of_archive(archive: Archive) -> Subject:
    """Measure an archive, and the refill of a window from it."""
    record = Record(MemoryStore().window, archive)

    async def append(session: str) -> None:
        await archive.add(Addition(user="bench", session_id=session, messages=(message(),), epoch=1))

    async def fill(session: str, length: int) -> None:
        messages = tuple(message() for _ in range(length))
        await archive.import_session("bench", Session(id=session, messages=messages))

    return Subject(
        append,
        fill,
        lambda session: archive.read("bench", session, limit=50),
        lambda session: record.recent("bench", session, epoch=1, refill=True),
    )


async def a_second(append: Callable[[str], Awaitable[object]]) -> float:
    """Return appends a second of several tasks, each with a conversation of its own."""

    async def task(session: str) -> None:
        for _ in range(APPENDS // TASKS):
            await append(session)

    began = time.perf_counter()
    await asyncio.gather(*(task(secrets.token_hex(8)) for _ in range(TASKS)))
    return APPENDS / (time.perf_counter() - began)


async def timed(acts: Sequence[Act], times: int = TIMED) -> list[list[float]]:
    """Return the seconds of each of many calls; the acts take turns, so that they meet the same machine."""
    found: list[list[float]] = [[] for _ in acts]
    for _ in range(times):
        for act, seconds in zip(acts, found, strict=True):
            began = time.perf_counter()
            await act()
            seconds.append(time.perf_counter() - began)
    return found


def cell(seconds: Sequence[float]) -> str:
    """Return p50 and p99 as a table's cell."""
    return f"{percentile(seconds, 0.5):.2f} / {percentile(seconds, 0.99):.2f}"


async def row(name: str, subject: Subject, short: Subject) -> str:
    """Return a store's line of the table.

    Args:
        short: The same store with windows of the usual length, for reads.
    """
    cells = [name, f"{await a_second(subject.append):,.0f}"]
    sessions = [secrets.token_hex(8) for _ in LENGTHS]
    for session, length in zip(sessions, LENGTHS, strict=True):
        await subject.fill(session, length)
    appends = [partial(subject.append, session) for session in sessions]
    await timed(appends, 50)
    found = await timed(appends)
    cells += [cell(seconds) for seconds in found]
    cells.append(f"{percentile(found[-1], 0.99) / percentile(found[0], 0.99):.2f}")
    session = secrets.token_hex(8)
    await short.fill(session, 50)
    for act in (short.read, short.refill):
        cells.append(cell((await timed([partial(act, session)]))[0]) if act else "-")
    return f"| {' | '.join(cells)} |"


@asynccontextmanager
async def subjects(
    folder: Path, valkey_url: str, postgresql_url: str | None
) -> AsyncIterator[list[tuple[str, Subject, Subject]]]:
    """Open all stores."""
    unlimited = 1_000_000
    async with AsyncExitStack() as stack:
        long = await stack.enter_async_context(open_redis(valkey_url, max_messages=unlimited))
        usual = await stack.enter_async_context(open_redis(valkey_url))
        found = [
            (
                "window, memory",
                of_window(MemoryStore(max_messages=unlimited).window),
                of_window(MemoryStore().window),
            ),
            ("window, Valkey", of_window(long.window), of_window(usual.window)),
        ]
        urls = {"archive, SQLite": f"sqlite:///{folder}/bench.db"}
        if postgresql_url:
            urls["archive, PostgreSQL"] = postgresql_url
        for name, url in urls.items():
            await asyncio.to_thread(migrate, url)
            archive = of_archive(await stack.enter_async_context(open_sql(url)))
            found.append((name, archive, archive))
        yield found


async def _rows(folder: Path, valkey_url: str, postgresql_url: str | None) -> list[str]:
    async with subjects(folder, valkey_url, postgresql_url) as found:
        return [await row(*each) for each in found]


def report() -> list[str]:
    """Return the lines of a table."""
    with ExitStack() as stack:
        data = stack.enter_context(DataDir(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        valkey = stack.enter_context(EmbeddedValkey(data))
        where = programs()
        url = stack.enter_context(private_postgresql(where, fsync=True)) if where else None
        rows = asyncio.run(_rows(data.path, valkey.url, url))
    return [
        f"### History: {APPENDS} appends of {TASKS} tasks, and single appends to histories of growing length",
        "",
        "| p50 / p99 ms | appends a second | to 10 | to 1,000 | to 100,000 | p99 : p99 | read 50 | refill |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        *([] if url else ["", "PostgreSQL was not installed."]),
    ]
