"""The error tree. A docstring is the message a person reads when none is given.

ChatError                      code, retryable; str() is safe to show to the user it happened to
├── NotAuthenticated           who asks is not proven
├── LoginUnavailable           whether it is cannot be told now
├── Forbidden                  proven, but not allowed
├── BlockedByPlugin            a plugin of the operator's does not want it
│   └── PluginFailed           one that must not fail has
├── InvalidRequest             the request cannot be carried out as it stands
│   ├── TooLarge               a body or a message over its limit
│   ├── InvalidSession         what a conversation cannot be made of, or its JSON is not one
│   ├── TooManyTools           an MCP server that lists more than possible (connections)
│   ├── ServerRefused          an MCP server that answers a question with an error
│   ├── NotOffered             what an MCP server does not have at all
│   └── AddressNotAllowed      a URL whose address may not be dialled (netguard)
├── NotConnected               the user has no live configuration
│   └── Unreadable             they had one, and it cannot be opened any more
├── TooManyWaiting             the user's inbox is full
├── TooManyRequests            the user has made too many in a minute
├── TooManyStreams             the user has too many open at this worker
├── TooManySessions            the user has as many conversations as possible
├── LimitReached               a limit of tokens, money or tool calls, of a turn or of a user's day
├── Unpriced                   money is limited, and the model's price is not known
├── Busy                       the worker runs as many turns as it may
├── SignInFailed               a sign-in to an MCP server came to nothing
├── NotFound                   no such thing, or not theirs: the two look alike
├── MessageMoved               a message that is not in the branch that is shown
├── TurnRunning                what cannot be done while a conversation is being answered
├── AnsweredAlready            a question that was answered otherwise
├── QuestionEnded              a question for whose answer nobody waits any more
├── NoArchive                  what only a database can do, and there is none
├── ServerUnavailable          an MCP server could not be reached or did not behave
│   ├── AnswerTooLarge         it answered without end (answers)
│   ├── QuestionUnfit          it asks something that cannot be shown (questions)
│   ├── TooManyQuestions       it asks without end (calling)
│   └── ToolsUnreadable        its list of tools could not be read (connections)
├── AppUnusable                a tool's app is none that can be shown
├── SignInNeeded               an MCP server wants its user to sign in first
├── ModelFailed                the model or its provider did not answer as it should
│   ├── ModelTimeout           it did not answer in time
│   └── AnswerTooLong          it answered without end
├── StoreUnavailable           Redis or the database did not answer
│   ├── Forgotten              Redis has lost what it held (stores, writer)
│   ├── Locked                 another request of the user's keeps it locked (papers)
│   ├── KeyMissing             what is there is sealed, and no key at hand opens it (stores)
│   └── WrongSchema            the database was not brought up to date
├── Draining                   this worker is about to stop
├── Interrupted                the worker that ran the turn has stopped
├── Fenced                     another worker owns this user now
└── Unexpected                 what a bug looks like from outside; the details are in the log
SettingsError                  start-up only: the process refuses to run
PluginsLost                    ends its worker, so that another takes its place
"""

from __future__ import annotations

from typing import ClassVar, Literal


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


class BlockedByPlugin(ChatError):
    """A plugin of this installation has blocked this.

    Args:
        hook: Where it was asked.
        plugin: Its name; empty if it was no single one.
        reason: The plugin's sentence.
        violation: The plugin's code.
    """

    code = "blocked"

    def __init__(self, *, hook: str, plugin: str, reason: str, violation: str) -> None:
        super().__init__(f"Blocked by the plugin {plugin}: {reason}" if plugin else f"Blocked: {reason}")
        self.hook = hook
        self.plugin = plugin
        self.reason = reason
        self.violation = violation


class PluginFailed(BlockedByPlugin):
    """A plugin that must not fail has: what it was asked about does not go on.

    Args:
        hook: Where it was asked.
        plugin: Its name; empty if it was no single one.
    """

    said = "The plugin failed."
    violation_code = "plugin_error"

    def __init__(self, *, hook: str, plugin: str) -> None:
        super().__init__(hook=hook, plugin=plugin, reason=self.said, violation=self.violation_code)


class PluginAway(PluginFailed):
    """A plugin that runs in a process of its own, and must not fail, is not there."""

    said = "The plugin is not there. Please try again later."


class InvalidRequest(ChatError):
    """The request is not valid."""

    code = "invalid_request"


class TooLarge(InvalidRequest):
    """The request is too large."""

    code = "too_large"


class InvalidSession(InvalidRequest):
    """The session is not valid."""

    code = "invalid_session"


class ServerRefused(InvalidRequest):
    """The server refused that."""

    code = "server_refused"


class NotOffered(InvalidRequest):
    """The server does not offer this."""

    code = "not_offered"


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


class LimitReached(ChatError):
    """A limit is reached.

    Args:
        limit: Which one: `turn_tokens`, `turn_cost`, `turn_calls`, and the same of the `day`.
        retry_after: Seconds until it is free again; None if it is one of a turn's.
    """

    code = "limit_reached"

    def __init__(self, message: str | None = None, *, limit: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = retry_after


class Unpriced(ChatError):
    """Money is limited here, and this model has no known price. Choose another model."""

    code = "unpriced"


class Busy(ChatError):
    """Too many messages are being answered right now. Please try again in a moment."""

    code = "busy"
    retryable = True


class NotFound(ChatError):
    """Not found."""

    code = "not_found"


class MessageMoved(ChatError):
    """This message is not in the conversation as it is now: it went on another way. Load it again."""

    code = "message_moved"


class TurnRunning(ChatError):
    """This conversation is being answered. Wait for the end of that, or stop it."""

    code = "turn_running"


class SignInFailed(ChatError):
    """The sign-in failed. Begin it again."""

    code = "sign_in_failed"


class AnsweredAlready(ChatError):
    """This question was answered already."""

    code = "answered_already"


class QuestionEnded(ChatError):
    """This question has ended: nobody waits for its answer any more."""

    code = "question_ended"


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


class SignInNeeded(ChatError):
    """The server wants you to sign in first.

    Args:
        alias: The server's.
        url: Where its user signs in.
    """

    code = "sign_in_needed"

    def __init__(self, alias: str, url: str) -> None:
        super().__init__(f"The server {alias} wants you to sign in first.")
        self.alias = alias
        self.url = url


Cause = Literal[
    "refused_key",
    "spent",
    "unknown_model",
    "limited",
    "overloaded",
    "failed",
    "unreachable",
    "broken_off",
    "timeout",
    "too_long",
    "bad_request",
    "unreadable",
    "empty",
    "resting",
    "unfit",
]
"""Why a model did not answer; docs/turns.md says what is done about each.

`failed` is an error of the provider's own, `resting` is a provider that is left alone for a while, and
`unfit` is an answer that came and that nothing can be done with.
"""


class ModelFailed(ChatError):
    """The model did not answer. Please try again."""

    code = "model_failed"
    retryable = True

    def __init__(
        self, message: str | None = None, *, cause: Cause = "unfit", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.cause: Cause = cause
        self.retry_after = retry_after


class ModelTimeout(ModelFailed):
    """Request timed out. The LLM took too long to respond."""

    code = "model_timeout"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message, cause="timeout")


class AnswerTooLong(ModelFailed):
    """The model's answer is too large. Ask for less at once."""

    code = "answer_too_large"
    retryable = False


class AppUnusable(ChatError):
    """The tool's app could not be read from its server. The result above stands all the same."""

    code = "app_unusable"


class StoreUnavailable(ChatError):
    """The chat's storage is not reachable right now. Please try again in a moment."""

    code = "store_unavailable"
    retryable = True


class Forgotten(StoreUnavailable):
    """The chat's storage has lost its data. Please try again in a moment."""


class Locked(StoreUnavailable):
    """Another request of yours is busy with this. Please try again in a moment."""


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


class PluginsLost(Exception):
    """The worker has lost its plugins, and can let nothing through any more."""


class SettingsError(Exception):
    """The settings do not allow a safe start; the message is one sentence that says what to change."""


def codes(group: BaseExceptionGroup[ChatError]) -> set[str]:
    """Return the codes of all errors in a group."""
    return {
        code
        for error in group.exceptions
        for code in (codes(error) if isinstance(error, BaseExceptionGroup) else {error.code})
    }
