"""What a run has done and found, as it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MOST: Final = 200
"""Violations that are kept; all are counted."""


@dataclass(slots=True)
class Findings:
    """Counts, and what must not be.

    Attributes:
        deeds: How often each thing was done.
        answers: How many answers had each status; 0 for none at all.
        searched: Bytes that were searched, by where they were.
    """

    turns: int = 0
    whole: int = 0
    deeds: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    searched: Counter[str] = field(default_factory=Counter)
    count: int = 0
    violations: list[str] = field(default_factory=list)

    def blame(self, where: str, violations: Iterable[str]) -> None:
        """Add violations that were found in a place."""
        for violation in violations:
            self.count += 1
            if len(self.violations) < MOST:
                self.violations.append(f"{where}: {violation}")
