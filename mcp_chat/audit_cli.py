"""`mcp-chat audit`: what was done for whom, read from the trail in the database."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, get_args

import anyio
import typer

from mcp_chat.deed import Action
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.identity import user_key
from mcp_chat.message import now
from mcp_chat.sessions_cli import database_url, printable
from mcp_chat.settings import load_settings

if TYPE_CHECKING:
    from mcp_chat.stores.base import Archive, Noted

PAGE = 500
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def audit(
    user: Annotated[str, typer.Option(metavar="ID", help="Only this user, as the login names them.")] = "",
    action: Annotated[str, typer.Option(help=f"Only one of {', '.join(get_args(Action))}.")] = "",
    since: Annotated[str, typer.Option(help="Only since then: 30m, 12h, 7d, or 2026-01-31T08:00.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="So many of the last ones.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
) -> None:
    """Show who connected where and which tools ran, the last one last."""
    from mcp_chat import logs  # noqa: PLC0415 - as all the imports below: slow

    if action and action not in get_args(Action):
        raise InvalidRequest(f"There is no action {printable(action)}: use {', '.join(get_args(Action))}.")
    logs.set_up("error")
    wanted = {"action": action, "since": moment(since) if since else None}
    found = anyio.run(_last, user_key(user) if user else None, limit, wanted)
    for noted in reversed(found):
        typer.echo(json.dumps(described(noted), ensure_ascii=False) if as_json else line(noted))
    if not (found or as_json):
        typer.echo("The trail has nothing of the kind.")


def moment(text: str) -> datetime:
    """Return the moment that a text means: so long ago, or a date and time, of UTC unless it says otherwise.

    Raises:
        InvalidRequest: It means none.
    """
    try:
        if ago := re.fullmatch(r"(\d{1,6})([mhd])", text):
            return now() - timedelta(**{UNITS[ago[2]]: int(ago[1])})
        then = datetime.fromisoformat(text)
        return then if then.tzinfo else then.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{printable(text)} is no time: write 30m, 12h, 7d or 2026-01-31T08:00."
        ) from None


async def _last(user: str | None, limit: int, wanted: dict[str, Any]) -> list[Noted]:
    from mcp_chat.stores.sql import open_sql  # noqa: PLC0415

    async with open_sql(database_url(load_settings())) as archive:
        await archive.ping()
        pages = [page async for page in _pages(archive, user, limit, wanted)]
    return [noted for page in pages for noted in page]


async def _pages(
    archive: Archive, user: str | None, limit: int, wanted: dict[str, Any]
) -> AsyncIterator[list[Noted]]:
    before: int | None = None
    while limit > 0 and (page := await archive.deeds(user, limit=min(limit, PAGE), before=before, **wanted)):
        yield page
        limit -= len(page)
        before = page[-1].place


def described(noted: Noted) -> dict[str, Any]:
    """Return what the trail says of a deed, under the names of its fields."""
    fields = asdict(noted.deed)
    return {"at": fields.pop("at").isoformat(), "user": noted.user, **fields}


def line(noted: Noted) -> str:
    """Return a deed as a line: when, who, what, and all that is not empty."""
    deed = noted.deed
    what = deed.tool or deed.server
    how = deed.outcome if deed.decision == "allowed" else f"refused ({deed.outcome}) by {deed.by}"
    more = {"args": deed.arguments[:12], "session": deed.session_id, "turn": deed.turn}
    rest = [f"{name}={value}" for name, value in more.items() if value]
    words = [f"{deed.at:%Y-%m-%d %H:%M:%S}", noted.user, deed.action, what, how, f"{deed.ms}ms", *rest]
    return printable(" ".join(word for word in words if word))
