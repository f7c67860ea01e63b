"""`mcp-chat usage`: what users have spent, read from the database."""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, date, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from mcp_chat.audit_cli import moment
from mcp_chat.identity import user_key
from mcp_chat.message import now
from mcp_chat.sessions_cli import database_url, printable
from mcp_chat.settings import load_settings

if TYPE_CHECKING:
    from mcp_chat.spent import Sum


class By(StrEnum):
    """What is told apart, besides the users."""

    DAY = "day"
    MODEL = "model"
    SESSION = "session"


class Form(StrEnum):
    """In which form it is written."""

    CSV = "csv"
    JSON = "json"


def usage(
    user: Annotated[str, typer.Option(metavar="ID", help="Only this user, as the login names them.")] = "",
    since: Annotated[str, typer.Option(help="Since that day: 7d, or 2026-01-31. 30 days if not given.")] = "",
    until: Annotated[str, typer.Option(help="Until that day, in UTC. Today if not given.")] = "",
    by: Annotated[By, typer.Option(help="What to tell apart.")] = By.DAY,
    form: Annotated[Form, typer.Option("--format", help="How it is written.")] = Form.CSV,
) -> None:
    """Write what users have spent: tokens, money, calls of models and of tools."""
    from mcp_chat import logs  # noqa: PLC0415 - as all the imports below: slow

    logs.set_up("error")
    last = day(until) if until else now().date()
    first = day(since) if since else last - timedelta(days=29)
    rows = [row(each, by) for each in anyio.run(_sums, user, first, last, by)]
    if form is Form.JSON:
        for each in rows:
            typer.echo(json.dumps(each, ensure_ascii=False))
        return
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(columns(by))
    table.writerows([cell(each[name]) for name in columns(by)] for each in rows)


def day(text: str) -> date:
    """Return the day that a text means.

    Raises:
        InvalidRequest: It means none.
    """
    return moment(text).astimezone(UTC).date()


async def _sums(user: str, since: date, until: date, by: By) -> list[Sum]:
    from mcp_chat.stores.sql import open_sql  # noqa: PLC0415

    async with open_sql(database_url(load_settings())) as archive:
        await archive.ping()
        if user:
            return await archive.sums(user_key(user), since=since, until=until, by=by.value)
        return await archive.all_sums(since=since, until=until, by=by.value)


def row(each: Sum, by: By) -> dict[str, Any]:
    """Return a sum under the names of its columns."""
    from mcp_chat.api.usage import shown  # noqa: PLC0415

    return {"user": each.user, by.value: each.key, **shown(each)}


def columns(by: By) -> list[str]:
    """Return the names of the columns."""
    from mcp_chat.spent import Sum  # noqa: PLC0415

    return list(row(Sum(), by))


def cell(value: Any) -> Any:
    """Return a value as a spreadsheet takes it: a name that begins like a formula is none."""
    if isinstance(value, str):
        value = printable(value)
        return f"'{value}" if value[:1] in "=+-@" else value
    return value
