"""One run: the product, its far sides, its users; and searches of all that it leaves behind."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import urlsplit

import httpx
import orjson
from redis import Redis

from tests.chaos.world import ROOT, Listener, Valkey, module
from tests.installation import Installation
from tests.soak import search
from tests.soak.canary import OPERATOR, Canary, secrets
from tests.soak.findings import Findings
from tests.soak.gauge import Gauge
from tests.soak.user import Scene, User, settled

SEARCHES: Final = 4
"""How often everything is searched while the users are busy; and once more at the end."""
ENV: Final = {
    "PYTHONPATH": str(ROOT),
    "MCP_CHAT_DEMO_SERVER": "false",
    "MCP_CHAT_ALLOWED_NETWORKS": "127.0.0.0/8",
    "MCP_CHAT_LOG_LEVEL": "debug",
    "MCP_CHAT_REQUESTS_PER_MINUTE": "0",
    "LLMCHAT_CHAT_HISTORY_MAX_MESSAGES": "12",
    "SOAK_KEY": str(Canary(OPERATOR, "key", 0)),
    "SOAK_TOKEN_1": str(Canary(OPERATOR, "tok", 1)),
    "SOAK_TOKEN_2": str(Canary(OPERATOR, "tok", 2)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be run.

    Attributes:
        env: More environment variables of the product.
    """

    turns: int
    workers: int = 4
    users: int = 50
    seed: int = 0
    env: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of it."""

    plan: Plan
    findings: Findings
    outbound: int
    seconds: float
    gauges: list[str]

    def __str__(self) -> str:
        found = self.findings
        return "\n".join(
            [
                f"turns: {found.turns} in {self.seconds:.0f} s, {found.turns / self.seconds:.1f} a second; "
                f"{found.whole} were read to the end",
                f"deeds: {_counts(found.deeds)}",
                f"answers: {_counts(found.answers)}",
                f"outbound requests: {self.outbound}",
                f"bytes searched: {_counts(found.searched)}",
                *self.gauges,
                f"violations: {found.count}",
                *found.violations,
                self.line(),
            ]
        )

    def line(self) -> str:
        """What a document quotes."""
        found = self.findings
        return "soak " + json.dumps(
            {
                "turns": found.turns,
                "workers": self.plan.workers,
                "users": self.plan.users,
                "seed": self.plan.seed,
                "cancels": found.deeds["stop"],
                "hang_ups": found.deeds["hang up"] + found.deeds["come back"] + found.deeds["watch"],
                "reconnects": found.deeds["come anew"],
                "outbound": self.outbound,
                "bytes": found.searched.total(),
                "violations": found.count,
                "at_most_95": 3 / found.turns if found.turns and not found.count else None,
                "seconds": round(self.seconds),
            }
        )


def _counts(counts: dict[str, int] | dict[int, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items(), key=lambda c: -c[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FarSides:
    """What the product talks to."""

    valkey: Valkey
    model: Listener
    tools: tuple[Listener, Listener]

    @property
    def model_url(self) -> str:
        """The model's base URL."""
        return f"http://127.0.0.1:{self.model.port}/v1"

    def servers(self) -> dict[str, str]:
        """The addresses of the MCP servers by their aliases."""
        return {
            alias: f"http://127.0.0.1:{tools.port}/mcp"
            for alias, tools in zip(("one", "two"), self.tools, strict=True)
        }


def run(plan: Plan, folder: Path) -> Report:
    """Run a plan in a folder, where everything stays that the product wrote."""
    with _far_sides(folder) as far:
        product = folder / "product"
        product.mkdir()
        url = f"redis://127.0.0.1:{far.valkey.port}/0"
        servers = {
            alias: {"url": url, "headers": {"Authorization": f"Bearer ${{SOAK_TOKEN_{place}}}"}}
            for place, (alias, url) in enumerate(far.servers().items(), 1)
        }
        env = {**ENV, "REDIS_URL": url, **(plan.env or {})}
        installation = Installation(product, far.model_url, workers=plan.workers, servers=servers, **env)
        with (product / "models.yaml").open("a") as models:
            models.write("    api_key_env: SOAK_KEY\n")
        with installation:
            return asyncio.run(_Run(plan, folder, far, installation).run())


@contextmanager
def _far_sides(folder: Path) -> Iterator[FarSides]:
    def start(name: str, **options: object) -> Listener:
        home = folder / f"{name}-{options.get('place', 0)}"
        home.mkdir()
        return stack.enter_context(module(name, home, package="tests.soak", **options))

    with ExitStack() as stack:
        yield FarSides(
            valkey=stack.enter_context(Valkey(folder)),
            model=start("model"),
            tools=(start("tools", place=1), start("tools", place=2, sessions=1)),
        )


class _Run:
    """The part that runs in an event loop."""

    def __init__(self, plan: Plan, folder: Path, far: FarSides, installation: Installation) -> None:
        self._plan = plan
        self._folder = folder
        self._far = far
        self._installation = installation
        self._findings = Findings()
        self._stopped = False
        self._read: dict[Path, int] = {}

    async def run(self) -> Report:
        began = time.monotonic()
        with suppress(NotImplementedError):
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self._stop)
        gauge = Gauge(self._installation.workers)
        beside = [asyncio.create_task(gauge.run()), asyncio.create_task(self._now_and_then())]
        try:
            await settled(self._users())
        finally:
            seconds = time.monotonic() - began
            for task in beside:
                task.cancel()
            ends = await asyncio.gather(*beside, return_exceptions=True)
            self._findings.blame("search", (repr(end) for end in ends if isinstance(end, Exception)))
        await asyncio.to_thread(self._search)
        return Report(
            plan=self._plan,
            findings=self._findings,
            outbound=self._ask_the_far_sides(),
            seconds=seconds,
            gauges=list(gauge.lines()),
        )

    def _stop(self) -> None:
        self._stopped = True

    def _users(self) -> list[User]:
        door = urlsplit(self._installation.url)
        scene = Scene(
            host=door.hostname or "",
            port=door.port or 0,
            model_url=self._far.model_url,
            servers=self._far.servers(),
            findings=self._findings,
            more=lambda: not self._stopped and self._findings.turns < self._plan.turns,
        )
        numbers = range(1, self._plan.users + 1)
        return [User(number, scene, Random(f"{self._plan.seed} {number}")) for number in numbers]

    async def _now_and_then(self) -> None:
        """Search while the users are busy."""
        for place in range(1, SEARCHES + 1):
            while self._findings.turns < place * self._plan.turns / (SEARCHES + 1):  # noqa: ASYNC110 - a count
                await asyncio.sleep(0.5)
            await asyncio.to_thread(self._search)

    def _search(self) -> None:
        """Search everything that the product has written anywhere."""
        blame, searched = self._findings.blame, self._findings.searched
        for log in (
            self._installation.output,
            self._installation.errors,
            *self._installation.data.glob("*.log"),
        ):
            begin = self._read.get(log, 0)
            self._read[log] = log.stat().st_size
            for piece in search.in_pieces(log, begin):
                searched["logs"] += len(piece)
                blame(f"log {log.name}", search.any_mark(piece))
        blame(
            "metrics",
            search.any_mark(httpx.get(f"{self._installation.url}/metrics", trust_env=False).content),
        )
        for file in (*self._folder.glob("valkey/**/*.aof"), *self._installation.data.glob("mcp-chat.db*")):
            for piece in search.in_pieces(file):
                searched["files"] += len(piece)
                blame(f"file {file.name}", secrets(piece))
        with Redis(port=self._far.valkey.port, decode_responses=False) as client:
            blame("Valkey", search.redis(client, searched))
        blame("database", search.database(self._installation.data / "mcp-chat.db", searched))
        family = [self._installation.process.pid, *(worker.pid for worker in self._installation.family())]
        blame("processes", search.processes(family, searched))

    def _ask_the_far_sides(self) -> int:
        requests = 0
        for listener in (self._far.model, *self._far.tools):
            url = f"http://127.0.0.1:{listener.port}/tally"
            tally = orjson.loads(httpx.get(url, trust_env=False).content)
            requests += tally["requests"]
            self._findings.blame(f"outbound to {listener.name}", tally["violations"])
            self._findings.count += tally["count"] - len(tally["violations"])
        return requests
