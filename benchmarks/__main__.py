"""Run all measurements and print them as docs/benchmarks.md shows them."""

from __future__ import annotations

from benchmarks import history, stores, turns


def main() -> None:
    """Print the tables."""
    for measure in (turns.report, stores.report, history.report):
        print("\n".join(measure()), end="\n\n")


if __name__ == "__main__":
    main()
