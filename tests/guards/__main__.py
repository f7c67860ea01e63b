"""`make guards`: take each guard out, and see its test fail. Arguments choose items: `R6 R9`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.guards.run import check
from tests.guards.table import APART, GUARDS


def say(line: str) -> None:
    """Write a line at once: the next one may take a while."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(items: list[str]) -> int:
    """Print a table; return 1 if a guard is not proven."""
    if unknown := set(items) - {guard.item for guard in GUARDS}:
        say(f"There is no guard for {', '.join(sorted(unknown))}.")
        return 2
    chosen = [guard for guard in GUARDS if not items or guard.item in items]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="guards-") as directory:
        for outcome in check(chosen, Path(directory)):
            mark = "ok  " if outcome.proven else "FAIL"
            missed += not outcome.proven
            guard = outcome.guard
            say(f"{mark} {guard.item:<4} {outcome.seconds:5.1f} s  {guard.file}")
            say(f"          {guard.test}: {outcome.said}")
    for item, why in () if items else APART.items():
        say(f"--   {item:<4} {why}")
    say(f"{len(chosen) - missed} of {len(chosen)} guards are proven by their tests.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
