"""Small things of a user's that several workers need, each under a kind and a name, and each for a time.

They are in the record: the database if there is one, else Redis, else the memory of the one process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from mcp_chat.exceptions import InvalidRequest, TooLarge

MOST: Final = 256
"""Documents of a kind that a user may have."""
LARGEST: Final = 4 * 1024 * 1024
"""Bytes of one; what is sealed is a third larger than what it says."""
TOGETHER: Final = 32 * 1024 * 1024
"""Bytes that all of a kind of a user's may have together."""
LONGEST: Final = 400 * 86_400.0
"""Seconds that one is kept at most."""

_KIND = re.compile(r"[a-z_-]{1,32}")
_NAME = re.compile(r"[^\x00\ud800-\udfff]{1,512}", re.DOTALL)
_TEXT = re.compile(r"[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text as it is kept, and its version, which rises with each write and never comes again."""

    name: str
    text: str
    version: int


class Documents(Protocol):
    """Reads and writes documents. All methods raise `StoreUnavailable` when the record does not answer.

    A kind is one of the program's own words. A name may come from anybody: one that no document can have is
    that of none.
    """

    async def get_document(self, user: str, kind: str, name: str) -> Document | None:
        """Return a document whose time is not over."""
        ...

    async def list_documents(self, user: str, kind: str) -> list[Document]:
        """Return a user's documents of a kind, by their names."""
        ...

    async def put_document(
        self,
        user: str,
        kind: str,
        name: str,
        text: str,
        *,
        seconds: float,
        version: int | None = None,
        epoch: int | None = None,
    ) -> int | None:
        """Set a document, and return its new version.

        Args:
            seconds: How long it is kept from now on, `LONGEST` at most.
            version: Only if it still has this version, 0 if there is none; otherwise return None.
            epoch: The owner's; None for a writer that is no owner.

        Raises:
            Fenced: A higher epoch owns the user.
            InvalidRequest: No document can have this name or text.
            TooLarge: The text is too large, or there are too many documents of this kind already.
        """
        ...

    async def drop_document(self, user: str, kind: str, name: str, *, version: int | None = None) -> bool:
        """Delete a document, if given only that version of it; tell whether there was one.

        Of several who drop the same at the same time one is told so: who drops it may use it, once.
        """
        ...


def can_be(kind: str, name: str) -> bool:
    """Tell whether a document can have this kind and name."""
    return bool(_KIND.fullmatch(kind) and _NAME.fullmatch(name))


def size_of(kind: str, name: str, text: str) -> int:
    """Return how many bytes a text has that is to be kept.

    Raises:
        InvalidRequest: No document can have this kind, name or text.
        TooLarge: They are too many.
    """
    if not can_be(kind, name) or _TEXT.search(text):
        raise InvalidRequest("This name or text cannot be kept: use another one, of 512 characters at most.")
    if (size := len(text.encode())) > LARGEST:
        raise TooLarge(
            f"What is to be kept has more than {LARGEST} bytes when it is sealed. Send less at once."
        )
    return size


def check_room(others: int, together: int, size: int) -> None:
    """Check that there is room for one more document.

    Args:
        others: How many of its kind there are beside it.
        together: Their bytes.
        size: Its own.

    Raises:
        TooLarge: There is none.
    """
    if others >= MOST or together + size > TOGETHER:
        raise no_room()


def no_room() -> TooLarge:
    """Return what a user is told for whom no more can be kept."""
    return TooLarge(
        f"No more of this can be kept for you: {MOST} pieces, or {TOGETHER} bytes. Remove some, or try later."
    )


def life(seconds: float) -> float:
    """Return how long a document is kept that is to be kept so long: for some time, and not for ever."""
    return min(max(seconds, 0.001), LONGEST)


def field_of(kind: str, name: str) -> str:
    """Return the field that a document is sealed for."""
    return f"document {kind} {name}"
