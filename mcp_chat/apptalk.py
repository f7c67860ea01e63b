"""The talk of a call that an app has asked for: there is no turn in which its user could be asked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from mcp.shared.dispatcher import ProgressFnT

from mcp_chat.desk import CallState
from mcp_chat.questions import Answer, Question
from mcp_chat.talk import Hours, Look, as_it_is

TASK = 60.0
"""Seconds that a task of such a call may take."""


async def _unheard(progress: float, total: float | None, message: str | None) -> None:
    """Hear nothing."""


class AppTalk:
    """Declines whatever is asked, and keeps nothing.

    Args:
        look: Looks at its result before anybody is told of it.
    """

    def __init__(self, look: Look = as_it_is) -> None:
        self.looked_at = look
        self.state: CallState | None = None
        self.hours = Hours(question=TASK, task=TASK)
        self.progress: ProgressFnT = _unheard
        self.is_stopped = False

    async def ask(
        self, questions: Sequence[Question], state: CallState | None = None, *, own: bool = True
    ) -> dict[str, Answer]:
        """Decline; see `mcp_chat.talk.Talk`."""
        return {question.id: Answer(action="decline") for question in questions}

    async def again(self, state: CallState) -> dict[str, Answer]:
        """Decline; see `mcp_chat.talk.Talk`."""
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
