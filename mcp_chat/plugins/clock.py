"""Measures plugins where their framework lets them be observed; see its `ObservabilityProvider`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol


class Counts(Protocol):
    """Where it is counted what plugins do."""

    def plugin_asked(self, plugin: str, hook: str, seconds: float) -> None:
        """Count that a plugin was asked, and how long it took."""
        ...

    def plugin_failed(self, plugin: str, hook: str) -> None:
        """Count that it raised, or took too long."""
        ...

    def plugin_blocked(self, plugin: str, hook: str) -> None:
        """Count that it has blocked something."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """One plugin that was asked at one hook."""

    plugin: str
    hook: str
    began: float


class Clock:
    """Takes the times.

    Args:
        counts: Where they go.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def start_span(self, trace_id: str, name: str, **more: Any) -> Span | None:
        """Begin to measure; the trace is named for its hook."""
        plugin = (more.get("attributes") or {}).get("plugin.name")
        return Span(plugin, trace_id, time.perf_counter()) if plugin else None  # none: the whole chain's

    def end_span(self, span_id: Span, status: str = "ok", attributes: object = None) -> None:
        """Count what a plugin took."""
        self._counts.plugin_asked(span_id.plugin, span_id.hook, time.perf_counter() - span_id.began)
        if status != "ok":
            self._counts.plugin_failed(span_id.plugin, span_id.hook)
