"""The official conformance suite of the MCP project, run against our own connections."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import yaml

from tests.packages import node, script

REPOSITORY: Final = Path(__file__).parents[2]
CLIENT_SECONDS: Final = 600
"""Until the last of the suite's clients has ended: they wait for one another."""

PASSED: Final = re.compile(r"^✓ (\S+): [1-9]\d* passed, 0 failed$", re.MULTILINE)


def required(revision: str) -> set[str]:
    """Return what a client of a revision must be able to do, as the suite has it."""
    frozen = script("conformance", f"requirements/{revision}.yaml")
    return set(yaml.safe_load(frozen.read_text())["client"])


def conform(revision: str, place: Path) -> subprocess.CompletedProcess[str]:
    """Run what a revision requires. No failure is expected, so none is excused."""
    queue = [sys.executable, "-m", "tests.conformance.one_at_a_time", str(place / "turn")]
    client = [*queue, sys.executable, "-m", "tests.conformance.client"]
    suite = [str(node()), str(script("conformance")), "client", "--requirements", revision]
    return subprocess.run(
        [*suite, "--command", shlex.join(client), "--timeout", str(CLIENT_SECONDS * 1000)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )


def passes(revision: str, scenarios: int, place: Path) -> None:
    """Fail unless each scenario that a revision requires of a client passes.

    Args:
        revision: Of the protocol.
        scenarios: How many it requires.
        place: A folder of this run alone, where its clients queue.
    """
    wanted = required(revision)
    assert len(wanted) == scenarios
    done = conform(revision, place)
    open_ones = wanted - set(PASSED.findall(done.stdout))
    assert not open_ones, f"{sorted(open_ones)}\n{done.stdout[-4000:]}\n{done.stderr[-20_000:]}"
    assert done.returncode == 0, done.stdout[-4000:]
