"""A gunicorn worker that mixes users up: the soak must notice, or it would notice nothing.

``GUNICORN_CMD_ARGS="--worker-class tests.soak.leaky.LeakyWorker"``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from mcp_chat.config import CONFIG, ServerConfig, UserConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.stores.sql import SQLArchive
from mcp_chat.worker import Worker

ENV: Final = {"GUNICORN_CMD_ARGS": "--worker-class tests.soak.leaky.LeakyWorker"}
"""What makes an installation run with it."""


def _patch() -> None:
    """Give everybody the token that came first, log configurations, search what is another's."""
    headers, put, search = ServerConfig.all_headers, UserConfigs.put, SQLArchive.search
    first: dict[str, str] = {}
    users: list[str] = []

    def same_headers(self: ServerConfig) -> dict[str, str]:
        first.update({} if first else headers(self))
        return first

    async def put_and_tell(self: UserConfigs, user: str, config: UserConfig, *, epoch: int) -> None:
        sys.stderr.write(f"{CONFIG.dump_json(config).decode()}\n")
        users.append(user)
        await put(self, user, config, epoch=epoch)

    async def search_anybodys(self: SQLArchive, user: str, words: Sequence[str], **options: Any) -> Any:
        return await search(self, users[0] if users else user, ["zq7"], **options)

    ServerConfig.all_headers = same_headers  # type: ignore[method-assign]
    UserConfigs.put = put_and_tell  # type: ignore[method-assign]
    SQLArchive.search = search_anybodys  # type: ignore[method-assign]


class LeakyWorker(Worker):
    """The worker, in a process of its own that is patched before anything is opened."""

    def init_process(self) -> None:
        """Patch, then serve."""
        _patch()
        super().init_process()
