"""Redis or Valkey: leases, inboxes, logs, windows and configurations that all workers share.

Keys, with `u` the user's key in literal braces so that a user's keys share one cluster slot:

    active:session:{u}            hash    owner's worker id, epoch
    session:lock:{u}              string  token of who is claiming
    user:config:{u}               string  sealed configuration
    chat:history:{u}[:session]    list    recent messages
    chat:sides:{u}[:session]      string  branches of it that are not shown, where there is no database
    chat:aside:{u}                list    values of a window that nobody can read
    chat:aside:{u}:key            any     a whole window of a wrong type
    chat:events:{u}               stream  events, ids <epoch>-<n>
    chat:renewed:{u}:<n>          stream  a copy of a log or inbox under a new key, about to take its place
    chat:inbox:{u}                stream  commands that have not ended
    chat:seen:{u}:<command>       string  the log's end when the command's id was first seen
    chat:bell:{u}                 channel rung for each append to the user's log, which is its note
    chat:document:{u}:<kind>:<name>  string  a document, its version in front
    chat:documents:{u}:<kind>     hash    what documents of a kind there are: end, size and last write of each
    chat:version:{u}              string  the last version of any of the user's documents
    chat:usage:{u}:<day>          hash    what was spent on a day, steps by their ids
    chat:rate:{u}                 string  how far the user's requests reach into the next minute
    worker:{w}                    string  heartbeat: 1, or full for a worker that takes no further turns
    worker:sessions:{w}           set     users that the worker has claimed
    worker:bell:{w}               channel rung for commands, with the user as note
    workers                       zset    workers by the end of their last beat
    workers:leaving               set     workers that take no users any more
    workers:bell                  channel rung when a worker has died, with its id as note

The scripts in `lua/` say what each does with its keys. Every key has a time to live.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import structlog
from pydantic import ValidationError
from redis.exceptions import RedisError, ResponseError

from mcp_chat.commands import COMMAND, Command, is_recorded
from mcp_chat.events import EVENT, Entry
from mcp_chat.exceptions import Fenced, Forgotten, Unreadable
from mcp_chat.stores.base import START, Waiting, log_bell
from mcp_chat.stores.cipher import PLAIN, Cipher
from mcp_chat.stores.client import Client, execute_many, failed, open_client, translated
from mcp_chat.stores.doorbells import RedisBells
from mcp_chat.stores.redis_branches import owner_key
from mcp_chat.stores.redis_documents import RedisDocuments
from mcp_chat.stores.redis_leases import DAY, RedisLeases
from mcp_chat.stores.redis_window import RedisWindow
from mcp_chat.stores.scripts import Scripts
from mcp_chat.stores.usages import DAYS, RedisUsages

log = structlog.get_logger()

SHORTLY = 60
"""Seconds for which the id of a command that is in no record is known: less than any log lasts."""

IN_INBOX, IN_LOG = "inbox", "event"
"""The fields that texts are sealed for."""


def _inbox_key(user: str) -> str:
    return f"chat:inbox:{{{user}}}"


def _log_key(user: str) -> str:
    return f"chat:events:{{{user}}}"


def _seen_key(user: str, command_id: str) -> str:
    return f"chat:seen:{{{user}}}:{command_id}"


def _age(place: str) -> float:
    """How many seconds ago something was put into an inbox, whose places are times."""
    return time.time() - int(place.partition("-")[0]) / 1000


class RedisInbox:
    """Commands in a stream; each is removed when it has ended."""

    def __init__(self, redis: Client, scripts: Scripts, cipher: Cipher = PLAIN) -> None:
        self._redis = redis
        self._scripts = scripts
        self._cipher = cipher
        self._told: deque[tuple[str, str]] = deque(maxlen=1000)

    async def put(self, user: str, command: Command, *, limit: int, again: bool = False) -> str | None:
        keys = [_inbox_key(user), _seen_key(user, command.id), _log_key(user)]
        remembered = DAY if is_recorded(command) else SHORTLY
        text = self._cipher.seal(COMMAND.dump_json(command).decode(), user=user, field=IN_INBOX)
        args = (text, limit, DAY, "again" if again else "", remembered)
        place = await self._scripts.run("put", keys, args)
        return None if place == "full" else str(place)

    async def read(self, user: str, after: str) -> list[Waiting]:
        with translated():
            found = _texts(await self._redis.xrange(_inbox_key(user), min=f"({after}"))
        waiting = []
        for place, fields in found:
            try:
                text = self._cipher.open(fields["c"], user=user, field=IN_INBOX)
                waiting.append(Waiting(place=place, command=COMMAND.validate_json(text)))
            except Unreadable:  # for who has the key, but not for ever: there is only so much room
                if _age(place) > DAY:
                    await self._drop(user, place)
                elif (user, place) not in self._told:  # it is read again each second
                    self._told.append((user, place))
                    log.error("command.unreadable", user=user, place=place)
            except ValidationError:  # another version's: nobody here can ever carry it out
                await self._drop(user, place)
        return waiting

    async def _drop(self, user: str, place: str) -> None:
        log.error("command.unknown", user=user, place=place)
        with translated():
            await self._redis.xdel(_inbox_key(user), place)

    async def seen(self, user: str, command_id: str) -> str | None:
        with translated():
            place = await self._redis.get(_seen_key(user, command_id))
        return None if place is None else str(place)

    async def waits(self, user: str) -> bool:
        with translated():
            return bool(await self._redis.xlen(_inbox_key(user)))

    async def remove(self, user: str, place: str, *, epoch: int) -> None:
        await self._scripts.run_fenced("done", [_inbox_key(user), owner_key(user)], [epoch, place])


class RedisLog:
    """Events in a stream whose ids are `<epoch>-<n>`: Redis itself refuses what an older epoch writes."""

    def __init__(self, redis: Client, scripts: Scripts, keep: int, cipher: Cipher = PLAIN) -> None:
        self._redis = redis
        self._scripts = scripts
        self._keep = keep
        self._cipher = cipher

    async def append(
        self, user: str, epoch: int, entries: Sequence[Entry], *, ttl: int | None = None
    ) -> None:
        keys = [_log_key(user), owner_key(user), _inbox_key(user)]
        args: list[str | int] = [epoch, self._keep, ttl or DAY, log_bell(user)]
        for entry in entries:
            text = self._cipher.seal(EVENT.dump_json(entry.event).decode(), user=user, field=IN_LOG)
            args += [entry.id, f"{entry.command_id} {text}"]
        done = await self._scripts.run("append", keys, args)
        if done == -1:
            raise Forgotten
        if not done:
            raise Fenced

    async def read(self, user: str, after: str, *, limit: int = 1000) -> list[Entry]:
        with translated():
            found = _texts(await self._redis.xrange(_log_key(user), min=f"({after}", count=limit))
        return self._entries(user, found)

    async def read_many(self, places: Mapping[str, str], *, limit: int = 1000) -> dict[str, list[Entry]]:
        with translated():
            commands = [("XRANGE", _log_key(u), f"({p}", "+", "COUNT", limit) for u, p in places.items()]
            found = await execute_many(self._redis, commands)
        answers = zip(places, found, strict=True)
        return {user: self._entries(user, _texts(rows)) for user, rows in answers if not _away(rows)}

    async def end(self, user: str) -> str:
        try:
            return str((await self._redis.xinfo_stream(_log_key(user)))["last-generated-id"])
        except ResponseError as error:
            if "no such key" in str(error):
                return START
            raise failed(error) from error
        except (RedisError, OSError) as error:
            raise failed(error) from error

    def heard(self, user: str, note: str) -> list[Entry]:
        lines = note.split("\n")
        return self._entries(
            user, [(place, {"e": text}) for place, text in zip(lines[::2], lines[1::2], strict=False)]
        )

    async def erase(
        self, user: str, entries: Sequence[Entry], commands: Collection[str], *, epoch: int
    ) -> None:
        keys = [_log_key(user), owner_key(user), *(_seen_key(user, command) for command in commands)]
        await self._scripts.run_fenced("erase", keys, [epoch, *(entry.id for entry in entries)])

    def _entries(self, user: str, found: list[tuple[str, dict[str, str]]]) -> list[Entry]:
        return [entry for place, fields in found if (entry := self._entry(user, place, fields["e"]))]

    def _entry(self, user: str, place: str, text: str) -> Entry | None:
        """Return an entry, or None for an event that only another version of this program knows."""
        command_id, _, event = text.partition(" ")
        try:
            opened = self._cipher.open(event, user=user, field=IN_LOG)
            return Entry(id=place, command_id=command_id, event=EVENT.validate_json(opened))
        except (Unreadable, ValidationError):
            log.warning("event.unknown", place=place)
            return None


def _away(answer: Any) -> bool:
    """Tell whether a node of a cluster did not answer; a bug is raised as what it is."""
    if isinstance(answer, BaseException) and not isinstance(answer, RedisError | OSError):
        raise answer
    return isinstance(answer, BaseException)


def _texts(found: Any) -> list[tuple[str, dict[str, str]]]:
    """The client decodes, which its types cannot tell."""
    return list(found or ())


class RedisConfigs:
    """Sealed configurations."""

    def __init__(self, redis: Client, scripts: Scripts, ttl: int) -> None:
        self._redis = redis
        self._scripts = scripts
        self._ttl = ttl

    async def get(self, user: str) -> str | None:
        with translated():
            sealed = await self._redis.get(f"user:config:{{{user}}}")
        return None if sealed is None else str(sealed)

    async def put(self, user: str, sealed: str, *, epoch: int) -> None:
        keys = [f"user:config:{{{user}}}", owner_key(user)]
        await self._scripts.run_fenced("configure", keys, [epoch, sealed, self._ttl])

    async def delete(self, user: str, *, epoch: int) -> None:
        await self._scripts.run_fenced("forget", [f"user:config:{{{user}}}", owner_key(user)], [epoch])


class RedisRates:
    """One moment a user, by the server's clock."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def take(self, user: str, *, per_minute: int) -> float:
        return int(await self._scripts.run("rate", [f"chat:rate:{{{user}}}"], [per_minute])) / 1_000_000


class RedisStore:
    """The backend that workers share.

    Args:
        redis: A client with `decode_responses=True`.
        max_messages: Messages kept in a window.
        history_ttl: Seconds until an unused window expires.
        session_ttl: Seconds until an unused configuration expires.
        keep_events: Entries kept in a user's log, about.
        usage_days: Days for which it is known what was spent; 0 for ever.
        cipher: What texts go through.
    """

    def __init__(
        self,
        redis: Client,
        *,
        max_messages: int = 50,
        history_ttl: int = 3600,
        session_ttl: int = 300,
        keep_events: int = 20_000,
        usage_days: int = DAYS,
        cipher: Cipher = PLAIN,
    ) -> None:
        scripts = Scripts(redis)
        self.redis = redis
        self.leases = RedisLeases(redis, scripts)
        self.inbox = RedisInbox(redis, scripts, cipher)
        self.log = RedisLog(redis, scripts, keep_events, cipher)
        self.window = RedisWindow(redis, scripts, max_messages, history_ttl, cipher)
        self.configs = RedisConfigs(redis, scripts, session_ttl)
        self.rates = RedisRates(scripts)
        self.documents = RedisDocuments(redis, scripts)
        self.usages = RedisUsages(redis, scripts, usage_days)
        self.bells = RedisBells(redis)

    async def ping(self) -> None:
        """Return when Redis answers."""
        with translated():
            await self.redis.ping()


@asynccontextmanager
async def open_redis(url: str, *, cipher: Cipher = PLAIN, **limits: int) -> AsyncIterator[RedisStore]:
    """Open the store at a URL and close it at the end.

    Args:
        url: One of the forms that `mcp_chat.stores.client` lists.
        cipher: What texts go through.
        limits: Those of `RedisStore`.
    """
    async with open_client(url) as redis:
        store = RedisStore(redis, cipher=cipher, **limits)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(store.bells.run)
                yield store
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await store.bells.aclose()


@asynccontextmanager
async def open_leases(url: str) -> AsyncIterator[RedisLeases]:
    """Open a connection for leases only: that of a heartbeat."""
    async with open_client(url) as redis:
        yield RedisLeases(redis, Scripts(redis))
