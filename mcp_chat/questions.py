"""What a person is asked about a call: a server's form, an address to open, a sign-in, or for their leave.

Nothing of a question is trusted: it is made anew from the few things that a form may have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from mcp_chat.exceptions import ServerUnavailable
from mcp_chat.fields import Field, FormUnfit, field_of
from mcp_chat.message import new_id, wellformed
from mcp_chat.unseen import seen
from mcp_chat.urls import is_loopback

Kind = Literal["form", "url", "sign_in", "approval"]
Choice = Literal["once", "session", "always", "deny"]
"""What can be decided about a call: allowed, allowed for its conversation or for good, or not."""

Reply = Literal["accept", "decline", "cancel"]
End = Literal["accept", "decline", "cancel", "expired"]

LONGEST_MESSAGE = 4000
LONGEST_URL = 4096
MAX_FIELDS = 64
MAX_FORM = 32_768
"""Characters of all that a form has to say."""

_SECRET = re.compile(r"pass(word|phrase|wd|code)|secret|api.?key|token|\bpin\b|private.?key|cvv|cvc", re.I)
_URL = re.compile(r"[!-~]+")
"""What a URL is written in: everything else must be escaped in it."""


class QuestionUnfit(ServerUnavailable):
    """The server asked something that cannot be shown."""

    retryable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of a server, or ours whether a call may be made, as its user is shown it.

    Attributes:
        server: The alias of the server that asks, or is to be called.
        schema: Of a form: what may be filled in, as JSON Schema with flat fields. Of a call: the tool's own.
        url: What the user is to open, in full; nobody here ever does.
        host: Where it leads.
        warning: What the user should know before they answer.
        session_id: Where the call is made that needs the answer.
        turn: The turn that makes it.
        call_id: The call; empty when several run and it is not known which.
        tool: What is called, by its name in the conversation.
        name: The same by its name at the server.
        place: Which server a call goes to, as `mcp_chat.definitions.identity_of` has it.
        definition: The hash of what the server said of the tool when the user was asked.
        arguments: What a call is to be made with.
        choices: What can be decided about it.
        until: When it is too late, in seconds since 1970.
    """

    kind: Kind
    server: str
    message: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    url: str = ""
    host: str = ""
    warning: str = ""
    session_id: str = ""
    turn: str = ""
    call_id: str = ""
    tool: str = ""
    name: str = ""
    place: str = ""
    definition: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()
    until: float = 0.0
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a person has answered. The content is the server's alone: it is in no log and in no history."""

    action: Reply
    content: Mapping[str, Any] | None = field(default=None, repr=False)


def form(server: str, message: str, schema: Any) -> Question:
    """Return the question of a form.

    Raises:
        QuestionUnfit: It is none that could be filled in.
    """
    try:
        fields = fields_of(schema)
    except FormUnfit as error:
        raise QuestionUnfit(
            f"The server asked for something in a form that cannot be shown: {error}."
        ) from None
    shown = {
        "type": "object",
        "properties": {name: each.schema for name, each in fields.items()},
        "required": [name for name, each in fields.items() if each.required],
    }
    secret = any(_SECRET.search(f"{name} {each.schema.get('title', '')}") for name, each in fields.items())
    warning = (
        "It seems to ask for something secret. No server may do so in a form: better decline."
        if secret
        else ""
    )
    return Question(kind="form", server=server, message=_said(message), schema=shown, warning=warning)


def fields_of(schema: Any) -> dict[str, Field]:
    """Return the fields of a form, by their names.

    Raises:
        FormUnfit: It is not as the protocol wants it, or too large.
    """
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise FormUnfit("it is no object")
    properties, required = schema.get("properties"), schema.get("required") or []
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        raise FormUnfit("it has no fields")
    if len(properties) > MAX_FIELDS:
        raise FormUnfit(f"it has more than {MAX_FIELDS} fields")
    fields = {name: field_of(name, each, required=name in required) for name, each in properties.items()}
    if sum(len(name) + len(repr(each.schema)) for name, each in fields.items()) > MAX_FORM:
        raise FormUnfit("it is too long")
    return fields


def address(server: str, message: str, url: str, *, own: str = "", kind: Kind = "url") -> Question:
    """Return the question that leads to an address.

    Args:
        own: The server's own URL: where that is not encrypted, the address need not be.

    Raises:
        QuestionUnfit: It is no web address, or not a safe one.
    """
    parts = _parts(url)
    host = parts.hostname or ""
    if parts.scheme != "https" and not is_loopback(host) and _place(parts) != _place(_parts(own or url, own)):
        raise QuestionUnfit("The server asked to open an address that is not encrypted.")
    warning = ""
    if any(label.startswith("xn--") for label in host.split(".")):
        warning = f"The address's name is written in other letters than those shown: {host}. Look twice."
    return Question(kind=kind, server=server, message=_said(message), url=url, host=host, warning=warning)


def _parts(url: str, own: str = "own") -> SplitResult:
    """Split a web address; one of nothing is that of no place."""
    if not own:
        return SplitResult("", "", "", "", "")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not _URL.fullmatch(url) or len(url) > LONGEST_URL or "@" in parts.netloc or "\\" in url:
        raise QuestionUnfit("The server asked to open something that is no web address.")
    return parts


def _place(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


def _said(message: str) -> str:
    text = seen(wellformed(message))
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} …"


def faults(question: Question, answer: Answer) -> dict[str, str]:
    """Return what is wrong with an answer: a sentence for each field, or none."""
    if question.kind == "sign_in" and answer.action == "accept":
        return {"": "finish the sign-in at its address; here it can only be declined or cancelled"}
    if question.kind != "form" or answer.action != "accept":
        return {"": "content belongs to a form that is accepted"} if answer.content else {}
    fields = fields_of(question.schema)
    given = answer.content or {}
    found = {name: "there is no such field" for name in given if name not in fields}
    for name, each in fields.items():
        value = given.get(name, each.default)
        if value is None and each.required:
            found[name] = "this field is required"
        elif value is not None and (fault := each.fault(value)):
            found[name] = fault
    return found


def completed(question: Question, answer: Answer) -> dict[str, Any] | None:
    """Return what goes to the server: the answer's content, and the defaults of what was left out."""
    if question.kind != "form" or answer.action != "accept":
        return None
    given = answer.content or {}
    fields = fields_of(question.schema)
    values = {name: given.get(name, each.default) for name, each in fields.items()}
    return {name: value for name, value in values.items() if value is not None}
