"""The error tree. A docstring is the message a person reads when none is given.

ChatError                      code, retryable; str() is safe to show to the user it happened to
├── NotAuthenticated           who asks is not proven
├── LoginUnavailable           whether it is cannot be told now
├── Forbidden                  proven, but not allowed
├── InvalidRequest             the request cannot be carried out as it stands
│   ├── TooLarge               a body or a message over its limit
│   ├── InvalidSession         what a conversation cannot be made of, or its JSON is not one
│   ├── TooManyTools           an MCP server that lists more than possible (connections)
│   └── AddressNotAllowed      a URL whose address may not be dialled (netguard)
├── NotConnected               the user has no live configuration
│   └── Unreadable             they had one, and it cannot be opened any more
├── TooManyWaiting             the user's inbox is full
├── TooManyRequests            the user has made too many in a minute
├── TooManyStreams             the user has too many open at this worker
├── TooManySessions            the user has as many conversations as possible
├── Busy                       the worker runs as many turns as it may
├── NotFound                   no such thing, or not theirs: the two look alike
├── NoArchive                  what only a database can do, and there is none
├── ServerUnavailable          an MCP server could not be reached or did not behave
│   ├── AnswerTooLarge         it answered without end (netguard)
│   └── ToolsUnreadable        its list of tools could not be read (connections)
├── ModelFailed                the model or its provider did not answer as it should
│   ├── ModelTimeout           it did not answer in time
│   └── AnswerTooLong          it answered without end
├── StoreUnavailable           Redis or the database did not answer
│   ├── Forgotten              Redis has lost what it held (stores, writer)
│   ├── KeyMissing             what is there is sealed, and no key at hand opens it (stores)
│   └── WrongSchema            the database was not brought up to date
├── Draining                   this worker is about to stop
├── Interrupted                the worker that ran the turn has stopped
├── Fenced                     another worker owns this user now
└── Unexpected                 what a bug looks like from outside; the details are in the log
SettingsError                  start-up only: the process refuses to run
"""

from __future__ import annotations

from typing import ClassVar


class ChatError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class NotAuthenticated(ChatError):
    """Authorization token required"""

    code = "not_authenticated"


class LoginUnavailable(ChatError):
    """The login cannot be checked right now. Please try again in a moment."""

    code = "login_unavailable"
    retryable = True


class Forbidden(ChatError):
    """Access denied"""

    code = "forbidden"


class InvalidRequest(ChatError):
    """The request is not valid."""

    code = "invalid_request"


class TooLarge(InvalidRequest):
    """The request is too large."""

    code = "too_large"


class InvalidSession(InvalidRequest):
    """The session is not valid."""

    code = "invalid_session"


class NotConnected(ChatError):
    """No active session found. Please connect to a server first."""

    code = "not_connected"


class Unreadable(NotConnected):
    """What was stored about your connection cannot be opened any more. Please connect again."""


class TooManyWaiting(ChatError):
    """Too many messages are waiting for an answer. Wait for one of them, or cancel."""

    code = "too_many_waiting"
    retryable = True


class TooManyRequests(ChatError):
    """You have made too many requests. Wait a moment and try again."""

    code = "too_many_requests"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooManyStreams(ChatError):
    """You have too many streams open. Close one, and try again."""

    code = "too_many_streams"
    retryable = True


class TooManySessions(ChatError):
    """You have as many conversations as are possible here. Delete some, and try again."""

    code = "too_many_sessions"


class Busy(ChatError):
    """Too many messages are being answered right now. Please try again in a moment."""

    code = "busy"
    retryable = True


class NotFound(ChatError):
    """Not found."""

    code = "not_found"


class NoArchive(ChatError):
    """This installation has no database."""

    code = "no_archive"

    def __init__(self) -> None:
        super().__init__(
            "This installation has no database, so conversations are not listed, searched or exported. "
            "The operator can set DATABASE_URL."
        )


class ServerUnavailable(ChatError):
    """Failed to connect to MCP server. Please verify the server URL and authentication."""

    code = "server_unavailable"
    retryable = True


class ModelFailed(ChatError):
    """The model did not answer. Please try again."""

    code = "model_failed"
    retryable = True

    def __init__(self, message: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelTimeout(ModelFailed):
    """Request timed out. The LLM took too long to respond."""

    code = "model_timeout"


class AnswerTooLong(ModelFailed):
    """The model's answer is too large. Ask for less at once."""

    code = "answer_too_large"
    retryable = False


class StoreUnavailable(ChatError):
    """The chat's storage is not reachable right now. Please try again in a moment."""

    code = "store_unavailable"
    retryable = True


class Forgotten(StoreUnavailable):
    """The chat's storage has lost its data. Please try again in a moment."""


class KeyMissing(StoreUnavailable):
    """This conversation is encrypted, and its key is missing on the server. Please tell its operator."""


class WrongSchema(StoreUnavailable):
    """The database's schema is not this version's: run `mcp-chat migrate`."""


class Fenced(ChatError):
    """Another worker has taken over this conversation. Please try again."""

    code = "fenced"
    retryable = True


class Draining(ChatError):
    """This server process is being replaced. Please try again."""

    code = "draining"
    retryable = True


class Interrupted(ChatError):
    """The turn was interrupted because its worker stopped. Please send the message again."""

    code = "interrupted"
    retryable = True


class Unexpected(ChatError):
    """An unexpected error occurred"""

    code = "unexpected"
    retryable = True


class SettingsError(Exception):
    """The settings do not allow a safe start; the message is one sentence that says what to change."""


def codes(group: BaseExceptionGroup[ChatError]) -> set[str]:
    """Return the codes of all errors in a group."""
    return {
        code
        for error in group.exceptions
        for code in (codes(error) if isinstance(error, BaseExceptionGroup) else {error.code})
    }
