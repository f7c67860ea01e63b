"""Pages of long lists, and the cursors that lead from one to the next."""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import orjson
from starlette.requests import Request

from mcp_chat.exceptions import InvalidRequest
from mcp_chat.message import ID
from mcp_chat.session import Session
from mcp_chat.stores.base import Kept, Recency

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MICROSECOND = (datetime.max.replace(tzinfo=UTC) - BEGINNING) // timedelta(microseconds=1)

T = TypeVar("T")
P = TypeVar("P", int, Recency)


def count_of(request: Request, *, default: int, most: int) -> int:
    """Return how many a page is to have.

    Raises:
        InvalidRequest: `limit` is not a number from 1 to `most`.
    """
    text = request.query_params.get("limit", str(default))
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= most:
        raise InvalidRequest(f"limit must be a number from 1 to {most}.")
    return int(text)


def directions(request: Request, read: Callable[[Request, str], T | None]) -> tuple[T | None, T | None]:
    """Return where a page ends or begins, read by `read`; one of both at most.

    Raises:
        InvalidRequest: Both are given.
    """
    before, after = read(request, "before"), read(request, "after")
    if before is not None and after is not None:
        raise InvalidRequest("Give either before or after.")
    return before, after


def place_in(request: Request, name: str) -> int | None:
    """Return the place of a message that a cursor names."""
    match _opened(request, name):
        case None:
            return None
        case (int(place),) if not isinstance(place, bool) and 0 <= place < 2**63:
            return place
        case _:
            raise _bad_cursor(name)


def recency_in(request: Request, name: str) -> Recency | None:
    """Return the place of a session that a cursor names."""
    match _opened(request, name):
        case None:
            return None
        case (int(moment), str(id_)) if 0 <= moment <= LAST_MICROSECOND and re.fullmatch(ID, id_):
            return Recency(updated_at=BEGINNING + timedelta(microseconds=moment), id=id_)
        case _:
            raise _bad_cursor(name)


def _opened(request: Request, name: str) -> tuple[Any, ...] | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        padded = text[:512] + "=" * (-len(text) % 4)
        return tuple(orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True)))
    except (ValueError, TypeError):
        raise _bad_cursor(name) from None


def _bad_cursor(name: str) -> InvalidRequest:
    return InvalidRequest(f"{name} is not a cursor that was given here. Begin without one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some things in the order of time, and from where to go on; None where nothing follows."""

    items: Sequence[T]
    before: str | None
    after: str | None

    def cursors(self) -> dict[str, str | None]:
        """Return from where to go on, as it is sent."""
        return {"before": self.before, "after": self.after}


async def page_of(
    fetch: Callable[[int, P | None, P | None], Awaitable[Sequence[T]]],
    where: Callable[[T], P],
    *,
    limit: int,
    before: P | None,
    after: P | None,
) -> Page[T]:
    """Return a page; one thing more than its length tells whether another page follows."""
    found = await fetch(limit + 1, before, after)
    items = found[-limit:] if after is None else found[:limit]
    if not items:
        return Page(items=items, before=None, after=None)
    more = len(found) > limit
    first, last = where(items[0]), where(items[-1])
    older = more if after is None else bool(await fetch(1, first, None))
    newer = more if after is not None else before is not None and bool(await fetch(1, None, last))
    return Page(items=items, before=cursor(first) if older else None, after=cursor(last) if newer else None)


def cursor(place: int | Recency) -> str:
    """Return a place in a form that nobody is tempted to make themselves."""
    values: list[int | str] = [place] if isinstance(place, int) else [_microseconds(place), place.id]
    return base64.urlsafe_b64encode(orjson.dumps(values)).rstrip(b"=").decode()


def _microseconds(place: Recency) -> int:
    return (place.updated_at - BEGINNING) // timedelta(microseconds=1)


def recency_of(session: Session) -> Recency:
    """Return where a session stands."""
    return Recency(updated_at=session.updated_at, id=session.id)


def place_of(kept: Kept) -> int:
    """Return where a message stands."""
    return kept.place
