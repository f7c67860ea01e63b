"""One run: the product, what surrounds it, its users and its nemesis; then the judge."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx
import orjson
from redis.asyncio import Redis

from tests.chaos.checker import Evidence, violations
from tests.chaos.client import BROKEN, Door, User
from tests.chaos.journal import Fault, Journal, Kept, Shown, now, read
from tests.chaos.nemesis import Nemesis
from tests.chaos.tail import Tail
from tests.chaos.world import ROOT, World, surroundings
from tests.installation import Installation

BOUND: Final = 30.0
"""Seconds after the last fault in which every turn must have its end."""
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 10.0
"""A reader who hears nothing for so long, not even a heartbeat, tries another connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run.

    Attributes:
        nemesis: Names of faults or of their kinds; empty for all.
        env: More environment variables of the product.
    """

    operations: int
    seed: int = 0
    workers: int = 4
    users: int = 24
    nemesis: Sequence[str] = ()
    env: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it."""

    operations: int
    acknowledged: int
    faults: Counter[str]
    violations: list[str]
    seconds: float

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())) or "none"
        lines = [
            f"operations: {self.operations} in {self.seconds:.0f} s, {self.acknowledged} acknowledged",
            f"faults: {self.faults.total()} ({faults})",
            f"violations: {len(self.violations)}",
            *self.violations[:50],
        ]
        return "\n".join(lines)


def run(plan: Plan, folder: Path) -> Report:
    """Run a plan and judge it; the journals stay in the folder."""
    env = {"PYTHONPATH": str(ROOT), "MCP_CHAT_DEMO_SERVER": "false", **(plan.env or {})}
    began = now()
    with surroundings(folder, seed=plan.seed) as world:
        servers = {"recorder": {"url": world.recorder_url, "safe_tools": ["look"]}}
        product = folder / "product"
        product.mkdir()
        with Installation(
            product, world.model_url, workers=plan.workers, servers=servers, REDIS_URL=world.redis_url, **env
        ) as installation:
            asyncio.run(_Run(plan, folder, world, installation).run())
    report = judge(folder, seconds=now() - began)
    (folder / "violations.txt").write_text("".join(f"{violation}\n" for violation in report.violations))
    return report


def judge(folder: Path, *, seconds: float = 0) -> Report:
    """Judge the journals in a folder."""
    records = list(read(sorted(folder.glob("*.jsonl"))))
    evidence = Evidence.of(records)
    return Report(
        operations=len(evidence.sent) + len(evidence.left),
        acknowledged=sum(sent.acked is not None for sent in evidence.sent),
        faults=Counter(record.name for record in records if isinstance(record, Fault)),
        violations=violations(evidence),
        seconds=seconds,
    )


class _Run:
    """The part that runs in an event loop."""

    def __init__(self, plan: Plan, folder: Path, world: World, installation: Installation) -> None:
        self._plan = plan
        self._folder = folder
        self._world = world
        self._installation = installation
        self._names = [f"user-{place}" for place in range(plan.users)]
        self._ops = itertools.count(1)

    async def run(self) -> None:
        async with self._redis() as redis, self._http() as http:
            with self._journal("clients") as clients, self._journal("log") as log:
                tail = Tail(redis, log, self._names)
                reading = asyncio.create_task(tail.run())
                await self._live([self._user(name, http, clients) for name in self._names], redis, tail)
                await tail.look()
                await _cancelled(reading)
            with self._journal("end") as end:
                await self._look_at_the_end(http, end)

    def _journal(self, name: str) -> Journal:
        return Journal(self._folder / f"{name}.jsonl")

    async def _live(self, users: list[User], redis: Redis, tail: Tail) -> None:
        with self._journal("faults") as faults:
            nemesis = Nemesis(
                self._installation,
                self._world,
                redis=redis,
                tail=tail,
                journal=faults,
                random=self._random("nemesis"),
                users=self._names,
                wanted=self._plan.nemesis,
            )
            breaking = asyncio.create_task(nemesis.run())
            try:
                await asyncio.gather(*(user.run() for user in users))
            finally:
                await _cancelled(breaking)
        await asyncio.gather(*(user.settle(BOUND) for user in users))

    def _user(self, name: str, http: httpx.AsyncClient, journal: Journal) -> User:
        return User(Door(http, name), journal, self._random(name), self._next_op)

    def _next_op(self) -> int | None:
        op = next(self._ops)
        return op if op <= self._plan.operations else None

    def _random(self, name: str) -> Random:
        return Random(f"{self._plan.seed} {name}")

    @asynccontextmanager
    async def _redis(self) -> AsyncIterator[Redis]:
        redis = Redis(port=self._world.valkey.port, decode_responses=True, protocol=3, legacy_responses=False)
        try:
            yield redis
        finally:
            await redis.aclose()

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._installation.url,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
            verify=False,
        )

    async def _look_at_the_end(self, http: httpx.AsyncClient, journal: Journal) -> None:
        sessions: dict[str, set[str]] = {}
        for kept in kept_in(self._installation.data / "mcp-chat.db"):
            journal.write(kept)
            sessions.setdefault(kept.user, set()).add(kept.session)
        for user, ids in sessions.items():
            door = Door(http, user)
            await door.sign_in()
            for session in sorted(ids):
                journal.write(await _shown(door, session))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _shown(door: Door, session: str) -> Shown:
    """Ask for a conversation until there is an answer."""
    async with asyncio.timeout(BOUND):
        while True:
            with contextlib.suppress(*BROKEN):
                response = await door.get(f"history/{door.user}", session_id=session)
                if response.status_code == 200:
                    return Shown(user=door.user, session=session, messages=response.json()["messages"])
            await asyncio.sleep(0.1)


def kept_in(database: Path) -> list[Kept]:
    """Read all messages, in order."""
    statement = "SELECT user_key, session_id, body FROM chat_message ORDER BY seq"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows: list[tuple[str, str, Any]] = connection.execute(statement).fetchall()
    return [Kept(user=user, session=session, message=orjson.loads(body)) for user, session, body in rows]
