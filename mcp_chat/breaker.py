"""Leaves alone what fails again and again: nobody waits for it, and it is asked no more but for a probe.

The libraries for this count whoever is cancelled as a failure, let everybody through at once when the rest is
over (purgatory), want Tornado (pybreaker), or have not been kept for years (aiobreaker).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MOST = 10_000
"""Breakers that are kept; those that were used last."""


class Resting(Exception):
    """It is left alone for so many seconds more."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Endurance:
    """When enough is enough.

    Attributes:
        failures: So many, one behind the other, and it is left alone; 0 for never.
        window: Seconds in which they must come.
        rest: Seconds that it is left alone.
    """

    failures: int = 5
    window: float = 120.0
    rest: float = 30.0


NEVER = Endurance(failures=0)


class Breaker:
    """Of one thing that may fail: a provider's model, a server.

    Args:
        endurance: When it is left alone, and for how long.
        clock: Seconds that only rise.
        opened: Is called whenever it begins to be left alone.
    """

    def __init__(
        self,
        endurance: Endurance = NEVER,
        *,
        clock: Callable[[], float] = time.monotonic,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        self._endurance = endurance
        self._clock = clock
        self._opened = opened
        self._failures: deque[float] = deque(maxlen=endurance.failures or 1)
        self._until = -math.inf
        self._open = False
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether it is left alone, but for a probe."""
        return self._open

    @contextmanager
    def attempt(self, blames: Callable[[BaseException], bool | None]) -> Iterator[None]:
        """Try it in a `with` block.

        Args:
            blames: Tells whether an error shows that it does not work, or that it does; None if neither, as
                when somebody is cancelled.

        Raises:
            Resting: It is left alone.
        """
        probe = self._enter()
        try:
            yield
        except Exception as error:
            match blames(error):
                case True:
                    self._fail(probe)
                case False:
                    self._succeed(probe)
            raise
        else:
            self._succeed(probe)
        finally:
            self._probing &= not probe

    def _enter(self) -> bool:
        """Tell whether this is the probe."""
        if not self._open:
            return False
        left = self._until - self._clock()
        if left > 0 or self._probing:
            raise Resting(max(left, 1.0))
        self._probing = True
        return True

    def _succeed(self, probe: bool) -> None:
        """What began before it was left alone says nothing of now."""
        if probe or not self._open:
            self._open = False
            self._failures.clear()

    def _fail(self, probe: bool) -> None:
        now = self._clock()
        if self._open:
            self._until = now + self._endurance.rest if probe else self._until
            return
        self._failures.append(now)
        many = len(self._failures) == self._endurance.failures
        if many and now - self._failures[0] <= self._endurance.window:
            self._open, self._until = True, now + self._endurance.rest
            self._opened()


class Breakers:
    """Those of one worker, each for what it is about.

    Args:
        endurance: That of each.
        clock: Seconds that only rise.
        opened: Is called whenever one opens.
    """

    def __init__(
        self,
        endurance: Endurance = NEVER,
        *,
        clock: Callable[[], float] = time.monotonic,
        opened: Callable[[], None] = lambda: None,
    ) -> None:
        self._endurance = endurance
        self._clock = clock
        self._tell = opened
        self._known: OrderedDict[Hashable, Breaker] = OrderedDict()

    def of(self, what: Hashable) -> Breaker:
        """Return the breaker of a thing: the same one each time."""
        if what not in self._known:
            self._known[what] = Breaker(self._endurance, clock=self._clock, opened=self._tell)
        self._known.move_to_end(what)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return self._known[what]

    @property
    def open(self) -> int:
        """How many things are left alone."""
        return sum(breaker.open for breaker in self._known.values())
