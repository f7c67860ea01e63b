"""The seam between conversations and where their branches are kept."""

from __future__ import annotations

from typing import Protocol, TypeVar

from mcp_chat.branch import Branch, Side

S_contra = TypeVar("S_contra", contravariant=True)


class Branching(Protocol[S_contra]):
    """The branches of conversations: what was said another way, and is not shown."""

    async def cut(
        self, user: str, session_id: S_contra, message_id: str, *, side: str, epoch: int | None
    ) -> None:
        """Put a message and all behind it into a new side; with that side there already, do nothing.

        Args:
            side: The id that the side gets.

        Raises:
            MessageMoved: The message is not in the line that is shown.
            Fenced: A higher epoch owns the user.
        """
        ...

    async def switch(self, user: str, session_id: S_contra, message_id: str, *, epoch: int | None) -> None:
        """Show the branch that a message is in; what was shown instead is a side from then on.

        Raises:
            MessageMoved: There is no such message.
            Fenced: A higher epoch owns the user.
        """
        ...

    async def branches(self, user: str, session_id: S_contra) -> list[Branch]:
        """Return the branches behind each message that has some, in the order of their beginnings."""
        ...

    async def sides(self, user: str, session_id: S_contra) -> list[Side]:
        """Return what is not shown, each side behind the one that it forks from."""
        ...
