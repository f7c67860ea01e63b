"""``python -m tests.chaos --operations 10000 --seed 7 --workers 4 --nemesis all``."""

from __future__ import annotations

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos import unfenced
from tests.chaos.run import Plan, judge, run


def main() -> int:
    """Run, tell what came of it, and keep the journals if something is wrong."""
    options = _parser().parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):  # a job in the background ignores the latter, and so would
        signal.signal(number, signal.default_int_handler)  # all that it starts and interrupts
    if options.judge:
        report = judge(options.judge)
        sys.stdout.write(f"{report}\n")
        return int(bool(report.violations))
    wanted = () if options.nemesis == "all" else tuple(filter(None, options.nemesis.split(",")))
    plan = Plan(
        operations=options.operations,
        seed=options.seed,
        workers=options.workers,
        users=options.users,
        nemesis=wanted,
        env=unfenced.ENV if options.unfenced else {},
    )
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    sys.stdout.write(f"seed: {plan.seed}\njournals: {folder}\n")
    sys.stdout.flush()
    report = run(plan, folder)
    sys.stdout.write(f"{report}\n")
    if report.violations:
        return 1
    shutil.rmtree(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument(
        "--nemesis",
        default="all",
        help="faults or kinds of faults with commas: kill, stop, reload, redis, network, none (default: all)",
    )
    parser.add_argument("--unfenced", action="store_true", help="let every epoch write: violations must show")
    parser.add_argument("--judge", type=Path, help="only judge the journals in this directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
