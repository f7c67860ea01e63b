"""Run all measurements, or those named, and print them as docs/benchmarks.md shows them."""

from __future__ import annotations

import sys

from benchmarks import compare, growth, history, mcp, ownership, plugins, stores, tab, tokens, turns

PARTS = {
    "compare": compare.report,
    "growth": growth.report,
    "turns": turns.report,
    "tokens": tokens.report,
    "stores": stores.report,
    "history": history.report,
    "mcp": mcp.report,
    "ownership": ownership.report,
    "plugins": plugins.report,
    "tab": tab.report,
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
