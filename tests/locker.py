"""A process that raises a number in a file, each time under a user's lock; only once, it never lets go."""

from __future__ import annotations

import sys
from typing import Any

import anyio

from mcp_chat.papers import Papers
from mcp_chat.stores.redis import open_redis
from mcp_chat.stores.sql import open_sql
from mcp_chat.vault import Vault

KEY = bytes(range(32))


async def main(url: str, user: str, path: anyio.Path, times: int, seconds: float) -> None:
    """Count."""
    opened: Any = open_redis(url) if url.startswith(("redis", "unix")) else open_sql(url)
    async with opened as store:
        papers = Papers(getattr(store, "documents", store), Vault([KEY]))
        for _ in range(times):
            async with papers.locked(user, "lock", seconds=seconds, patience=60):
                number = int(await path.read_text())
                await anyio.sleep(0.002)
                await path.write_text(f"{number + 1}")
                if times == 1:
                    await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], anyio.Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
