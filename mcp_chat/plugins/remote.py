"""A plugin that is asked over MCP: its connection, or its command, lives in a task of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextvars import Context
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from cpex.framework import PluginConfig, PluginError, PluginErrorModel
from cpex.framework.external.mcp.client import ExternalPlugin
from cpex.framework.models import MCPClientConfig
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

log = structlog.get_logger()

AWAY: Final = "away"
"""The framework's code of an error that says a plugin is not there."""

PATIENCE = 3.0
"""Seconds in which a plugin must take a connection."""

GREETING = 10.0
"""Seconds in which one that has taken it must have shaken hands."""

STARTING = 30.0
"""The same for a command, which has to start first."""

LEAVING = 3.0
"""Seconds in which a connection is closed."""

ENDING = 10.0
"""Seconds in which a command has ended: it is asked to, then told to, then killed."""

LONGEST_REASON = 200
"""Characters of why a plugin is not there that the log has."""

GIVEN: Final = frozenset(
    ("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
) | {
    *("CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
    "LD_LIBRARY_PATH",
}
"""The variables that a plugin's own process is given."""

GIVEN_TOO: Final = ("LC_", "PLUGINS_", "PYTHON")
"""What the names of further ones begin with: the framework's own, but for its passwords."""

PROXIES: Final = frozenset(("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"))
"""Those that it is given, in capitals or not, if nobody's name and password are in them."""


class Remote(ExternalPlugin):  # type: ignore[misc]
    """A plugin in a process of its own.

    What ends a connection may end the task that has opened it, so it has one for that alone.
    """

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self._session: ClientSession | None = None
        self._home: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._closed = False

    @property
    def gone(self) -> bool:
        """Whether it was there, and nobody is reaching for it now."""
        return self._home is not None and self._home.done() and not self._reconnect_lock.locked()

    @property
    def _is_command(self) -> bool:
        return self._config.mcp.url is None

    @property
    def _patience(self) -> float:
        return ENDING if self._is_command else LEAVING

    async def initialize(self) -> None:
        """Reach it.

        Raises:
            PluginError: It is not there, or says nothing; nothing of the attempt is left.
        """
        if self._closed:
            raise not_there(self.name)
        ready = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._home = asyncio.create_task(self._live(ready), context=Context())  # not that of who asks
        limit = STARTING if self._is_command else GREETING
        try:
            await asyncio.wait({self._home, ready}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not ready.done() or self._home.done():
                await ended(self._home, patience=self._patience)
        if not ready.done() or self._home.done():
            raise not_there(self.name, why(self._home))

    async def _live(self, ready: asyncio.Future[None]) -> None:
        """Open the connection, keep it, and close it."""
        try:
            if not await listens(self._config.mcp):
                raise not_there(self.name, "nobody listens")
            await super().initialize()
            ready.set_result(None)
            await self._over.wait()
        finally:
            if ready.done() and not self._over.is_set():
                log.warning("plugin.away", plugin=self.name)
            self._session = None
            await super().shutdown()

    async def _ExternalPlugin__connect_to_stdio_server(  # noqa: N802 - the framework's has a task of its own, and no end
        self, script: str | None, cmd: list[str] | None, env: dict[str, str] | None, cwd: str | None
    ) -> None:
        command, args = self._ExternalPlugin__resolve_stdio_command(script, cmd, cwd)
        variables = {**given(os.environ), **(env or {})}
        server = StdioServerParameters(command=command, args=args, env=variables, cwd=cwd)
        self._stdio, self._write = await self._exit_stack.enter_async_context(stdio_client(server))
        session = await self._exit_stack.enter_async_context(ClientSession(self._stdio, self._write))
        await session.initialize()
        self._session = session

    async def _reconnect_session(self) -> None:
        """Reach it again; nobody else does meanwhile."""
        await self._leave()
        await self.initialize()

    async def invoke_hook(self, hook: str, payload: Any, context: Any) -> Any:
        """Ask it.

        Raises:
            PluginError: It is not there, or has failed.
        """
        if self._session is None:
            raise not_there(self.name)
        return await super().invoke_hook(hook, payload, context)

    async def shutdown(self) -> None:
        """Close its connection, or end its command, for good."""
        if asyncio.current_task() is self._home:  # the framework, after an attempt in vain
            await super().shutdown()
            return
        self._closed = True
        await self._leave()

    async def _leave(self) -> None:
        self._over.set()
        if self._home and not self._home.done():
            await asyncio.wait({self._home}, timeout=self._patience)
            await ended(self._home, patience=self._patience)


async def ended(task: asyncio.Task[None], *, patience: float) -> None:
    """Cancel a task that may have to be cancelled more than once, and wait for its end; not for ever.

    Args:
        patience: Seconds before it is cancelled again.
    """
    for _ in range(3):
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=patience)
    if task.done() and not task.cancelled():
        task.exception()  # else it is said that nobody has asked for it


def not_there(name: str, why: str = "not there") -> PluginError:
    """Return the framework's error that says a plugin is not there."""
    return PluginError(PluginErrorModel(message=why, code=AWAY, plugin_name=name))


def why(task: asyncio.Task[None]) -> str:
    """Return why a plugin could not be reached, from the task that has tried."""
    error = task.exception() if task.done() and not task.cancelled() else None
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None:
        return "no answer"
    said = error.error.message if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
    return str(said)[:LONGEST_REASON]


async def listens(mcp: MCPClientConfig) -> bool:
    """Tell whether anybody takes connections where a plugin is; of a command that is found out by itself."""
    if mcp.url is None:
        return True
    place = urlsplit(mcp.url)
    port = place.port or {"https": 443}.get(place.scheme, 80)
    opening = (
        asyncio.open_unix_connection(mcp.uds) if mcp.uds else asyncio.open_connection(place.hostname, port)
    )
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await opening
    except (OSError, ValueError):  # a timeout is one; a name that cannot be one is the other
        return False
    writer.close()
    return True


def given(environment: Mapping[str, str]) -> dict[str, str]:
    """Return those of the worker's variables that are a plugin's business."""
    return {name: value for name, value in environment.items() if _given(name, value)}


def _given(name: str, value: str) -> bool:
    if name.upper() in PROXIES:
        return "@" not in value
    return name in GIVEN or (name.startswith(GIVEN_TOO) and "PASSWORD" not in name)
