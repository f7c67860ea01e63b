"""What plugins add to a turn: at its doors alone, and between two installations that are asked in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import anyio
import yaml

from benchmarks.figures import percentile, spread
from benchmarks.turns import model_server
from mcp_chat import logs
from mcp_chat.message import Message
from mcp_chat.metrics import Metrics
from mcp_chat.models.base import Piece, Request
from mcp_chat.plugins.base import Occasion
from mcp_chat.plugins.doors import MOST, doors_of
from mcp_chat.plugins.held import unheard
from mcp_chat.plugins.opening import open_plugins
from mcp_chat.settings import load_settings
from tests.installation import Installation
from tests.person import Person
from tests.plugged import REPOSITORY, example

TURNS = 100
ALONE = 400
"""Turns that are nothing but doors."""
FIRST = 10
"""Turns that are not measured: everything is done for the first time in them."""

EXAMPLES = ("ToolAllowList", "DayBudget", "SecretsDetection", "PIIRedaction", "AuditFile")
MESSAGES = [Message(role="system", content="You help."), Message(role="user", content="go")]
ANSWER = ["word "] * 99 + ["end."]

AT_A_TURN = "benchmarks.five_plugins.AtTurns"

IMPORTED = """
import sys
from mcp_chat.app import create_app
create_app()
print(sum(name.partition(".")[0] == "cpex" for name in sys.modules), len(sys.modules))
"""


def examples() -> list[dict[str, Any]]:
    """Return five of the examples, switched on; one of them looks at tool calls alone."""
    listening = {"AuditFile": {"mode": "fire_and_forget"}}
    return [example(name, **listening.get(name, {})) for name in EXAMPLES]


def plain() -> list[dict[str, Any]]:
    """Return five plugins that change nothing, each asked before a turn and behind it."""
    hooks = ["agent_pre_invoke", "agent_post_invoke"]
    return [{"name": f"plain-{n}", "kind": AT_A_TURN, "hooks": hooks, "mode": "sequential"} for n in range(5)]


def configured(folder: Path, plugins: Sequence[Mapping[str, Any]]) -> Path:
    """Write a configuration; return where it is."""
    path = folder / "plugins.yaml"
    path.write_text(yaml.safe_dump({"plugins": list(plugins)}))
    return path


async def doors(path: Path | None) -> list[float]:
    """Return the seconds of CPU that the doors of a turn take, of many turns."""
    given = {"plugins_enabled": True, "plugins_config_file": path} if path else {}
    settings = load_settings(workers=1, **given)
    times = []
    async with open_plugins(settings, Metrics()) as plugins:
        for _ in range(ALONE):
            began = time.process_time()
            opened = doors_of(plugins, Occasion(request_id="turn", user="bench"), hold="sentence", most=MOST)
            shown, _ = await opened.agent.before(
                MESSAGES, servers=[], tools=["add"], model="scripted", temperature=None, today=_today
            )
            await opened.model.asked(Request(messages=shown))
            async for _ in opened.model.answered(_pieces(), unheard):
                pass
            times.append(time.process_time() - began)
    return times[FIRST:]


def _heard(piece: Piece) -> None:
    """Nobody counts what is said here."""


async def _today() -> Mapping[str, float]:
    return {"tokens": 1, "dollars": 0.0, "calls": 0}


async def _pieces() -> AsyncGenerator[Piece]:
    for word in ANSWER:
        yield Piece(text=word)


def turn(person: Person) -> float:
    """Return the seconds that a streamed turn takes."""
    began = time.perf_counter()
    with person.streaming("go") as frames:
        for _ in frames:
            pass
    return time.perf_counter() - began


def turns(folder: Path, path: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of turns without plugins and with them."""
    env: dict[str, Any] = {
        "PLUGINS_ENABLED": "true",
        "PLUGINS_CONFIG_FILE": str(path),
        "PYTHONPATH": str(REPOSITORY),
    }
    one, two = folder / "one", folder / "two"
    one.mkdir()
    two.mkdir()
    with model_server() as url, Installation(one, url) as bare, Installation(two, url, **env) as plugged:
        people = [each.person("bench") for each in (bare, plugged)]
        for person in people:
            person.connect()
        pairs = [[turn(person) for person in people] for _ in range(TURNS)][FIRST:]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def imported() -> tuple[int, int]:
    """Return how many modules of the framework an application without plugins loads, and how many in all."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "GUNICORN_WORKERS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", IMPORTED], env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    return int(found[0]), int(found[1])


def report() -> list[str]:
    """Return the lines of a table."""
    logs.set_up("error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with chdir(folder):  # where a plugin of the examples writes
            sys.path.append(str(REPOSITORY))
            alone = [
                anyio.run(doors, None),
                anyio.run(doors, configured(folder, plain())),
                anyio.run(doors, configured(folder, examples())),
            ]
        without, with_five = turns(folder, configured(folder, plain()))
    ours, all_of_it = imported()
    titles = (
        "none",
        "five that listen at both ends of a turn",
        "five of the examples, two of them at messages",
    )
    added = percentile(with_five, 0.5) - percentile(without, 0.5)
    return [
        f"### Plugins: the doors of a turn of 100 words alone, {ALONE} times, and {TURNS} whole turns",
        "",
        "| CPU ms at the doors | p50 | p99 |",
        "|---|---|---|",
        *(f"| {title} | {spread_finely(times)} |" for title, times in zip(titles, alone, strict=True)),
        "",
        "| ms | without p50 | p99 | with five p50 | p99 | added at p50 |",
        "|---|---|---|---|---|---|",
        f"| whole turn, streamed, two workers | {spread(without)} | {spread(with_five)} | {added:+.1f} |",
        "",
        f"Without plugins an application has loaded {ours} modules of the framework among its {all_of_it:,}.",
    ]


def spread_finely(times: Sequence[float]) -> str:
    """Return p50 and p99 as a table's cells, in hundredths of a millisecond."""
    return f"{percentile(times, 0.5):.2f} | {percentile(times, 0.99):.2f}"
