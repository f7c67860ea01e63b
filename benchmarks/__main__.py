"""Run all measurements, or those named, and print them as docs/benchmarks.md shows them."""

from __future__ import annotations

import sys

from benchmarks import history, ownership, stores, turns

PARTS = {
    "turns": turns.report,
    "stores": stores.report,
    "history": history.report,
    "ownership": ownership.report,
}


def main() -> None:
    """Print the tables."""
    names = sys.argv[1:] or list(PARTS)
    if unknown := set(names) - set(PARTS):
        sys.exit(f"There is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}.")
    for name in names:
        print("\n".join(PARTS[name]()), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
