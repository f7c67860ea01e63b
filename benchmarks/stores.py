"""What the stores carry: appends to one user's log and history."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.figures import spread
from mcp_chat.embedded import DataDir, EmbeddedValkey
from mcp_chat.events import Entry, TextDelta
from mcp_chat.message import Message
from mcp_chat.stores.base import Store
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import open_redis
from mcp_chat.stores.sql import migrate, open_sql

APPENDS = 1000


async def timed(act: Callable[[int], Awaitable[None]]) -> list[float]:
    """Return the seconds of each of many calls, one after the other."""
    times = []
    for n in range(APPENDS):
        began = time.perf_counter()
        await act(n)
        times.append(time.perf_counter() - began)
    return times


async def log_of(store: Store) -> list[float]:
    """Append events."""
    lease = await store.leases.claim("bench", "w", floor=1, seen=None)
    assert lease is not None

    async def append(n: int) -> None:
        entry = Entry(id=f"{lease.epoch}-{n + 1}", command_id="c", event=TextDelta(text="word "))
        await store.log.append("bench", lease.epoch, [entry])

    return await timed(append)


async def archive_of(url: str) -> list[float]:
    """Append messages."""
    async with open_sql(url) as archive:
        epoch = await archive.next_epoch("bench", 1)

        async def append(_: int) -> None:
            message = Message(role="user", content="a message of some words")
            await archive.append("bench", "session", [message], epoch=epoch)

        return await timed(append)


async def _measure(folder: Path, valkey_url: str) -> dict[str, list[float]]:
    url = f"sqlite:///{folder}/bench.db"
    await asyncio.to_thread(migrate, url)
    async with open_redis(valkey_url) as store:
        return {
            "event log, memory": await log_of(MemoryStore()),
            "event log, Valkey": await log_of(store),
            "archive, SQLite": await archive_of(url),
        }


def report() -> list[str]:
    """Return the lines of a table."""
    with tempfile.TemporaryDirectory() as name, DataDir(Path(name)) as data, EmbeddedValkey(data) as valkey:
        measured = asyncio.run(_measure(data.path, valkey.url))
    rows = [
        f"| {what} | {spread(times)} | {len(times) / sum(times):.0f} |" for what, times in measured.items()
    ]
    return [
        f"### {APPENDS} appends one after the other, one user",
        "",
        "| | p50 ms | p99 ms | a second |",
        "|---|---|---|---|",
        *rows,
    ]
