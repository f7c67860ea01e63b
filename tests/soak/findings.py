"""What a run has done and found, as it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

MOST, MOST_OF_A_KIND = 1000, 10
"""Violations that are kept, in all and of each place; all are counted."""


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
    _places: Counter[str] = field(default_factory=Counter)

    def blame(self, where: str, violations: Iterable[str]) -> None:
        """Add violations that were found in a place."""
        for violation in violations:
            self.count += 1
            self._places[where] += 1
            if len(self.violations) < MOST and self._places[where] <= MOST_OF_A_KIND:
                self.violations.append(f"{where}: {violation}")
