"""Log lines: readable in a terminal, JSON elsewhere, never with a secret in a field."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()

SECRET_NAMES = ("token", "secret", "password", "api_key", "authorization", "cookie", "headers", "sealed")

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask fields whose names say that they hold a secret, also inside others."""
    for name, value in event.items():
        event[name] = _without_secrets(name, value)
    return event


def _without_secrets(name: str, value: Any) -> Any:
    if any(part in name.lower() for part in SECRET_NAMES):
        return "*****"
    if isinstance(value, Mapping):
        return {key: _without_secrets(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets("", inner) for inner in value]
    return value


def escape_controls(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write control characters out, which a terminal would obey; JSON escapes them anyway."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _CONTROLS.sub(lambda match: repr(match[0])[1:-1], value)
    return event


class RequestLog:
    """Writes one line for each request of the API; files and probes are not worth one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or "llmchat" not in scope["path"]:
            return await self._app(scope, receive, send)
        began, status = time.monotonic(), 0

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            ms = round((time.monotonic() - began) * 1000)
            log.info("request.ended", method=scope["method"], path=scope["path"], status=status, ms=ms)
        return None


def set_up(level: str) -> None:
    """Set structlog up for this process, and keep libraries to warnings.

    Args:
        level: Least level that is logged.
    """
    terminal = sys.stderr.isatty()
    # The default shows each frame's local variables, and there the secrets are.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            hide_secrets,
            structlog.processors.StackInfoRenderer(),
            escape_controls if terminal else structlog.processors.format_exc_info,
            console if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # whatever that is by then
        cache_logger_on_first_use=False,
    )
    for noisy in ("httpx", "httpx2", "httpcore2", "openai", "langchain"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    for telling in ("mcp", "client"):  # both are the SDK's; it quotes what a user's server said
        logging.getLogger(telling).setLevel(logging.CRITICAL + 1)
