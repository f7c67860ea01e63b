"""A conversation as a Markdown file for people.

What was said cannot pass for what somebody else said: each line of it stands behind ``>``, so that the only
headings at the beginning of a line are ours. What could load something from elsewhere or be taken as HTML is
shown as it was written, in a fence.
"""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime

from mcp_chat.message import Message, Part, ToolCall
from mcp_chat.session import Session

LONGEST = 80
"""Characters of a file's name."""

_HEADINGS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool result"}
_MARKS = re.compile(r"([\\`*_{}\[\]()<>#|!&~$^=:@])")
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
_RISKY = re.compile(r"<[A-Za-z/!?]|!\[|\]\(\s*(?!https?://|mailto:)|\]:")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)


def markdown(session: Session) -> str:
    """Return the conversation as Markdown that is safe to show and to read as plain text."""
    return (
        "\n\n".join([*_opening(session), *(block for m in session.messages for block in _message(m))]) + "\n"
    )


def filename(session: Session, extension: str) -> str:
    """Return a name for the session's file, in ASCII, for a ``Content-Disposition`` header.

    Args:
        extension: What the name ends with, such as ``md``; without it if nothing of it is a letter or digit.
    """
    end = re.sub(r"[^A-Za-z0-9]", "", extension)[:10]
    stem = _ascii(session.name) or _ascii(f"session-{session.id[:8]}")
    if _RESERVED.fullmatch(stem):
        stem = f"session-{stem}"
    stem = stem[: LONGEST - len(end) - 1].rstrip("-_")
    return f"{stem}.{end}" if end else stem


def _ascii(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text[: 4 * LONGEST]).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_]+", "-", letters).strip("-_")


def _opening(session: Session) -> list[str]:
    used = session.token_usage
    facts = [
        f"- Started: {_time(session.created_at)}",
        f"- Last change: {_time(session.updated_at)}",
        f"- Messages: {len(session.messages):,}",
        f"- Tokens: {used.input_tokens:,} in, {used.output_tokens:,} out",
    ]
    if session.llm_backend:
        facts.append(f"- Model: {_inline(session.llm_backend)}")
    return [f"# {_inline(session.name) or 'Conversation'}", "\n".join(facts)]


def _message(message: Message) -> list[str]:
    """A message's blocks; a blank line goes between them."""
    blocks = [f"## {_heading(message)}", f"*{_time(message.created_at)}*"]
    if message.content:
        verbatim = message.role == "tool" or _RISKY.search(message.content)
        blocks.append(_quoted(_fenced(message.content) if verbatim else message.content))
    if message.parts:
        attached = (
            f"- Attached: {_inline(p.name)} ({_inline(p.media_type)}, {p.size:,} bytes){_origin(p)}"
            for p in message.parts
        )
        blocks.append("\n".join(attached))
    for call in message.tool_calls:
        blocks += _call(call)
    return blocks


def _origin(part: Part) -> str:
    return f" from the server {_inline(part.server)}: {_inline(part.uri)}" if part.server else ""


def _heading(message: Message) -> str:
    name = f": {_inline(message.name)}" if message.name else ""
    return f"{_HEADINGS[message.role]}{name}{' (failed)' if message.status == 'error' else ''}"


def _call(call: ToolCall) -> list[str]:
    args = json.dumps(dict(call.args), ensure_ascii=False, indent=2, default=str)
    return [f"Calls the tool {_inline(call.name)} with", _quoted(_fenced(args, "json"))]


def _fenced(text: str, language: str = "") -> str:
    """The text in a fence that is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _quoted(text: str) -> str:
    """Each line behind ``>``, whatever the reader takes as the end of a line."""
    lines = _UNSEEN.sub("\ufffd", text).splitlines()
    return "\n".join(f"> {line}".rstrip(" ") for line in lines)


def _inline(text: str) -> str:
    """A name on one line, in which no sign has a meaning."""
    return _MARKS.sub(r"\\\1", " ".join(_UNSEEN.sub("\ufffd", text).split()))


def _time(time: datetime) -> str:
    return (time if time.tzinfo is None else time.astimezone(UTC)).strftime("%Y-%m-%d %H:%M:%S UTC")
