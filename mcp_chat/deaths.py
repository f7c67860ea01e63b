"""How gunicorn's master tells the workers that one of them has ended.

It sends the dead worker's name as one datagram. All workers listen at the same socket and one of them gets
it: one that waits at that moment, so never one that hangs or was stopped. If there is none, it lies there
for the next. A name that is lost is no harm: a heartbeat that has stopped says the same, only later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, Final

_LONGEST: Final = 65_536


class Deaths:
    """The master's end and the workers' end, made in the master and inherited by each worker."""

    def __init__(self) -> None:
        self._sender, self.receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self.receiver.setblocking(False)

    def tell(self, worker: str) -> None:
        """Say that a worker has ended; forget it if too many lie there already: the master must not wait."""
        with contextlib.suppress(OSError):
            self._sender.send(worker.encode(errors="surrogateescape"))

    def close(self) -> None:
        """Close both ends in this process."""
        self._sender.close()
        self.receiver.close()


def deaths_of(arbiter: Any) -> Deaths:
    """Return those of a master; they are kept there because its configuration may be read again."""
    deaths = getattr(arbiter, "deaths", None)
    if deaths is None:
        deaths = arbiter.deaths = Deaths()
    assert isinstance(deaths, Deaths)
    return deaths


async def heard(receiver: socket.socket) -> AsyncIterator[str]:
    """Give the names of workers that have ended, as this worker hears of them; without end."""
    loop = asyncio.get_running_loop()
    while True:  # waking up and finding nothing, because another worker was faster, is the loop's business
        name = await loop.sock_recv(receiver, _LONGEST)
        yield name.decode(errors="surrogateescape")
