"""`mcp-chat usage`: what all users have spent, for an operator."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

from mcp_chat.cli import app
from mcp_chat.message import Usage
from mcp_chat.spent import Spent
from mcp_chat.stores.database import migrate
from mcp_chat.stores.sql import open_sql

TODAY = datetime.now(UTC).date()

STEPS = (("ann", "p:m", 0), ("ann", "p:n", 3), ("bob", "=p:m", 0), ("bob", "p:m", 60))
"""Whose, of which model, and how many days ago."""


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database in which two users have spent something."""
    url = f"sqlite:///{tmp_path}/chat.db"
    migrate(url)
    monkeypatch.setenv("DATABASE_URL", url)

    async def fill() -> None:
        async with open_sql(url) as archive:
            for user, model, days in STEPS:
                step = Spent(
                    id=f"{model}-{days}",
                    day=TODAY - timedelta(days=days),
                    session_id="s",
                    model=model,
                    usage=Usage(input_tokens=10, output_tokens=5, cost_nanos=2_500_000_000),
                    calls=1,
                )
                await archive.spend(user, [step], epoch=1)

    anyio.run(fill)
    return url


def told(*options: str) -> str:
    """What the command writes."""
    result = CliRunner().invoke(app, ["usage", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_all_users_are_told_of_as_a_table(database: str) -> None:
    rows = list(csv.DictReader(io.StringIO(told("--by", "model"))))
    assert [(row["user"], row["model"], row["input_tokens"], row["cost"], row["steps"]) for row in rows] == [
        ("ann", "p:m", "10", "2.5", "1"),
        ("ann", "p:n", "10", "2.5", "1"),
        ("bob", "'=p:m", "10", "2.5", "1"),  # no formula of a spreadsheet's
    ]


def lines(*options: str) -> list[dict[str, Any]]:
    """What the command writes as JSON."""
    return [json.loads(line) for line in told("--format", "json", *options).splitlines()]


def test_one_user_and_some_days_as_json(database: str) -> None:
    (line,) = lines("--user", "ann", "--since", "2d")
    assert (line["day"], line["output_tokens"], line["calls"]) == (TODAY.isoformat(), 5, 1)
    both = lines("--since", "90d", "--by", "session")
    assert [(line["user"], line["steps"]) for line in both] == [("ann", 2), ("bob", 2)]


def test_what_is_no_day_is_refused(database: str) -> None:
    result = CliRunner().invoke(app, ["usage", "--since", "yesterday"])
    assert result.exit_code != 0
