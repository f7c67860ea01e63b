"""What the stores carry: appends to one user's log of events."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.figures import spread
from mcp_chat.embedded import DataDir, EmbeddedValkey
from mcp_chat.events import Entry, TextDelta
from mcp_chat.stores.base import Store
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import open_redis

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


async def _measure(valkey_url: str) -> dict[str, list[float]]:
    async with open_redis(valkey_url) as store:
        return {"event log, memory": await log_of(MemoryStore()), "event log, Valkey": await log_of(store)}


def report() -> list[str]:
    """Return the lines of a table."""
    with tempfile.TemporaryDirectory() as name, DataDir(Path(name)) as data, EmbeddedValkey(data) as valkey:
        measured = asyncio.run(_measure(valkey.url))
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
