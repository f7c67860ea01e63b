"""Takes guards out of a copy of the project, one at a time, and runs the test of each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.guards.table import Guard

ROOT = Path(__file__).parents[2]
PARTS = ("mcp_chat", "tests", "config", "docs", "benchmarks")
PATIENCE = 120.0
"""Seconds that one test may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What taking a guard out has shown.

    Attributes:
        proven: Whether its test failed then, and only then.
        said: What is to be known about it.
        seconds: How long that took.
    """

    guard: Guard
    proven: bool
    said: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What pytest said of some tests."""

    output: str

    def count(self, how: str, test: str) -> int:
        """Return how many cases of a test have ended so: `PASSED` or `FAILED`."""
        return len(re.findall(rf"^{how} {re.escape(test)}(?![\w])", self.output, re.MULTILINE))


class Copy:
    """The project in another directory, where it may be broken.

    Args:
        directory: An empty one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        for part in PARTS:
            shutil.copytree(ROOT / part, directory / part, ignore=ignored)
        for file in (*ROOT.glob("*.toml"), *ROOT.glob("*.md"), ROOT / ".env.example", ROOT / "Makefile"):
            shutil.copy(file, directory / file.name)

    @contextmanager
    def without(self, guard: Guard) -> Iterator[None]:
        """Have it without a guard.

        Raises:
            LookupError: The guard is not where the table says; the text says what to do.
            SyntaxError: What the table puts in its place is no Python.
        """
        path = self._directory / guard.file
        whole = path.read_text() if path.is_file() else ""
        broken = changed(whole, guard)
        if path.suffix == ".py":
            compile(broken, str(path), "exec")
        self._write(path, broken)
        try:
            yield
        finally:
            self._write(path, whole)

    def _write(self, path: Path, text: str) -> None:
        """Change a file, and its time for certain: what is compiled of it is found by that."""
        before = path.stat().st_mtime
        path.write_text(text)
        os.utime(path, (before + 2, before + 2))

    def run(self, tests: Sequence[str], *options: str) -> Ran:
        """Run tests; one that does not end has neither passed nor failed."""
        environ = {**os.environ, "CI": "1", "PYTHONPATH": str(self._directory)}
        pytest = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--tb=line"]
        try:
            done = subprocess.run(
                [*pytest, *options, *tests],
                cwd=self._directory,
                env=environ,
                capture_output=True,
                text=True,
                timeout=PATIENCE * len(tests),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Ran("It did not end.")
        return Ran(done.stdout)


def changed(text: str, guard: Guard) -> str:
    """Return a file's text without a guard.

    Raises:
        LookupError: It is not there, or more than once.
    """
    for old, new in ((guard.old, guard.new), *guard.also):
        if (found := text.count(old)) != 1:
            raise LookupError(
                f"{old.strip()!r} is {found} times in {guard.file} and must be there once: "
                "has it moved? mend tests/guards/table.py"
            )
        text = text.replace(old, new)
    return text


def check(guards: Sequence[Guard], directory: Path) -> Iterator[Outcome]:
    """Take each guard out; yield what that has shown, one by one."""
    copy = Copy(directory)
    whole = copy.run(sorted({guard.test for guard in guards}))
    for guard in guards:
        if whole.count("PASSED", guard.test) and not whole.count("FAILED", guard.test):
            yield _without(copy, guard)
        else:
            said = f"its test does not pass as it is:\n{whole.output[-3000:]}"
            yield Outcome(guard=guard, proven=False, said=said)


def _without(copy: Copy, guard: Guard) -> Outcome:
    began = time.monotonic()
    try:
        with copy.without(guard):
            ran = copy.run([guard.test], "--maxfail=1")
    except (LookupError, SyntaxError) as error:
        return Outcome(guard=guard, proven=False, said=str(error))
    proven = ran.count("FAILED", guard.test) > 0
    said = "fails" if proven else f"its test does not notice:\n{ran.output[-3000:]}"
    return Outcome(guard=guard, proven=proven, said=said, seconds=time.monotonic() - began)
