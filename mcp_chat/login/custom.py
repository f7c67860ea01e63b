"""An operator's own function that proves who asks."""

from __future__ import annotations

import importlib
import inspect
import time
import traceback
from collections.abc import Awaitable, Callable
from types import TracebackType

import structlog
from starlette.requests import HTTPConnection

from mcp_chat.exceptions import ChatError, LoginUnavailable, NotAuthenticated, SettingsError
from mcp_chat.identity import Principal
from mcp_chat.login.origin import require_same_origin
from mcp_chat.login.token import name_in

log = structlog.get_logger()

Prove = Callable[[HTTPConnection], Awaitable[object]]


class CustomIdentity:
    """What ``MCP_CHAT_AUTH=package.module:function`` names.

    The function may look at a cookie, so a change needs a same-origin proof.

    Args:
        prove: Returns who asks, None if nothing was presented, or raises `NotAuthenticated`.
    """

    mode = "custom"

    def __init__(self, prove: Prove) -> None:
        self._prove = prove

    async def identify(self, connection: HTTPConnection) -> Principal | None:
        """Return whom the function names; one that fails lets nobody in."""
        require_same_origin(connection)
        try:
            principal = await self._prove(connection)
        except ChatError:
            raise
        except Exception as error:  # noqa: BLE001 - somebody else's code: whatever it is, nobody is proven
            # not what it says: that may be the cookie
            log.error("login.crashed", error=type(error).__name__, at=_place_of(error.__traceback__))
            raise LoginUnavailable from None
        if principal is None:
            return None
        if not isinstance(principal, Principal):
            log.error("login.odd", returned=type(principal).__name__)
            raise NotAuthenticated
        return Principal(id=name_in({"id": principal.id}, "id"), expires=_end_of(principal.expires))


def _end_of(expires: object) -> float:
    """Return when a proof ends.

    Raises:
        NotAuthenticated: It has ended, or that is no time.
    """
    if not isinstance(expires, int | float) or isinstance(expires, bool):
        log.error("login.odd", expires=type(expires).__name__)
        raise NotAuthenticated
    if not expires > time.time():  # it is not, if it is no number
        raise NotAuthenticated
    return expires


def _place_of(raised: TracebackType | None) -> str:
    """Return the file and line that raised."""
    places = [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(raised)]
    return places[-1] if places else ""


def function_at(path: str) -> Prove:
    """Return the function that a dotted path names.

    Raises:
        SettingsError: There is none.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # an import raises what it likes
        raise SettingsError(f"MCP_CHAT_AUTH={path} cannot be imported: {error}.") from error
    if not inspect.iscoroutinefunction(found):
        raise SettingsError(f"MCP_CHAT_AUTH={path} must be an async function of a connection.")
    prove: Prove = found
    return prove
