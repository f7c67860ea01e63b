"""What is counted, for Prometheus: how often users move between workers, and how turns end.

Under gunicorn (`PROMETHEUS_MULTIPROC_DIR` is set) each worker counts in files of its own, and every worker
can give the sums over all of them; elsewhere this process counts for itself. No label names a user.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from mcp_chat.decision import Decided
from mcp_chat.message import Usage

Claim = Literal["first", "message", "death", "silence", "handover", "neglect"]
Release = Literal["idle", "disconnect", "drain", "fenced", "store", "crash"]
Fence = Literal["log", "record", "inbox", "lease"]
TurnEnd = Literal["finished", "stopped", "failed", "interrupted", "handed_over"]
Resumption = Literal["continued", "retried", "answered", "unknown_outcome", "given_up"]
CallEnd = Literal["succeeded", "failed", "unknown"]
Burial = Literal["exit", "silence"]
Broken = Literal["model", "server"]

PLUGIN_SECONDS: Final = (0.0001, 0.001, 0.01, 0.1, 1, 10)
"""Bounds between which the times of plugins are told apart."""

PLUGIN: Final = ("plugin", "hook")
LONGEST_NAME: Final = 64
"""Characters of a plugin's name."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """This worker's counters; one for each process, which the application makes and hands out."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._claimed = self._counter("users_claimed", "Users taken over, by the cause", "why", Claim)
        self._released = self._counter("users_released", "Users given up, by the cause", "why", Release)
        self._fenced = self._counter(
            "users_fenced", "Users lost to another worker, by what refused the write", "where", Fence
        )
        self._turns_ended = self._counter("turns_ended", "Turns by how they ended", "outcome", TurnEnd)
        self._turns_resumed = self._counter(
            "turns_resumed", "Turns of a dead worker, by what became of them", "how", Resumption
        )
        self._calls = self._counter("tool_calls", "Tool calls by how they ended", "outcome", CallEnd)
        self._approvals = self._counter(
            "approvals", "Questions whether a call may be made, by the decision", "decision", Decided
        )
        self._buried = self._counter(
            "workers_buried", "Workers found dead, by how it was noticed", "why", Burial
        )
        self._tokens = Counter(
            "mcp_chat_tokens",
            "Tokens of models; cached ones are among the input, reasoning ones among the output",
            ["model", "kind"],
            registry=self._registry,
        )
        self._cost = Counter(
            "mcp_chat_cost_dollars",
            "What models cost, as far as it is known",
            ["model"],
            registry=self._registry,
        )
        self._opened = self._counter(
            "breakers_opened",
            "Times something was left alone because it failed again and again",
            "what",
            Broken,
        )
        self._plugins = Histogram(
            "mcp_chat_plugin_seconds",
            "What plugins took, by their name and hook; its count is how often they were asked",
            PLUGIN,
            buckets=PLUGIN_SECONDS,
            registry=self._registry,
        )
        self._plugin_errors = Counter(
            "mcp_chat_plugin_errors",
            "Times a plugin failed or took too long",
            PLUGIN,
            registry=self._registry,
        )
        self._plugin_blocks = Counter(
            "mcp_chat_plugin_blocks", "Times a plugin blocked something", PLUGIN, registry=self._registry
        )
        self._gaps = Counter(
            "mcp_chat_log_gaps", "Times a reader had missed entries of a log", registry=self._registry
        )
        self._owned = self._gauge("users_owned", "Users that a worker serves now")
        self._running = self._gauge("turns_running", "Turns that run now")
        self._readers = self._gauge("readers", "Answers that are being followed now")

    def user_claimed(self, why: Claim) -> None:
        """Count a user that this worker has taken over."""
        self._claimed.labels(why).inc()

    def user_released(self, why: Release) -> None:
        """Count a user that this worker has given up."""
        self._released.labels(why).inc()

    def user_fenced(self, where: Fence) -> None:
        """Count a user that another worker has taken from this one."""
        self._fenced.labels(where).inc()

    def turn_ended(self, outcome: TurnEnd) -> None:
        """Count a turn that has ended here."""
        self._turns_ended.labels(outcome).inc()

    def turn_resumed(self, how: Resumption) -> None:
        """Count a turn that a dead worker had begun."""
        self._turns_resumed.labels(how).inc()

    def tool_called(self, outcome: CallEnd) -> None:
        """Count a tool call that has ended."""
        self._calls.labels(outcome).inc()

    def approval_ended(self, decision: str) -> None:
        """Count a question about a call that has ended."""
        if decision:  # else it was a server's question
            self._approvals.labels(decision).inc()

    def spent(self, model: str, usage: Usage) -> None:
        """Count a call of a model; users' own models are one."""
        for kind in ("input", "output", "cached", "reasoning"):
            if count := getattr(usage, f"{kind}_tokens"):
                self._tokens.labels(model, kind).inc(count)
        self._cost.labels(model).inc(usage.cost_nanos / 1e9)

    def worker_buried(self, why: Burial) -> None:
        """Count a worker whose users this one has found without an owner."""
        self._buried.labels(why).inc()

    def breaker_opened(self, what: Broken) -> None:
        """Count a model or a server that is left alone from now on."""
        self._opened.labels(what).inc()

    def plugin_asked(self, plugin: str, hook: str, seconds: float) -> None:
        """Count that a plugin was asked, and how long it took."""
        self._plugins.labels(plugin[:LONGEST_NAME], hook).observe(seconds)

    def plugin_failed(self, plugin: str, hook: str) -> None:
        """Count that a plugin raised, or took too long."""
        self._plugin_errors.labels(plugin[:LONGEST_NAME], hook).inc()

    def plugin_blocked(self, plugin: str, hook: str) -> None:
        """Count that a plugin has blocked something."""
        self._plugin_blocks.labels(plugin[:LONGEST_NAME], hook).inc()

    def log_gap(self) -> None:
        """Count a reader that has missed entries of a log."""
        self._gaps.inc()

    def owning(self) -> AbstractContextManager[None]:
        """Count a user as served in a `with` block."""
        return self._owned.track_inprogress()

    def running(self) -> AbstractContextManager[None]:
        """Count a turn as running in a `with` block."""
        return self._running.track_inprogress()

    def reading(self) -> AbstractContextManager[None]:
        """Count a reader in a `with` block."""
        return self._readers.track_inprogress()

    def text(self) -> bytes:
        """Return all of it in Prometheus' text form; it reads files, if there are several workers."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _counter(self, name: str, text: str, label: str, values: Any) -> Counter:
        counter = Counter(f"mcp_chat_{name}", text, [label], registry=self._registry)
        for value in words_of(values):  # there from the first minute: a rate needs the zero before the one
            counter.labels(value)
        return counter

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"mcp_chat_{name}", text, multiprocess_mode="livesum", registry=self._registry)


def words_of(values: Any) -> list[str]:
    """Return the words of a type that is made of some."""
    return [word for each in get_args(values) for word in (words_of(each) or [each])]
