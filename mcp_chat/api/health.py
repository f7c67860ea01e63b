"""Is the process alive, and may it be given work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mcp_chat.exceptions import ChatError

Check = Callable[[], Awaitable[None]]

LIMIT = 2.0
"""Seconds after which a load balancer is told that something does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The endpoints for a load balancer.

    Attributes:
        checks: What must answer, by name; each raises a `ChatError` if it does not.
        draining: Tells whether this worker is about to stop.
        left_alone: Tells how many models are left alone here because they fail: a word, no reason to go.
    """

    checks: Mapping[str, Check]
    draining: Callable[[], bool]
    left_alone: Callable[[], int] = lambda: 0

    async def live(self, _request: Request) -> Response:
        """The event loop answers."""
        return JSONResponse({"status": "alive"})

    async def ready(self, _request: Request) -> Response:
        """The stores answer and the worker is not about to stop."""
        return _Readiness(self)


class _Readiness(Response):
    """Checks side by side and answers within the limit.

    A check that cannot be cancelled at once outlives its answer: the request owns it and ends after it.
    """

    def __init__(self, health: Health) -> None:
        super().__init__()
        self._health = health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        states = dict.fromkeys(self._health.checks, "unreachable")
        ended = anyio.Semaphore(0)

        async def ask(name: str, check: Check) -> None:
            try:
                with anyio.move_on_after(LIMIT):
                    await check()
                    states[name] = "ok"
            except (ChatError, TimeoutError):
                pass
            finally:
                ended.release()

        async with anyio.create_task_group() as tasks:
            for name, check in self._health.checks.items():
                tasks.start_soon(ask, name, check)
            with anyio.move_on_after(LIMIT):
                for _ in states:
                    await ended.acquire()
            health = self._health
            await _answer(dict(states), health.draining(), health.left_alone())(scope, receive, send)


def _answer(states: dict[str, str], draining: bool, left_alone: int) -> Response:
    if draining:
        states["worker"] = "draining"
    good = all(state == "ok" for state in states.values())
    more = {"left_alone": left_alone} if left_alone else {}
    if good:
        return JSONResponse({"status": "ready", **states, **more})
    return JSONResponse({"status": "not ready", **states, **more}, 503, {"retry-after": "1"})
