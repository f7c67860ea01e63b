"""A way to a server that can be cut or left hanging, in a thread of the test process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit


class Proxy:
    """Hands bytes between TCP clients and a server behind a Unix socket.

    Args:
        path: The server's socket.
        delay: Seconds until bytes are handed on.
    """

    def __init__(self, path: str, delay: float = 0) -> None:
        self._path = path
        self._delay = delay
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._refuse = False
        self.port = 0

    @property
    def url(self) -> str:
        """What to set as `REDIS_URL`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Break all connections, and new ones at once."""
        self._refuse = True
        self._call(self._drop())

    def hang(self) -> None:
        """Accept connections and bytes, and answer nothing."""
        self._call(self._stop_flow())

    def heal(self) -> None:
        """Work again."""
        self._refuse = False
        self._call(self._start_flow())

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(5)

    async def _start(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._refuse = True  # whoever is let in at this very moment
        self._server.close()
        await self._drop()
        await asyncio.sleep(0.01)

    async def _stop_flow(self) -> None:
        self._flowing.clear()

    async def _start_flow(self) -> None:
        self._flowing.set()

    async def _drop(self) -> None:
        pumps = list(self._pumps)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        try:
            if not self._refuse:
                await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pumps.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._path)
        both = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            far_writer.transport.abort()
            for pump in both:
                pump.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(data)
                await writer.drain()


@contextlib.contextmanager
def proxied(url: str, *, delay: float = 0) -> Iterator[Proxy]:
    """Give a proxy in front of a `unix://` URL."""
    with Proxy(unquote(urlsplit(url).path), delay) as proxy:
        yield proxy
