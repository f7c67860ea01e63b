"""`mcp-chat keys`: making, counting and rotating the keys that seal what is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import anyio
import typer

from mcp_chat.exceptions import SettingsError
from mcp_chat.keyring import new_key
from mcp_chat.safety import keys_at_hand
from mcp_chat.sessions_cli import database_url, redis_url
from mcp_chat.settings import Settings, load_settings

if TYPE_CHECKING:
    from mcp_chat.stores.renewal import Renewal, Tally

app = typer.Typer(name="keys", help="Make, count and rotate the keys that seal what is kept.")

ROUNDS = 5
"""How often a rotation looks again for what workers have written meanwhile."""
LEFT, UNREADABLE = 1, 3
"""Exit codes: older keys are still needed; they are not, but some values no key opens."""

T = TypeVar("T")


class Sweep(Protocol):
    """Goes through a store."""

    async def renew(self) -> Tally:
        """Go through it once, and bring under the newest key what is not."""
        ...

    async def key_ids(self) -> Counter[str]:
        """Count the values by the names of their keys."""
        ...


@app.command()
def new() -> None:
    """Print a fresh key."""
    typer.echo(new_key())


@app.command()
def status() -> None:
    """Tell how many values are under which key."""
    renewal = _renewal(load_settings())
    found = _run(renewal, _counted)
    for line in table(found, renewal.vault.key_ids):
        typer.echo(line)


@app.command()
def rotate() -> None:
    """Bring everything under the newest key, while the chat runs or when it does not.

    Exit code 0: the older keys can go. 1: something is left under them, run it again. 3: the older keys can
    go, but some values are opened by no key.
    """
    renewed, last = _run(_renewal(load_settings()), _rotated)
    left = last.renewed + last.missed
    typer.echo(
        f"Renewed: {renewed}. Left under older keys or unsealed: {left}. Unreadable: {last.unreadable}."
    )
    if left:
        typer.echo("Workers still write under an older key: give all of them the newest one first.", err=True)
    raise typer.Exit(LEFT if left else UNREADABLE if last.unreadable else 0)


def table(found: Counter[str], known: list[str]) -> list[str]:
    """Return the lines of a table of keys: ours, the newest first, then others, then what is not sealed."""
    rows = [(key_id, "newest" if n == 0 else "older", found[key_id]) for n, key_id in enumerate(known)]
    rows += [(key_id, "unknown", found[key_id]) for key_id in sorted(set(found) - {*known, ""})]
    rows.append(("not sealed", "", found[""]))
    return [
        f"{'KEY':<16}  {'':<7}  VALUES",
        *(f"{name:<16}  {what:<7}  {count}" for name, what, count in rows),
    ]


async def _counted(sweeps: list[Sweep]) -> Counter[str]:
    found: Counter[str] = Counter()
    for sweep in sweeps:
        found += await sweep.key_ids()
    return found


async def _rotated(sweeps: list[Sweep]) -> tuple[int, Tally]:
    """Go through all stores until nothing is left; return how many were renewed, and the last round."""
    from mcp_chat.stores.renewal import Tally  # noqa: PLC0415

    renewed, last = 0, Tally()
    for _ in range(ROUNDS):
        last = Tally()
        for sweep in sweeps:
            last += await sweep.renew()
        renewed += last.renewed
        if not (last.renewed or last.missed):
            break
    return renewed, last


def _renewal(settings: Settings) -> Renewal:
    from mcp_chat.stores.renewal import Renewal  # noqa: PLC0415
    from mcp_chat.vault import Vault  # noqa: PLC0415

    keys = keys_at_hand(settings)
    if not keys:
        raise SettingsError(
            "There is no key: set MCP_CHAT_ENCRYPTION_KEY, or MCP_CHAT_DATA_DIR in demo mode."
        )
    return Renewal(Vault(keys), settings.encrypt_history)


def _run(renewal: Renewal, work: Callable[[list[Sweep]], Awaitable[T]]) -> T:
    """Do something with all stores. What it raises is raised as it is."""
    from mcp_chat import logs  # noqa: PLC0415

    logs.set_up("error")

    async def run() -> T:
        async with _opened(load_settings(), renewal) as sweeps:
            return await work(sweeps)

    return anyio.run(run)


@asynccontextmanager
async def _opened(settings: Settings, renewal: Renewal) -> AsyncIterator[list[Sweep]]:
    """Open the database, if there is one, and Redis, if there is one or `mcp-chat serve` runs."""
    from mcp_chat.stores.client import open_client  # noqa: PLC0415
    from mcp_chat.stores.redis_sweep import RedisSweep  # noqa: PLC0415
    from mcp_chat.stores.sql_sweep import open_sweep  # noqa: PLC0415

    redis = redis_url(settings)
    async with AsyncExitStack() as stack:
        sweeps: list[Sweep] = []
        if url := _database(settings, needed=not redis):
            sweeps.append(await stack.enter_async_context(open_sweep(url, renewal)))
        if redis:
            sweeps.append(RedisSweep(await stack.enter_async_context(open_client(redis)), renewal))
        yield sweeps


def _database(settings: Settings, *, needed: bool) -> str:
    try:
        return database_url(settings)
    except SettingsError:
        if needed:
            raise
        return ""
