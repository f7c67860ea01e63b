"""``python -m tests.soak --turns 100000 --workers 4 --users 50 --seed 7``."""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Plan, run


def main() -> int:
    """Run, tell what came of it, and keep what was written if something is wrong."""
    options = _parser().parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    plan = Plan(turns=options.turns, workers=options.workers, users=options.users, seed=options.seed)
    sys.stdout.write(f"seed: {plan.seed}\nfolder: {folder}\n")
    sys.stdout.flush()
    report = run(plan, folder)
    sys.stdout.write(f"{report}\n")
    if report.findings.count:
        return 1
    shutil.rmtree(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--turns", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
    return parser


if __name__ == "__main__":
    sys.exit(main())
