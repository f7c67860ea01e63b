"""A conversation as a value. Nothing here waits; only `save_to_file` and `load_from_file` touch a disk."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from mcp_chat.branch import BEGINNING, Side
from mcp_chat.exceptions import InvalidRequest, InvalidSession
from mcp_chat.message import Message, Part, Role, ToolCall, Usage, new_id, now, wellformed

SCHEMA = "mcp-chat/session/1"
"""What a session's JSON begins with; another shape gets another number."""

ROLES: tuple[str, ...] = get_args(Role)

MAX_DEPTH = 128
"""Levels of lists and mappings in a value; what reads messages from the stores counts those around it too."""

MAX_BITS = 1024
"""Bits of an integer: what a float's range holds."""

Place = tuple[str | int, ...]

_ABOUT_MESSAGES = frozenset({"pinned", "summary"})
_LEVELS_ABOVE = 5  # the document, its messages, a message, its calls, a call
_DEFAULTS: Mapping[str, Any] = {
    "parts": (),
    "tool_calls": (),
    "tool_call_id": None,
    "name": None,
    "status": None,
    "metadata": {},
}
"""Fields of a message that are not written when they say nothing: most messages have none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One conversation of a user: what was said, in order, what is known of it, and what it cost.

    The constructor takes its fields as they are. `new`, `from_json` and the methods check what they are
    given, so ``Session.from_json(s.to_json()) == s`` for each session that they make.

    Attributes:
        llm_backend: The model it talks to, as the user's configuration names it.
        name: What a person calls it; may be empty.
        context: JSON values. ``pinned`` and ``summary`` are read by `mcp_chat.context`.
        updated_at: When the last message was written, or the name or the context set.
        branches: What was said another way, as far as it was asked for: each behind the one it forks from.
    """

    id: str = field(default_factory=new_id)
    llm_backend: str = ""
    name: str = ""
    messages: tuple[Message, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)
    token_usage: Usage = field(default_factory=Usage)
    branches: tuple[Side, ...] = ()

    @classmethod
    def new(cls, backend: str, *, name: str = "") -> Session:
        """Return an empty session with an id of its own.

        Args:
            backend: The model it talks to.
            name: What a person calls it.
        """
        began = now()
        return cls(llm_backend=wellformed(backend), name=wellformed(name), created_at=began, updated_at=began)

    def add_message(
        self, role: str, content: str, *, tool_call_id: str | None = None, **metadata: Any
    ) -> Session:
        """Return the session with one more message, written now.

        Args:
            tool_call_id: The call that a tool's message answers.
            metadata: JSON values that are kept with it.

        Raises:
            InvalidSession: There is no such role, or the metadata is not JSON.
        """
        message = Message(
            role=cast(Role, role), content=content, tool_call_id=tool_call_id, metadata=metadata
        )
        return self._with((fitting(message, ("messages", len(self.messages))),))

    def append(self, *messages: Message) -> Session:
        """Return the session with messages after its last one; one whose id is there already is not added.

        Raises:
            InvalidSession: A message is not one that JSON can carry, or is a tool's and names no call.
        """
        known = {message.id for message in self.messages}
        added: list[Message] = []
        for message in messages:
            fits = fitting(message, ("messages", len(self.messages) + len(added)))
            if fits.id not in known:
                added.append(fits)
                known.add(fits.id)
        return self._with(tuple(added))

    def _with(self, messages: tuple[Message, ...]) -> Session:
        last = max(self.updated_at, *(m.created_at for m in messages)) if messages else self.updated_at
        return replace(self, messages=self.messages + messages, updated_at=last)

    def get_messages(self, limit: int | None = None) -> tuple[Message, ...]:
        """Return the messages in the order they were said.

        Args:
            limit: The last so many of them; all if None.

        Raises:
            InvalidRequest: The limit is not a whole number from 0.
        """
        if limit is None:
            return self.messages
        if type(limit) is not int or limit < 0:  # True is no number of messages
            raise InvalidRequest("The limit of messages is a whole number, 0 or more.")
        return self.messages[max(0, len(self.messages) - limit) :]

    def clear_messages(self) -> Session:
        """Return the session without messages, and with no tokens used.

        The name and the context stay, but for what the context says of messages: the pinned ones, and the
        summary.
        """
        context = {name: value for name, value in self.context.items() if name not in _ABOUT_MESSAGES}
        return self._changed(messages=(), context=context, token_usage=Usage(), branches=())

    def set_context(self, context: Mapping[str, Any]) -> Session:
        """Return the session with this context in place of its own.

        Raises:
            InvalidSession: It is not JSON: the message names the place.
        """
        if not isinstance(context, Mapping):
            raise wrong(("context",), "a mapping of names to JSON values")
        return self._changed(context=plain(context, ("context",)))

    def set_name(self, name: str) -> Session:
        """Return the session with this name.

        Raises:
            InvalidSession: It is no text.
        """
        if not isinstance(name, str):
            raise wrong(("name",), "a name is a text")
        return self._changed(name=wellformed(name))

    def _changed(self, **fields: Any) -> Session:
        return replace(self, updated_at=max(self.updated_at, now()), **fields)

    def update_token_usage(self, usage: Usage) -> Session:
        """Return the session with more tokens used."""
        return replace(self, token_usage=self.token_usage + usage)

    def total_tokens(self) -> int:
        """Return the tokens used so far, in both directions."""
        return self.token_usage.input_tokens + self.token_usage.output_tokens

    def to_json(self) -> str:
        """Return the session as JSON: fields always in the same order, mappings in theirs.

        A message's fields that have their defaults are left out.

        Raises:
            InvalidSession: It was put together by hand, of what `from_json` would not take.
        """
        try:
            data = {"schema": SCHEMA, **SESSION.dump_python(_checked(self), warnings=False)}
            data["messages"] = [_brief(message) for message in data["messages"]]
            data["branches"] = [
                {"fork": side["fork"], "messages": [_brief(message) for message in side["messages"]]}
                for side in data["branches"]
            ]
            if not data["branches"]:
                del data["branches"]
            text = json.dumps(data, ensure_ascii=False, allow_nan=False, default=_as_json)
            text.encode()
        except (TypeError, ValueError, RecursionError, PydanticSerializationError) as error:
            raise InvalidSession("The session holds something that JSON cannot carry.") from error
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> Session:
        """Return the session that `to_json` wrote, or one that somebody wrote by hand.

        Missing fields get their defaults, such as a new id. Fields that are not known are ignored, so that
        a later version may add some under the same schema. Half a surrogate pair becomes U+FFFD. The size
        is the caller's to limit.

        Raises:
            InvalidSession: It is not such JSON: the message names the place.
        """
        data = plain(_parsed(text), (), MAX_DEPTH + _LEVELS_ABOVE)
        _check_schema(data)
        try:
            found = SESSION.validate_python(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise wrong(first["loc"], _lower(first["msg"])) from None
        return _checked(found)

    def save_to_file(self, path: str | os.PathLike[str]) -> None:
        """Write the session to a file, whole or not at all, that only its owner can read.

        Raises:
            InvalidSession: See `to_json`.
            OSError: The file cannot be written; one that was there is as it was.
        """
        target, text = Path(path), self.to_json()
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(handle)
            Path(draft).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(draft).unlink()
            raise

    @classmethod
    def load_from_file(cls, path: str | os.PathLike[str]) -> Session:
        """Return the session in a file.

        Raises:
            InvalidSession: See `from_json`.
            OSError: The file cannot be read.
        """
        return cls.from_json(Path(path).read_bytes())


SESSION: TypeAdapter[Session] = TypeAdapter(Session)


def wrong(place: Place, what: str) -> InvalidSession:
    """Return the error for what is wrong at a place, such as ``messages.3.role``."""
    where = ".".join(wellformed(str(step)[:40]) for step in place) or "The session"
    return InvalidSession(f"{where[:200]}: {what}.")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def plain(value: Any, place: Place, levels: int = MAX_DEPTH) -> Any:
    """Return a copy of a JSON value whose text can be stored.

    Args:
        place: Where it stands, for the error.
        levels: Lists and mappings that it may be deep.

    Raises:
        InvalidSession: It is not JSON, too deep, or a number that not every reader of JSON takes.
    """
    match value:
        case None | bool():
            return value
        case str():
            return wellformed(value)
        case int() if value.bit_length() <= MAX_BITS:
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case int() | float():
            raise wrong(place, f"a number is finite and has at most {MAX_BITS} bits")
        case list() | tuple() | Mapping() if levels <= 0:
            raise wrong(place, "nested too deep")
        case list() | tuple():
            return [plain(each, (*place, n), levels - 1) for n, each in enumerate(value)]
        case Mapping():
            return {_key(k, place): plain(each, (*place, k), levels - 1) for k, each in value.items()}
    raise wrong(place, f"{type(value).__name__} is not a JSON value")


def _key(key: object, place: Place) -> str:
    if isinstance(key, str):
        return wellformed(key)
    raise wrong(place, "the names in a mapping are text")


def fitting(message: Message, place: Place) -> Message:
    """Return the message as a session keeps it: clean text, a copy of its values, the time in UTC.

    Raises:
        InvalidSession: It has no place in a session.
    """
    if message.role not in ROLES:
        raise wrong((*place, "role"), f"a role is one of {', '.join(ROLES)}")
    if not isinstance(message.content, str):
        raise wrong((*place, "content"), "what is said is a text")
    if message.role == "tool" and message.tool_call_id is None:
        raise wrong((*place, "tool_call_id"), "a tool's message names the call that it answers")
    return replace(
        message,
        content=wellformed(message.content),
        id=wellformed(message.id),
        parts=tuple(_part(part) for part in message.parts),
        tool_calls=tuple(_call(call, (*place, "tool_calls", n)) for n, call in enumerate(message.tool_calls)),
        tool_call_id=None if message.tool_call_id is None else wellformed(message.tool_call_id),
        name=None if message.name is None else wellformed(message.name),
        created_at=_utc(message.created_at, (*place, "created_at")),
        metadata=plain(message.metadata, (*place, "metadata")),
    )


def _part(part: Part) -> Part:
    return replace(
        part,
        upload_id=wellformed(part.upload_id),
        media_type=wellformed(part.media_type),
        name=wellformed(part.name),
        server=wellformed(part.server),
        uri=wellformed(part.uri),
    )


def _call(call: ToolCall, place: Place) -> ToolCall:
    args = plain(call.args, (*place, "args"))
    return ToolCall(id=wellformed(call.id), name=wellformed(call.name), args=args)


def _utc(time: datetime, place: Place) -> datetime:
    """A time without a zone is taken as UTC."""
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        raise wrong(place, "this time is outside of the calendar") from None


def _brief(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in message.items() if name not in _DEFAULTS or value != _DEFAULTS[name]
    }


def _as_json(value: object) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case Mapping():
            return dict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _parsed(text: str | bytes) -> Any:
    """JSON as Python's values; numbers that are too long become one that `plain` refuses with its place."""
    if not isinstance(text, str | bytes):
        raise wrong((), "a text of JSON, or its bytes")
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(decoded, parse_int=lambda d: int(d) if len(d) < MAX_BITS else math.inf)
    except UnicodeDecodeError as error:
        raise wrong((), f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        what = f"not JSON at line {error.lineno}, column {error.colno}: {_lower(error.msg)}"
        raise wrong((), what) from None
    except RecursionError:
        raise wrong((), "nested too deep") from None


def _check_schema(data: Any) -> None:
    if not isinstance(data, dict):
        raise wrong((), "not a JSON object")
    if "schema" not in data:
        raise wrong(("schema",), f"missing; this version reads {SCHEMA}")
    if data["schema"] != SCHEMA:
        found = json.dumps(data["schema"])[:80]
        raise wrong(("schema",), f"{found} is not known; this version reads {SCHEMA}")


def _checked(session: Session) -> Session:
    """What the types cannot say: values are JSON, ids of messages differ, results name their calls."""
    seen: dict[str, str] = {}
    _check_ids(session.messages, ("messages",), seen)
    for n, side in enumerate(session.branches):
        if side.fork != BEGINNING and side.fork not in seen:
            raise wrong(("branches", n, "fork"), "the id of a message that stands before it")
        _check_ids(side.messages, ("branches", n, "messages"), seen)
    return replace(
        session,
        messages=_fitting(session.messages, ("messages",)),
        branches=tuple(
            replace(
                side,
                fork=wellformed(side.fork),
                messages=_fitting(side.messages, ("branches", n, "messages")),
            )
            for n, side in enumerate(session.branches)
        ),
        context=plain(session.context, ("context",)),
        created_at=_utc(session.created_at, ("created_at",)),
        updated_at=_utc(session.updated_at, ("updated_at",)),
    )


def _check_ids(messages: Sequence[Message], place: Place, seen: dict[str, str]) -> None:
    for n, message in enumerate(messages):
        here = ".".join(map(str, (*place, n)))
        if (first := seen.setdefault(message.id, here)) != here:
            raise wrong((*place, n, "id"), f"the same as that of {first}")


def _fitting(messages: Sequence[Message], place: Place) -> tuple[Message, ...]:
    return tuple(fitting(message, (*place, n)) for n, message in enumerate(messages))
