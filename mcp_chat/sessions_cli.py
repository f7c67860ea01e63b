"""`mcp-chat sessions`: an operator's way to a user's conversations."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import anyio
import typer

from mcp_chat.commands import DeleteSession
from mcp_chat.events import Event, SessionDeleted, is_final
from mcp_chat.exceptions import (
    ChatError,
    InvalidRequest,
    NotFound,
    SettingsError,
    StoreUnavailable,
    TooManyWaiting,
)
from mcp_chat.identity import user_key
from mcp_chat.safety import keys_at_hand
from mcp_chat.session import Session
from mcp_chat.settings import Settings, load_settings

if TYPE_CHECKING:
    from mcp_chat.stores.cipher import Cipher
    from mcp_chat.stores.redis import RedisStore
    from mcp_chat.stores.sql import SQLArchive

app = typer.Typer(name="sessions", help="List, show, export, import and delete a user's conversations.")

PAGE = 200
WAITING = 64
PATIENCE = 15.0
"""Seconds in which an owner that runs is to carry a command out."""

T = TypeVar("T")

User = Annotated[str, typer.Option("--user", metavar="ID", help="The user, as the login names them.")]
SessionId = Annotated[str, typer.Argument(metavar="SESSION_ID")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


class Form(StrEnum):
    """In which form a conversation is written."""

    JSON = "json"
    MARKDOWN = "markdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """One user's conversations in the archive."""

    archive: SQLArchive
    user: str

    async def all(self) -> list[Session]:
        """Return all sessions without their messages, the one used last first."""
        from mcp_chat.stores.base import Recency  # noqa: PLC0415 - as all the imports below: slow

        found: list[Session] = []
        before: Recency | None = None
        while page := await self.archive.sessions(self.user, limit=PAGE, before=before):
            found += page
            before = Recency(updated_at=page[-1].updated_at, id=page[-1].id)
        return found

    async def one(self, session_id: str) -> tuple[Session, int]:
        """Return a session without its messages, and how many these are.

        Raises:
            NotFound: The user has no such session.
        """
        session = await self.archive.session(self.user, session_id)
        if session is None:
            raise NotFound(f"This user has no conversation {printable(session_id)}.")
        return session, await self.archive.count(self.user, session_id)

    async def whole(self, session_id: str) -> Session:
        """Return a session with all its messages.

        Raises:
            NotFound: The user has no such session.
        """
        from mcp_chat.record import Record  # noqa: PLC0415
        from mcp_chat.stores.memory import MemoryStore  # noqa: PLC0415

        session, _ = await self.one(session_id)
        messages = await Record(MemoryStore().window, self.archive).all_messages(self.user, session_id)
        return replace(session, messages=tuple(messages))

    async def delete(self, session_id: str, redis_url: str) -> None:
        """Delete a session: the user's owner does it if one runs and hears us, and is fenced off otherwise.

        Raises:
            Fenced: Somebody has claimed the user in between.
            StoreUnavailable: What Redis holds of it is left to expire.
        """
        if redis_url and await self._asked(session_id, redis_url):
            return
        epoch = await self.archive.next_epoch(self.user, 0)
        await self.archive.delete_session(self.user, session_id, epoch=epoch)
        if redis_url:
            await self._clear_window(session_id, redis_url)

    async def _asked(self, session_id: str, redis_url: str) -> bool:
        """Let an owner delete it, who stops its turns; tell whether there is one who did."""
        command = DeleteSession(session_id=session_id)

        async def ask(store: RedisStore) -> Event | None:
            owner = await store.leases.get(self.user)
            if owner is None or not await store.leases.alive(owner.worker):
                return None
            place = await store.inbox.put(self.user, command, limit=WAITING)
            if place is None:
                raise TooManyWaiting
            with anyio.move_on_after(PATIENCE):
                return await _outcome(store, self.user, command.id, place)
            return None

        try:
            outcome = await _in_redis(redis_url, ask)
        except StoreUnavailable:
            return False
        return isinstance(outcome, SessionDeleted)

    async def _clear_window(self, session_id: str, redis_url: str) -> None:
        from mcp_chat.record import DEFAULT  # noqa: PLC0415

        window = None if session_id == DEFAULT else session_id
        try:
            await _in_redis(redis_url, lambda store: store.window.clear(self.user, window, epoch=None))
        except StoreUnavailable:
            raise StoreUnavailable(
                "It is deleted, but Redis does not answer: what it still holds of it expires by itself."
            ) from None


async def _in_redis(url: str, work: Callable[[RedisStore], Awaitable[T]]) -> T:
    """Do something in Redis. What it raises is raised as it is, and not in a group."""
    from mcp_chat.stores.redis import open_redis  # noqa: PLC0415

    failure: ChatError | None = None
    async with open_redis(url) as store:
        try:
            done = await work(store)
        except ChatError as error:
            failure = error
    if failure:
        raise failure
    return done


async def _outcome(store: RedisStore, user: str, command_id: str, place: str) -> Event:
    """Wait for how a command ends; owners look for commands once a second."""
    while True:
        for entry in await store.log.read(user, place):
            place = entry.id
            if entry.command_id == command_id and is_final(entry.event):
                return entry.event
        await anyio.sleep(0.1)


@app.command("list")
def list_sessions(user: User, as_json: AsJson = False) -> None:
    """List conversations, the one used last first."""
    found = _run(user, lambda shelf: shelf.all())
    if as_json:
        _write_json([described(session) for session in found])
    else:
        typer.echo("\n".join(table(found)) if found else "This user has no conversations.")


@app.command()
def show(session_id: SessionId, user: User, as_json: AsJson = False) -> None:
    """Show what is known of a conversation."""
    session, count = _run(user, lambda shelf: shelf.one(session_id))
    fields = {**described(session), "context": dict(session.context), "messages": count}
    if as_json:
        _write_json(fields)
        return
    for name, value in fields.items():
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
        typer.echo(f"{name:<14} {printable(text)}".rstrip())


@app.command()
def export(
    session_id: SessionId,
    user: User,
    form: Annotated[Form, typer.Option("--format", help="In which form.")] = Form.JSON,
    output: Annotated[Path | None, typer.Option(help="A file instead of the terminal.")] = None,
) -> None:
    """Write a conversation with all its messages."""
    from mcp_chat.message import public  # noqa: PLC0415
    from mcp_chat.transfer import markdown  # noqa: PLC0415

    whole = _run(user, lambda shelf: shelf.whole(session_id))
    session = replace(whole, messages=tuple(map(public, whole.messages)))
    text = session.to_json() if form is Form.JSON else markdown(session)
    content = text.rstrip("\n").encode() + b"\n"
    if output is None:
        sys.stdout.buffer.write(content)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise InvalidRequest(f"{output} cannot be written: {error.strerror}.") from None


@app.command("import")
def import_session(
    file: Annotated[Path, typer.Argument(help="An exported conversation as JSON.")], user: User
) -> None:
    """Make a new conversation of an exported one, and print its id."""
    from mcp_chat.api.sessions import adopted  # noqa: PLC0415

    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}.") from None
    session = adopted(Session.from_json(content))
    _run(user, lambda shelf: shelf.archive.import_session(shelf.user, session))
    typer.echo(session.id)


@app.command()
def delete(
    session_id: SessionId,
    user: User,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a conversation, its messages, and the files that only it has."""
    session, count = _run(user, lambda shelf: shelf.one(session_id))
    if not yes:
        what = f"{printable(session.name) or 'without a name'}, {count} messages"
        typer.confirm(f"Delete the conversation ({what})?", abort=True)
    redis = redis_url(load_settings())
    _run(user, lambda shelf: shelf.delete(session_id, redis))
    typer.echo("Deleted.")


def _run(user: str, work: Callable[[Shelf], Awaitable[Any]]) -> Any:
    """Do something with a user's conversations. Programs read what is written: no warning goes in between."""
    from mcp_chat import logs  # noqa: PLC0415

    logs.set_up("error")

    async def run() -> Any:
        async with _shelf(load_settings(), user) as shelf:
            return await work(shelf)

    return anyio.run(run)


@asynccontextmanager
async def _shelf(settings: Settings, user: str) -> AsyncIterator[Shelf]:
    from mcp_chat.stores.sql import open_sql  # noqa: PLC0415

    async with open_sql(database_url(settings), cipher_of(settings)) as archive:
        await archive.ping()
        yield Shelf(archive=archive, user=user_key(user))


def cipher_of(settings: Settings) -> Cipher:
    """Return what the chat's texts go through."""
    from mcp_chat.stores.cipher import PLAIN, Sealing  # noqa: PLC0415
    from mcp_chat.vault import Vault  # noqa: PLC0415

    keys = keys_at_hand(settings)
    return Sealing(Vault(keys), on=settings.encrypt_history) if keys else PLAIN


def database_url(settings: Settings) -> str:
    """Return where the conversations are: DATABASE_URL, or the file of `mcp-chat serve`.

    Raises:
        SettingsError: There is neither.
    """
    url = settings.database_url.get_secret_value()
    if url:
        return url
    path = settings.data_dir.expanduser().resolve() / "mcp-chat.db"
    if not path.is_file():
        raise SettingsError(f"There is no database {path}: set DATABASE_URL or MCP_CHAT_DATA_DIR.")
    return f"sqlite:///{path}"


def redis_url(settings: Settings) -> str:
    """Return where the chat's workers meet: REDIS_URL, or the Valkey of a `mcp-chat serve` that runs."""
    url = settings.redis_url.get_secret_value()
    if url or settings.database_url.get_secret_value():
        return url
    path = settings.data_dir.expanduser().resolve() / "valkey.sock"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        return f"unix://{quote(str(path))}"
    return ""


def described(session: Session) -> dict[str, Any]:
    """Return what is known of a session, as the HTTP API names it."""
    return {
        "session_id": session.id,
        "name": session.name,
        "llm_backend": session.llm_backend,
        "created_at": session.created_at.isoformat(),
        "updated_at": session.updated_at.isoformat(),
        "total_tokens": session.total_tokens(),
    }


def table(sessions: list[Session]) -> list[str]:
    """Return the lines of a table of sessions."""
    rows = [("ID", "UPDATED", "TOKENS", "NAME")]
    rows += [
        (s.id, f"{s.updated_at:%Y-%m-%d %H:%M}", str(s.total_tokens()), printable(s.name)[:60])
        for s in sessions
    ]
    ids, tokens = max(len(row[0]) for row in rows), max(len(row[2]) for row in rows)
    return [f"{id_:<{ids}}  {at:<16}  {used:>{tokens}}  {name}".rstrip() for id_, at, used, name in rows]


def printable(text: str) -> str:
    """Return a text that cannot do anything to a terminal."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)


def _write_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
