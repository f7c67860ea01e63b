"""Run all measurements and print them as docs/benchmarks.md shows them."""

from __future__ import annotations

from benchmarks import stores, turns


def main() -> None:
    """Print the tables."""
    for measured in (turns.report(), stores.report()):
        print("\n".join(measured), end="\n\n")


if __name__ == "__main__":
    main()
