"""The gunicorn worker: uvicorn on uvloop and httptools, with a stop that streams can see coming."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from functools import cache, partial
from types import FrameType
from typing import Any, Final

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from mcp_chat.drain import Drain
from mcp_chat.process import ORPHAN_LIMIT, die_with_parent

REQUESTS_LIMIT: Final = 20  # seconds open requests get; then they are cancelled and the lifespan ends
STOP_LIMIT: Final = 30  # seconds until the process ends in any case, gunicorn's `graceful_timeout`
STOPS: Final = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
HEAD_LIMIT: Final = 64 * 1024  # bytes of a request's line and headers, if nothing else is set
HEAD_SECONDS: Final = 10.0  # for these to arrive


def worker_name(host: str, master: int, age: int) -> str:
    """Return a name no other worker has: processes are numbered anew in each container, hence the end."""
    return f"{host}:{master}:{age}:{secrets.token_hex(4)}"


class Protocol(HttpToolsProtocol):
    """Refuses a head without end, in bytes or in time; httptools itself would wait and collect it all.

    Args:
        head_limit: Bytes of a request's line and headers.
        head_seconds: For these to arrive, from their first byte; and for that to come on a new connection.
    """

    _head = 0
    _in_head = False
    _in_body = False
    _had_end = False
    _refused = ""
    _patience: asyncio.TimerHandle | None = None

    def __init__(
        self, *args: Any, head_limit: int = HEAD_LIMIT, head_seconds: float = HEAD_SECONDS, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._head_limit = head_limit
        self._head_seconds = head_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent; a head that grows too large is refused."""
        if not (self._in_head or self._in_body) and not data.strip(b"\r\n"):
            return  # empty lines between requests mean nothing (RFC 9112, 2.2), and no timer stops for them
        self._had_end = False
        super().data_received(data)
        if self._in_head:
            self._patience = self._patience or self._wait()
            self._head += 0 if self._had_end else len(data)  # what came with an earlier end is mostly a body
            if self._head > self._head_limit:
                self._refuse(self._too_large)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._stop_waiting()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._had_end = False, True, True
        self._stop_waiting()
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) + lines > self._head_limit:  # it may have come in one piece with its end
            self._refused = self._too_large
            raise ValueError("too large")  # the parser stops, and the request is answered as below
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body, self._head, self._had_end = False, 0, True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(self._refused or msg)

    @property
    def _too_large(self) -> str:
        return f"The request's headers are larger than {self._head_limit} bytes."

    def _refuse(self, why: str) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self._refused = why
            self.send_400_response(why)

    def _wait(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self._head_seconds, self._give_up)

    def _give_up(self) -> None:
        busy = getattr(self.cycle, "response_complete", True) is False
        if busy:  # an answer is on its way, and not to be broken
            self._patience = self._wait()
        elif not self._in_head:  # nobody has asked for anything
            self.transport.close()
        else:
            self._refuse(f"The request's headers took longer than {self._head_seconds:g} seconds.")

    def _stop_waiting(self) -> None:
        if self._patience:
            self._patience.cancel()
        self._patience = None


class DrainingServer(Server):
    """Says that it stops before it waits for its connections.

    It stops on a signal or after `max_requests`, and in any case in time: the kernel ends it otherwise.
    """

    def __init__(self, config: Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain
        self._parent = os.getppid()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._begin()
        # Not uvicorn's own, which raises the signal again at the end: the process would die of it
        # without a word to gunicorn's hooks.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._begin()
        await super().shutdown(sockets)

    def _begin(self) -> None:
        self._drain.start()
        signal.alarm(STOP_LIMIT if os.getppid() == self._parent else ORPHAN_LIMIT)


def _hold_stops() -> None:
    """Have words to stop wait until the master has forked, and the worker has handlers of its own.

    Until then it has the master's, which put them where nobody looks in a worker: it had to be killed.
    """
    _heed_after_forks()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)


@cache
def _heed_after_forks() -> None:
    os.register_at_fork(after_in_parent=_heed_stops)


def _heed_stops() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


class Worker(UvicornWorker):  # type: ignore[misc]
    """A worker whose application has a `Drain` at ``app.state.drain``.

    The application may say how large a request's head may be, at ``app.state.max_header_bytes``.

    Attributes:
        deaths: Where `mcp_chat.deaths.heard` hears of other workers' ends; goes to ``app.state.deaths``.
    """

    deaths: socket.socket | None = None

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - the name and type are uvicorn-worker's
        "loop": "uvloop",
        "http": Protocol,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": REQUESTS_LIMIT,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Believing X-Forwarded-For is for those who say whom to believe.
        self.config.proxy_headers = "FORWARDED_ALLOW_IPS" in os.environ
        logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, self.log.error_log.level))
        _hold_stops()

    def init_signals(self) -> None:
        """Heed signals from now on, also those to stop that came since the fork."""
        super().init_signals()
        _heed_stops()

    async def _serve(self) -> None:
        die_with_parent(self.ppid, signal.SIGTERM)
        self.config.app = self.wsgi
        self.wsgi.state.deaths = self.deaths
        limit = getattr(self.wsgi.state, "max_header_bytes", HEAD_LIMIT)
        self.config.http = partial(self.config.http, head_limit=limit)
        server = DrainingServer(self.config, self.wsgi.state.drain)
        # gunicorn's word for "at once"; uvicorn-worker's own handler would not stop the server
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
