"""How much memory and how many descriptors the workers have, over time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from statistics import mean
from typing import Final

import psutil

EVERY: Final = 2.0
MEGABYTE: Final = 1 << 20

Sample = tuple[float, int]


class Gauge:
    """Measures until it is cancelled.

    Args:
        workers: Returns the workers that live.
    """

    def __init__(self, workers: Callable[[], list[psutil.Process]]) -> None:
        self._workers = workers
        self._samples: dict[int, list[Sample]] = {}

    async def run(self) -> None:
        """Measure every few seconds."""
        while True:
            for worker in self._workers():
                with contextlib.suppress(psutil.Error):
                    sample = (worker.memory_info().rss / MEGABYTE, worker.num_fds())
                    self._samples.setdefault(worker.pid, []).append(sample)
            await asyncio.sleep(EVERY)

    def lines(self) -> Iterator[str]:
        """Say what each worker had in the first and in the last quarter of the time."""
        for pid, samples in self._samples.items():
            quarter = max(1, len(samples) // 4)
            first, last = _mean(samples[:quarter]), _mean(samples[-quarter:])
            memory, descriptors = (f"{a:.0f} -> {b:.0f}" for a, b in zip(first, last, strict=True))
            yield f"worker {pid}: {memory} MB, {descriptors} descriptors"


def _mean(samples: Sequence[Sample]) -> tuple[float, float]:
    return mean(mb for mb, _ in samples), mean(fds for _, fds in samples)
