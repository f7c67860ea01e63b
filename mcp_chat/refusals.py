"""What is told of a server that refuses, or cannot be reached: to the model, and to the user."""

from __future__ import annotations

import mcp_types as mcp
from mcp import MCPError

from mcp_chat.answers import AnswerTooLarge
from mcp_chat.exceptions import ChatError, ServerRefused, ServerUnavailable, SignInFailed, SignInNeeded
from mcp_chat.message import wellformed
from mcp_chat.netguard import AddressNotAllowed, refusal
from mcp_chat.unseen import seen

UNREADABLE = "The server's answer could not be read."

MOST_SAID = 300
"""Characters of a server's refusal that its user is shown."""


def was_too_large(error: MCPError) -> bool:
    """Tell whether the SDK has put our own error into its words."""
    return str(AnswerTooLarge()) in error.error.message


def told(error: MCPError) -> str:
    """Return what the model is told of a refusal: the server's own words, but not those of the SDK."""
    if was_too_large(error):
        return f"{AnswerTooLarge()} Ask the tool for less at once."
    match error.error.code:
        case mcp.PARSE_ERROR:
            return UNREADABLE
        case mcp.CONNECTION_CLOSED:
            return "The server broke the call off, and whether it took effect is not known."
        case mcp.INVALID_REQUEST if error.error.message.startswith("Redirect to "):
            return "The server sent the call to another address, which is not followed."
        case _:
            return f"The server refused the call: {error}"


def not_done(error: MCPError, alias: str) -> ChatError:
    """Return what a user is told of a question that a server did not answer."""
    if was_too_large(error):
        return AnswerTooLarge()
    match error.error.code:
        case mcp.PARSE_ERROR:
            return ServerUnavailable(UNREADABLE)
        case mcp.CONNECTION_CLOSED:
            return ServerUnavailable("The server broke the connection off. Please try again.")
        case mcp.INVALID_REQUEST if error.error.message.startswith("Redirect to "):
            return ServerUnavailable(
                "The server sent the question to another address, which is not followed."
            )
        case mcp.METHOD_NOT_FOUND:
            return ServerRefused(f"The server {alias} does not know this kind of question.")
        case _:
            text = " ".join(seen(wellformed(error.error.message)).split())[:MOST_SAID]
            return ServerRefused(f"The server {alias} refused: {text or 'it does not say why'}")


def unreachable(error: BaseException) -> ChatError:
    """Return what a user is told about a connection that failed: never what was found at the address."""
    ours, refused = _ours(error), refusal(error)
    if isinstance(ours, SignInNeeded | SignInFailed):
        return ours
    if isinstance(refused, AddressNotAllowed):
        return AddressNotAllowed(f"Invalid server URL: {refused}")
    return refused or ours or ServerUnavailable()


def _ours(error: BaseException) -> ChatError | None:
    """Find our own error, which task groups may have wrapped."""
    if isinstance(error, BaseExceptionGroup):
        return next((ours for each in error.exceptions if (ours := _ours(each))), None)
    if isinstance(error, MCPError) and was_too_large(error):
        return AnswerTooLarge()
    return error if isinstance(error, ChatError) else None
