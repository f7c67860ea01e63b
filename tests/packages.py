"""What other people wrote and tests run: npm packages and Python packages, each exactly as its lock says."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.conftest import missing, need

TESTS = Path(__file__).parent
CACHE = TESTS.parent / ".cache"
SCOPE = Path("node_modules", "@modelcontextprotocol")


@contextmanager
def only_one(place: Path) -> Iterator[None]:
    """Hold a folder for oneself: another test run may be at it."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def npm_packages() -> Path:
    """Install the npm packages once; return their folder."""
    npm, place = need("npm"), CACHE / "npm"
    wanted = (TESTS / "npm" / "package-lock.json").read_text()
    with only_one(place):
        installed = place / "installed"
        if not installed.exists() or installed.read_text() != wanted:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(TESTS / "npm" / name, place)
            run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], place)
            installed.write_text(wanted)
    return place


def run(command: list[str], place: Path) -> None:
    """Run an installer; one that cannot reach its registry leaves the test without its packages."""
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode:
        missing(f"{Path(command[0]).name} {command[1]} (it says: {done.stderr.strip()[-300:]})")


def node() -> Path:
    """Return Node 22: the suite does not start on the one that Debian has."""
    found = [*npm_packages().glob("node_modules/node-*/bin/node")]
    return found[0] if found else missing("Node 22 for this machine")


def script(name: str, path: str = "dist/index.js") -> Path:
    """Return the script of a package of the MCP project."""
    return npm_packages() / SCOPE / name / path
