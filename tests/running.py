"""An ASGI application on a real socket, in a thread of the test process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn


def wait_until(condition: Callable[[], Any], what: str, *, seconds: float = 30.0) -> Any:
    """Return the condition's first true value; fail with a description when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Ending(uvicorn.Server):
    """Leaves no connection behind: one that nobody reads from would outlive its event loop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def running(
    app: Any, *, host: str = "127.0.0.1", port: int = 0, grace: int = 2, **options: Any
) -> Iterator[str]:
    """Serve an application; give its base URL.

    Args:
        grace: Seconds that open requests get at the end.
        options: Of uvicorn.
    """
    listener = socket.create_server((host, port))
    config = uvicorn.Config(
        app,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=grace,
        proxy_headers=False,  # as in our own worker
        **{"timeout_keep_alive": 60, **options},  # a request into a close is lost
    )
    server = Ending(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), "the application starts")
    assert server.started, "the application did not start"
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive(), "the application did not stop"
