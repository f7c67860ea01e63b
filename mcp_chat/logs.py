"""Log lines: readable in a terminal, JSON elsewhere, never with a secret in a field or an error's text."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_chat.trace import escaped, kind_of, trace_of

log = structlog.get_logger()

SECRET_NAMES = ("token", "secret", "password", "api_key", "authorization", "cookie", "headers", "sealed")

_TRACEBACK = "Traceback (most recent call last)"


def hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask fields whose names say that they hold a secret, also inside others."""
    for name, value in event.items():
        if name != "exc_info":
            event[name] = _without_secrets(name, value)
    return event


def _without_secrets(name: str, value: Any) -> Any:
    if _is_secret(name):
        return "*****"
    match value:
        case Mapping():
            return {key: _inside(str(key), inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_without_secrets("", inner) for inner in value]
        case BaseException():
            return kind_of(value)
        case _:
            return value


def _inside(name: str, value: Any) -> Any:
    """Mask a `key`, too: as a line's own field it names what is stored, in a mapping it opens it."""
    return "*****" if name.lower() in ("key", "keys") else _without_secrets(name, value)


def _is_secret(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain.endswith(("_key", "_keys")) or any(part in plain for part in SECRET_NAMES)


def tell_errors(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write an exception as its kind and its places: its message may quote a secret or a chat."""
    error = _error_in(event.pop("exc_info", None))
    if error is not None:
        event["exception"] = trace_of(error)
    return event


def _error_in(told: Any) -> BaseException | None:
    """Return the exception that is told: given itself, as Python's three values, or the current one."""
    if isinstance(told, BaseException):
        return told
    if isinstance(told, tuple):
        return told[1] if len(told) == 3 and isinstance(told[1], BaseException) else None
    return sys.exc_info()[1] if told else None


def _told(value: Any) -> Any:
    """Return what a message is made of, without what an error in it says."""
    if isinstance(value, BaseException):
        return kind_of(value)
    if isinstance(value, str) and _TRACEBACK in value:  # how Starlette says that a lifespan failed
        return "An error was raised."
    return value


class Record(logging.LogRecord):
    """A line of the standard library's, as the web servers write them: no error in it shows its message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        error = _error_in(self.exc_info)
        if isinstance(self.args, tuple):
            self.args = tuple(_told(arg) for arg in self.args)
        if isinstance(self.msg, str) and _TRACEBACK in self.msg:
            error = error or sys.exc_info()[1]
        self.msg = _told(self.msg)
        if error is not None:
            if self.name == "asyncio":  # further lines show the task, and with it the error
                self.msg = str(self.msg).partition("\n")[0]
            self.exc_info, self.exc_text = None, trace_of(error)


def escape_controls(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write control characters out, which a terminal would obey; JSON escapes them anyway."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = escaped(value)
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
    """Set structlog and `logging` up for this process, and keep libraries to warnings.

    Args:
        level: Least level that is logged.
    """
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            hide_secrets,
            structlog.processors.StackInfoRenderer(),
            *((escape_controls,) if terminal else ()),
            tell_errors,  # behind the others: its lines are its own
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # whatever that is by then
        cache_logger_on_first_use=False,
    )
    tell_no_messages()
    for noisy in ("httpx", "httpx2", "httpcore2", "openai", "langchain"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    for telling in ("mcp", "client"):  # both are the SDK's; it quotes what a user's server said
        logging.getLogger(telling).setLevel(logging.CRITICAL + 1)


def tell_no_messages() -> None:
    """Let no logger of the standard library's show the message of an error, in this process."""
    logging.setLogRecordFactory(Record)
