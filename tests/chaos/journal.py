"""What a run leaves behind: records of what was asked, seen, called and broken, one JSON line each.

Times are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A user's message and what became of it.

    Attributes:
        op: The operation that its text and its tool call name.
        sent: When it was sent first.
        acked: When the server first answered 200 to it.
        refused: Whether every answer was that it is not taken.
        end: `final`, `stopped` or `error` as its last reader was told; empty if nobody was in time.
        content: What `final` said.
    """

    op: str
    user: str
    text: str
    message_id: str
    sent: float
    session: str = ""
    acked: float | None = None
    refused: bool = False
    end: str = ""
    content: str = ""
    kind: Literal["sent"] = "sent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A server-sent event as it arrived."""

    id: str
    event: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one reader saw through all its reconnects: ids must go on where they stopped.

    Attributes:
        turn: The one turn that it read; empty for a tab, which reads a session.
        after: The place behind which it began; empty for the turn's beginning.
    """

    user: str
    frames: list[Frame]
    turn: str = ""
    session: str = ""
    after: str = ""
    kind: Literal["view"] = "view"


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A disconnect.

    Attributes:
        acked: When it was acknowledged.
        until: When the next connect was sent.
        problems: What workers said meanwhile that they must not.
    """

    user: str
    acked: float
    until: float
    problems: list[str] = field(default_factory=list)
    kind: Literal["left"] = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """An answer that no fault explains."""

    user: str
    what: str
    kind: Literal["odd"] = "odd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A tool call as the recording server had it."""

    tool: str
    op: str
    phase: Literal["start", "end"]
    at: float
    kind: Literal["call"] = "call"


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """An entry of a user's log, in the order in which it was found there."""

    user: str
    id: str
    command: str
    event: dict[str, Any]
    kind: Literal["logged"] = "logged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Here Redis lost all that it had; what comes is a new log."""

    kind: Literal["lost"] = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A user's lease, as it was found."""

    user: str
    epoch: int
    worker: str
    kind: Literal["held"] = "held"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A message in the database, in its order."""

    user: str
    session: str
    message: dict[str, Any]
    kind: Literal["kept"] = "kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A conversation as a worker shows it at the end."""

    user: str
    session: str
    messages: list[dict[str, Any]]
    kind: Literal["shown"] = "shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What the nemesis did."""

    name: str
    detail: str
    began: float
    ended: float
    kind: Literal["fault"] = "fault"


Record = Sent | View | Left | Odd | Call | Logged | Lost | Held | Kept | Shown | Fault

_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def now() -> float:
    """Return the time by the clock of all journals."""
    return time.monotonic()


class Journal:
    """A file that records are appended to, in a `with` block.

    Args:
        path: The file.
        sync: Whether each record is on the disk before the next step.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self._path = path
        self._sync = sync

    def write(self, record: Record) -> None:
        """Append a record."""
        self._file.write(_RECORD.dump_json(record) + b"\n")
        if self._sync:
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        self._file = self._path.open("ab", buffering=0 if self._sync else -1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read(paths: Iterable[Path]) -> Iterator[Record]:
    """Yield the records of some journals."""
    for path in paths:
        with path.open("rb") as lines:
            for line in lines:
                yield _RECORD.validate_json(line)
