"""What the log says of an exception: kinds and places, and no message that is not ours.

What a library says in an error quotes keys, addresses and chat texts; only our own errors are written to be
shown.
"""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from types import TracebackType

from mcp_chat.exceptions import ChatError, SettingsError

FRAMES = 40
"""Frames of one exception that are shown, half of them from either end."""
ERRORS = 20
"""Exceptions behind one that are shown."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def escaped(text: str) -> str:
    """Return a text with its control characters written out: it is one line and commands no terminal."""
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def kind_of(error: BaseException) -> str:
    """Return what an exception is, with its message if that is one of ours."""
    if isinstance(error, (ChatError, SettingsError)):
        return f"{type(error).__name__}: {escaped(str(error))}"
    name = type(error).__qualname__
    if type(error).__module__ != "builtins":
        name = f"{type(error).__module__}.{name}"
    number = error.errno if isinstance(error, OSError) else None
    return f"{name} [{errno.errorcode[number]}]" if number in errno.errorcode and number else name


def trace_of(error: BaseException) -> str:
    """Return an exception, where it was raised, and the ones behind it, the outermost first."""
    return "\n".join(_lines(error, "", set()))


def _lines(error: BaseException, indent: str, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    yield indent + kind_of(error)
    for place in _places(error.__traceback__):
        yield f"{indent}  at {place}"
    for how, other in _behind(error):
        if id(other) not in seen and len(seen) < ERRORS:
            yield f"{indent}{how}"
            yield from _lines(other, f"{indent}  " if how == "among them" else indent, seen)


def _behind(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    if isinstance(error, BaseExceptionGroup):
        yield from (("among them", each) for each in error.exceptions)
    if error.__cause__ is not None:
        yield "caused by", error.__cause__
    elif error.__context__ is not None and not error.__suppress_context__:
        yield "while handling", error.__context__


def _places(trace: TracebackType | None) -> list[str]:
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(trace)]
    places = [f"{code.co_filename}:{line} {code.co_qualname}" for code, line in frames]
    if len(places) > FRAMES:
        half = FRAMES // 2
        places[half:-half] = [f"... {len(places) - FRAMES} more"]
    return places
