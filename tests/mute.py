"""A call's talk for tests in which nobody is asked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from mcp.shared.dispatcher import ProgressFnT

from mcp_chat.desk import CallState
from mcp_chat.questions import Answer, Question
from mcp_chat.talk import Hours, Look, as_it_is


async def _unheard(progress: float, total: float | None, message: str | None) -> None:
    """Hear nothing."""


class Mute:
    """Declines whatever is asked, and keeps nothing."""

    def __init__(self) -> None:
        self.state: CallState | None = None
        self.hours = Hours()
        self.progress: ProgressFnT = _unheard
        self.is_stopped = False
        self.looked_at: Look = as_it_is

    async def ask(
        self, questions: Sequence[Question], state: CallState | None = None, *, own: bool = True
    ) -> dict[str, Answer]:
        """Decline."""
        return {question.id: Answer(action="decline") for question in questions}

    async def again(self, state: CallState) -> dict[str, Answer]:
        """Decline."""
        return {id_: Answer(action="decline") for id_ in state.asked.values()}

    async def keep(self, state: CallState) -> None:
        """Keep nothing."""

    async def settle(self, question_ids: Collection[str]) -> None:
        """Do nothing."""

    async def accept(self, question_id: str) -> None:
        """Do nothing."""

    def waits(self, *, resumable: bool) -> AbstractAsyncContextManager[None]:
        """Wait for nothing."""
        return nullcontext()
