"""The Lua scripts in `lua/`, on one server or on a cluster.

redis-py's own script object loads a script that a server has lost into every master of a cluster, and
fails when one of them is away. Here only the server that has the keys is told, along with the call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from mcp_chat.exceptions import Fenced
from mcp_chat.stores.client import Client, translated

Argument = str | bytes | int | float


class Scripts:
    """The Lua scripts by name. All keys of a call must be in one slot of a cluster."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        folder = files("mcp_chat.stores") / "lua"
        self._texts = {
            path.name.removesuffix(".lua"): path.read_text(encoding="utf-8")
            for path in folder.iterdir()
            if path.name.endswith(".lua")
        }
        self._hashes = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._texts.items()
        }

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script and return its answer."""
        with translated():
            try:
                return await self._redis.execute_command(*self._by_hash(name, keys, args))
            except NoScriptError:  # a server that is new, was restarted or has just become the master
                return await self._redis.execute_command(*self._in_full(name, keys, args))

    async def run_fenced(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> None:
        """Run a script that answers 0 to a writer who no longer owns the user.

        Raises:
            Fenced: It answered 0.
        """
        if not await self.run(name, keys, args):
            raise Fenced

    def _by_hash(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> list[Argument]:
        return ["EVALSHA", self._hashes[name], len(keys), *keys, *args]

    def _in_full(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> list[Argument]:
        return ["EVAL", self._texts[name], len(keys), *keys, *args]
