"""What someone asks a user's owner to do. Commands stay in the user's inbox until they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from mcp_chat.consult import Ask
from mcp_chat.message import Message, Part, new_id


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
        opening: Messages that come before it: those that a prompt of a server begins with.
        metadata: What is to be known of the message, as from which prompt it is.
        run: Begins the ids of the messages that the turn writes, whoever runs it and however often.
        interrupt: Stop the session's earlier turns instead of waiting for their ends.
        steer: Say it into the turn that runs in the session, if one does: then no turn of its own begins. It
            is no command of another type, because it may become a turn at any time, whoever owns the user.
        replaces: The user's message that it is said instead of: that one, and all behind it, become a branch.
        model: Of the operator's catalogue, instead of the session's own, this time.
        temperature: The same.
        record: Keep a recording of the turn.
    """

    session_id: str
    text: str
    parts: tuple[Part, ...] = ()
    opening: tuple[Message, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    run: str = field(default_factory=new_id)
    interrupt: bool = False
    steer: bool = False
    replaces: str = ""
    model: str = ""
    temperature: float | None = None
    record: bool = False
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchBranch:
    """Show the branch of a session that a message is in."""

    session_id: str
    message_id: str
    id: str = field(default_factory=new_id)
    type: Literal["switch_branch"] = "switch_branch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Look at a question: it was answered. What the answer is lies sealed at the desk."""

    question_id: str
    id: str = field(default_factory=new_id)
    type: Literal["answer"] = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeServers:
    """Add, remove or switch servers or their tools, without a new connect.

    Attributes:
        sealed: What is to change, a `mcp_chat.server_changes.ServerChange`, sealed: it may hold secrets.
    """

    sealed: str
    id: str = field(default_factory=new_id)
    type: Literal["change_servers"] = "change_servers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowServers:
    """Tell how the servers are, or what tools one has; opens what rests, without waiting for it."""

    alias: str | None = None
    id: str = field(default_factory=new_id)
    type: Literal["show_servers"] = "show_servers"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """Tell where the user signs in to a server."""

    alias: str
    id: str = field(default_factory=new_id)
    type: Literal["sign_in"] = "sign_in"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """The user has signed in to a server: open it again."""

    alias: str
    id: str = field(default_factory=new_id)
    type: Literal["signed_in"] = "signed_in"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOut:
    """The user has signed out of a server: close its connection."""

    alias: str
    id: str = field(default_factory=new_id)
    type: Literal["signed_out"] = "signed_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consult:
    """Ask something of one of the user's servers, outside of a turn."""

    alias: str
    ask: Ask
    id: str = field(default_factory=new_id)
    type: Literal["consult"] = "consult"


Command = (
    Connect
    | Send
    | Cancel
    | Disconnect
    | DeleteSession
    | SwitchBranch
    | ChangeServers
    | ShowServers
    | SignIn
    | SignedIn
    | SignedOut
    | Consult
    | Answer
)

COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])
"""Commands as JSON."""


def is_recorded(command: Command) -> bool:
    """Tell whether a command goes into the record.

    A stop must be possible when the database is not, a question that is lost is asked again, of sign-ins the
    grants are the record, and an answer is recorded before anybody hears of it.
    """
    return not isinstance(command, Cancel | ShowServers | SignIn | SignedIn | SignedOut | Consult | Answer)


SEALED_FOR = {"connect": "connect", "change_servers": "servers"}
"""The fields that commands with secrets are sealed for, by their types."""
