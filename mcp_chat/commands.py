"""What someone asks a user's owner to do. Commands stay in the user's inbox until they end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from mcp_chat.message import Part, new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """Open these servers and use this model from now on.

    Attributes:
        sealed: The user's new configuration, sealed by the vault: it holds secrets.
        user_id: The user's id as the login names it: under it a gateway may have kept a history.
    """

    sealed: str
    user_id: str = ""
    id: str = field(default_factory=new_id)
    type: Literal["connect"] = "connect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Answer this message; a turn begins. Its id is the turn's.

    Attributes:
        run: Begins the ids of the messages that the turn writes, whoever runs it and however often.
        interrupt: Stop the session's earlier turns instead of waiting for their ends.
    """

    session_id: str
    text: str
    parts: tuple[Part, ...] = ()
    run: str = field(default_factory=new_id)
    interrupt: bool = False
    id: str = field(default_factory=new_id)
    type: Literal["send"] = "send"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Stop the turns of a session, running and waiting, or of all sessions."""

    session_id: str | None = None
    id: str = field(default_factory=new_id)
    type: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """Stop everything, close the connections, forget the configuration."""

    id: str = field(default_factory=new_id)
    type: Literal["disconnect"] = "disconnect"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSession:
    """Stop the session's turns and delete it with all that was said in it."""

    session_id: str
    id: str = field(default_factory=new_id)
    type: Literal["delete_session"] = "delete_session"


Command = Connect | Send | Cancel | Disconnect | DeleteSession

COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])
"""Commands as JSON."""


def is_recorded(command: Command) -> bool:
    """Tell whether a command goes into the record: a stop must be possible when the database is not."""
    return not isinstance(command, Cancel)
