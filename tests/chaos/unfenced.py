"""A gunicorn worker whose stores let every epoch write: the judge must notice, or it would notice nothing.

``GUNICORN_CMD_ARGS="--worker-class tests.chaos.unfenced.UnfencedWorker"``
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

from mcp_chat.exceptions import ChatError, Fenced
from mcp_chat.stores.client import Client
from mcp_chat.stores.scripts import Scripts
from mcp_chat.stores.sql import SQLArchive
from mcp_chat.worker import Worker

ENV: Final = {"GUNICORN_CMD_ARGS": "--worker-class tests.chaos.unfenced.UnfencedWorker"}
"""What makes an installation run with it."""

_FENCES: Final = (
    (re.compile(r"^if .*epoch.* > .* then return 0 end$", re.MULTILINE), ""),
    (re.compile(r"^if tonumber\(owner\) > epoch then return 0 end$", re.MULTILINE), ""),
    (re.compile(r"^if epoch and \(epoch ~= .* then return 0 end$", re.MULTILINE), ""),
    (  # the stream refuses an id below its end: the entry gets the next one
        re.compile(r"^ *if e > epoch then return 0 end$", re.MULTILINE),
        "if e > epoch then redis.call("
        "'XADD', KEYS[1], string.format('%.0f-%.0f', e, n + 1), 'e', ARGV[i + 1]) e, n = epoch, 2^53 end",
    ),
)


def unfenced(script: str) -> str:
    """Return a Lua script that refuses no epoch."""
    for fence, nothing in _FENCES:
        script = fence.sub(nothing, script)
    return script


def _patch() -> None:
    load, hold = Scripts.__init__, SQLArchive._hold_all

    def load_unfenced(self: Scripts, redis: Client) -> None:
        load(self, redis)
        self._texts = {name: unfenced(text) for name, text in self._texts.items()}
        self._hashes = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._texts.items()
        }

    async def hold_all(
        self: SQLArchive, connection: Any, entries: Sequence[Any]
    ) -> list[ChatError | int | None]:
        outcomes = await hold(self, connection, entries)
        return [None if isinstance(each, Fenced) else each for each in outcomes]

    Scripts.__init__ = load_unfenced  # type: ignore[method-assign]
    SQLArchive._hold_all = hold_all  # type: ignore[method-assign,assignment]


class UnfencedWorker(Worker):
    """The worker, in a process of its own whose stores are patched before they are opened."""

    def init_process(self) -> None:
        """Patch, then serve."""
        _patch()
        super().init_process()
