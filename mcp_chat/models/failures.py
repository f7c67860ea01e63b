"""What providers' packages raise, as a `ModelFailed` with its cause and a sentence for the user.

What a provider says is looked through for what it means, and never handed on: it may quote keys, addresses
and texts.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import httpx2
import structlog

from mcp_chat.answers import AnswerTooLarge
from mcp_chat.exceptions import AnswerTooLong, Cause, ChatError, ModelFailed, ModelTimeout
from mcp_chat.netguard import AddressNotAllowed, refusal

log = structlog.get_logger()

HOT = (
    "The model does not take this temperature. Set another one, or none, for the conversation, "
    "or connect again without one."
)
_NO_TOOLS = re.compile(
    r"(?:tools?|function calling) (?:is|are) not supported|not support (?:tool|function)", re.I
)
"""What providers say of a request with tools for a model that takes none."""
LONGEST = 3600.0
"""Seconds that anybody is told to wait."""

_LOOKED_AT = 4096
"""Characters of what a provider says that are looked at."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what LangChain and the providers' packages raise into `ModelFailed`."""
    try:
        yield
    except (AddressNotAllowed, AnswerTooLarge) as error:
        raise failure(error) from error
    except ChatError:
        raise
    except Exception as error:  # the providers' packages raise what they like
        raise failure(error) from error


def failure(error: Exception) -> ChatError:
    """Return what a user is told of a provider's error: what to do, and nothing of what it said."""
    match refusal(error):
        case AddressNotAllowed():
            return ModelFailed(
                "The model's address is not allowed. Connect again with another one.", cause="bad_request"
            )
        case AnswerTooLarge():
            return AnswerTooLong()
    if _status(error) == 400 and _NO_TOOLS.search(str(error)):
        return ModelFailed(
            "This model cannot use tools. Connect with another model, or switch off the servers in this "
            "chat.",
            cause="bad_request",
        )
    if _status(error) in (400, 422) and "temperature" in str(error).lower():
        return ModelFailed(HOT, cause="bad_request")
    cause = cause_of(error)
    if cause == "timeout":
        return ModelTimeout()
    if cause == "unreadable":
        log.warning("model.failed", error=type(error).__name__, exc_info=error)
    status = _status(error)
    sentence = _OTHER if cause == "bad_request" and status not in _REFUSALS else _SENTENCES[cause]
    return ModelFailed(sentence, cause=cause, retry_after=_retry_after(error))


_REFUSALS = (None, 200, 400, 413, 422)
_OTHER = "The model's provider had an error. Please try again."
_SENTENCES: Mapping[Cause, str] = {
    "refused_key": "The model's provider refused the API key. Check the key and connect again.",
    "spent": "The model's provider says that the account's credit or quota is used up. Please try again "
    "when there is more, or choose another model.",
    "unknown_model": "The model's provider does not know this model. Choose another one and connect again.",
    "limited": "The model's provider is limiting requests. Wait a moment and try again.",
    "overloaded": "The model's provider is overloaded. Please try again in a moment.",
    "failed": _OTHER,
    "unreachable": "The model's provider could not be reached or broke off. Please try again.",
    "broken_off": "The model's provider could not be reached or broke off. Please try again.",
    "too_long": "This conversation is too long for the model. Send a shorter message, begin a new "
    "conversation, or choose another model.",
    "bad_request": "The model's provider refused the request. A shorter message or another model may help.",
    "unreadable": "The model's answer could not be read. Please try again.",
}

_WORDS: tuple[tuple[Cause, re.Pattern[str]], ...] = (
    ("spent", re.compile(r"insufficient_quota|billing_|credit balance|insufficient (credit|balance)")),
    (
        "limited",
        re.compile(
            r"rate_?limit|resource_?exhausted|throttl|toomanyrequests|too many requests|quota exceeded"
        ),
    ),
    (
        "too_long",
        re.compile(
            r"context_length_exceeded|(prompt|input|request|conversation)( is| are)? too (long|large)"
            r"|maximum context|context (length|window|size)|too many (input |total )?tokens"
            r"|input token count|maximum (number of )?(input )?tokens|request_too_large"
            r"|exceeds? (the )?(model'?s? )?(maximum|available) (context|number of tokens|input)"
            r"|max_(prompt|input|sequence)_(tokens|length)"
        ),
    ),
    (
        "overloaded",
        re.compile(r"overloaded|serviceunavailable|modelnotready|\bunavailable\b|high demand|at capacity"),
    ),
    (
        "refused_key",
        re.compile(
            r"invalid_api_key|api[_ ]key[_ ](not[_ ]valid|invalid)|authentication_error|permission_error"
            r"|unauthenticated|permission_denied|accessdenied|unrecognizedclient|expiredtoken|invalidsignature"
        ),
    ),
    ("unknown_model", re.compile(r"model_not_found|not_found_error|resourcenotfound|model .{0,80}not found")),
    ("bad_request", re.compile(r"invalid_request_error|validationexception|invalid_argument")),
    ("failed", re.compile(r"server_error|api_error|internalserver|modelstreamerror|modelerrorexception")),
)
"""What providers say in codes and sentences, the surest sign first."""

_FIRM: Mapping[int, Cause] = {401: "refused_key", 402: "spent", 403: "refused_key", 404: "unknown_model"}
_SOFT: Mapping[int, Cause] = {
    429: "limited",
    413: "too_long",
    408: "failed",
    409: "failed",
    503: "overloaded",
    529: "overloaded",
}


def cause_of(error: BaseException) -> Cause:
    """Return why a provider's package has raised an error."""
    status = _status(error)
    if status is not None and status in _FIRM:
        return _FIRM[status]
    said = _said(error)
    found = next((cause for cause, words in _WORDS if words.search(said)), None)
    if status is not None and status != 200:
        return _by_status(status, found)
    if found and (status == 200 or said):
        return found
    return _by_kind(error)


def _by_status(status: int, found: Cause | None) -> Cause:
    """A status says who is at fault; words may say more of it, and a 5xx says little."""
    if status == 429:
        return "spent" if found == "spent" else "limited"
    if found and (status < 500 or found in ("overloaded", "too_long", "limited")):
        return found
    return _SOFT.get(status, "failed" if status >= 500 else "bad_request")


def _by_kind(error: BaseException) -> Cause:
    """Of an error that came without an answer its class tells."""
    name = type(error).__name__
    if (
        isinstance(error, (TimeoutError, httpx.TimeoutException, httpx2.TimeoutException))
        or "Timeout" in name
    ):
        return "timeout"
    broken = (httpx.RemoteProtocolError, httpx.ReadError, httpx2.RemoteProtocolError, httpx2.ReadError)
    if isinstance(error, broken) or isinstance(error.__cause__, broken):
        return "broken_off"
    if isinstance(error, (httpx.HTTPError, httpx2.HTTPError, ConnectionError)) or "Connection" in name:
        return "unreachable"
    return "unreadable"


def _status(error: BaseException) -> int | None:
    """Return the HTTP status, wherever a package has put it."""
    response = getattr(error, "response", None)
    found: Any = getattr(error, "status_code", None)
    if isinstance(response, Mapping):  # as AWS has it
        found = _in(response, "ResponseMetadata", "HTTPStatusCode")
    elif not isinstance(found, int):
        found = getattr(response, "status_code", None) or getattr(error, "code", None)
    return int(found) if isinstance(found, int) and 100 <= found < 600 else None


def _said(error: BaseException) -> str:
    """Return what the provider has said, in small letters: only ever to be looked through."""
    response = getattr(error, "response", None)
    told = [getattr(error, name, None) for name in ("body", "code", "type", "status", "error", "message")]
    if isinstance(response, Mapping):
        told.append(response.get("Error"))
    elif isinstance(error, (httpx.HTTPStatusError, httpx2.HTTPStatusError)):
        told.append(_text_of(error.response))
    if not any(told):
        return ""
    return " ".join(str(each)[:_LOOKED_AT] for each in told if each).lower()


def _text_of(response: Any) -> str:
    """A body that was not read to its end says nothing."""
    try:
        return str(response.text)[:_LOOKED_AT]
    except (httpx.StreamError, httpx2.StreamError, RuntimeError):
        return ""


def _in(found: Any, *names: str) -> Any:
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


# When to try again


def _retry_after(error: BaseException) -> float | None:
    """Return the seconds after which the provider wants to be asked again, if it says so."""
    response = getattr(error, "response", None)
    headers: Any = getattr(response, "headers", None)
    if isinstance(response, Mapping):
        headers = _in(response, "ResponseMetadata", "HTTPHeaders")
    if not isinstance(headers, Mapping):
        headers = {}
    given = str(headers.get("retry-after") or "")
    found = _seconds(str(headers.get("retry-after-ms") or ""), 0.001)
    if found is None:
        found = _seconds(given, 1.0)
    if found is None:
        found = _until(given)
    return found if found is not None else _delay(error)


def _seconds(text: str, unit: float) -> float | None:
    try:
        seconds = float(text) * unit
    except ValueError:
        return None
    return min(seconds, LONGEST) if seconds >= 0 else None


def _until(text: str) -> float | None:
    """Read an HTTP date; one that has passed means at once."""
    try:
        return min(max(0.0, parsedate_to_datetime(text).timestamp() - time.time()), LONGEST)
    except (ValueError, OverflowError):
        return None


def _delay(error: BaseException) -> float | None:
    """Read the delay that Google writes into the error itself: `"retryDelay": "37s"`."""
    details = getattr(error, "details", None)
    found = re.search(r"""["']retryDelay["']: *["'](\d{1,6}(?:\.\d+)?)s["']""", str(details)[:_LOOKED_AT])
    return _seconds(found[1], 1.0) if found else None
