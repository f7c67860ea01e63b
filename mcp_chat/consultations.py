"""What one user's owner asks of servers outside of turns: several at a time, each in a task of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from mcp_chat.commands import Consult, ShowServers, SignIn

Consultation = Consult | ShowServers | SignIn
"""What is asked outside of turns, and changes nothing here."""

AT_ONCE = 8
"""Of one user; the others wait, in the order of coming."""


class Consultations:
    """Carries consultations out beside the turns.

    Args:
        tasks: Runs them.
        carry_out: Carries one out and tells its end, within a time of its own.
    """

    def __init__(self, tasks: TaskGroup, carry_out: Callable[[Consultation], Awaitable[None]]) -> None:
        self._tasks = tasks
        self._carry_out = carry_out
        self._places = anyio.CapacityLimiter(AT_ONCE)
        self._running: dict[str, tuple[Consultation, anyio.CancelScope]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, command: Consultation) -> None:
        """Begin one, or let it wait for a place."""
        self._running[command.id] = (command, anyio.CancelScope())
        self._tasks.start_soon(self._run, command.id)

    def stop(self) -> list[Consultation]:
        """Stop all, and return them: their ends are not told.

        They stay in the inbox, so whoever comes next asks again.
        """
        stopped = list(self._running.values())
        for _, scope in stopped:
            scope.cancel()
        return [command for command, _ in stopped]

    async def _run(self, command_id: str) -> None:
        command, scope = self._running[command_id]
        try:
            with scope:
                async with self._places:
                    await self._carry_out(command)
        finally:
            self._running.pop(command_id, None)
