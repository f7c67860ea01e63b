"""Times into figures."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(times: Sequence[float], share: float) -> float:
    """Return the time that a share of all times does not exceed, in milliseconds."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def spread(times: Sequence[float]) -> str:
    """Return p50 and p99 as a table's cells."""
    return f"{percentile(times, 0.5):.1f} | {percentile(times, 0.99):.1f}"
