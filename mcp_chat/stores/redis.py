"""Redis or Valkey: leases, inboxes, logs, windows and configurations that all workers share.

Keys, with `u` the user's key in literal braces so that a user's keys share one cluster slot:

    active:session:{u}            hash    owner's worker id, epoch
    session:lock:{u}              string  token of who is claiming
    user:config:{u}               string  sealed configuration
    chat:history:{u}[:session]    list    recent messages
    chat:aside:{u}                list    values of a window that nobody can read
    chat:aside:{u}:key            any     a whole window of a wrong type
    chat:events:{u}               stream  events, ids <epoch>-<n>
    chat:inbox:{u}                stream  commands no owner has taken up
    chat:seen:{u}:<command>       string  the log's end when the command's id was first seen
    chat:bell:{u}                 channel rung for each append to the user's log
    worker:{w}                    string  heartbeat
    worker:bell:{w}               channel rung for commands, with the user as note

The scripts in `lua/` say what each does with its keys. Every key has a time to live.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import anyio
import structlog
from pydantic import ValidationError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, ResponseError

from mcp_chat.commands import COMMAND, Command
from mcp_chat.events import EVENT, Entry
from mcp_chat.exceptions import Fenced, StoreUnavailable
from mcp_chat.message import MESSAGE, Message
from mcp_chat.stores.base import Lease, Waiting
from mcp_chat.stores.bells import LocalBell, LocalBells

log = structlog.get_logger()

Argument = str | bytes | int | float

DAY = 86_400
ASIDE = 30 * DAY
CONNECTIONS = 64
"""Of one worker; who finds all in use waits a moment."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn what redis-py raises into `StoreUnavailable`."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise failed(error) from error


def failed(error: Exception) -> StoreUnavailable:
    """Return what stands for an error of redis-py."""
    log.warning("redis.failed", error=type(error).__name__)
    return StoreUnavailable()


class Scripts:
    """The Lua scripts by name."""

    def __init__(self, redis: Redis) -> None:
        folder = files("mcp_chat.stores") / "lua"
        self._scripts: dict[str, AsyncScript] = {
            path.name.removesuffix(".lua"): redis.register_script(path.read_text())
            for path in folder.iterdir()
            if path.name.endswith(".lua")
        }

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        """Run a script and return its answer."""
        with translated():
            return await self._scripts[name](keys=list(keys), args=list(args))

    async def run_fenced(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> None:
        """Run a script that answers 0 to a writer who no longer owns the user.

        Raises:
            Fenced: It answered 0.
        """
        if not await self.run(name, keys, args):
            raise Fenced


def owner_key(user: str) -> str:
    """The hash with a user's owner and epoch; each fenced script reads it."""
    return f"active:session:{{{user}}}"


class RedisLeases:
    """Leases, locks and heartbeats."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def get(self, user: str) -> Lease | None:
        with translated():
            worker, epoch = await self._redis.hmget(owner_key(user), ["worker", "epoch"])
        return None if epoch is None else Lease(user=user, worker=str(worker or ""), epoch=int(epoch))

    async def claim(self, user: str, worker: str, *, floor: int, seen: Lease | None) -> Lease | None:
        args = (seen.epoch if seen else 0, worker, floor, DAY * 1000)
        epoch = int(await self._scripts.run("claim", [owner_key(user)], args))
        return Lease(user=user, worker=worker, epoch=epoch) if epoch else None

    async def release(self, lease: Lease) -> None:
        await self._scripts.run("release", [owner_key(lease.user)], [lease.epoch])

    async def beat(self, worker: str, ttl: float) -> None:
        with translated():
            await self._redis.set(f"worker:{worker}", "1", px=int(ttl * 1000))

    async def alive(self, worker: str) -> bool:
        with translated():
            return bool(worker) and bool(await self._redis.exists(f"worker:{worker}"))

    async def forget(self, worker: str) -> None:
        with translated():
            await self._redis.delete(f"worker:{worker}")

    async def lock(self, user: str, token: str, ttl: float) -> bool:
        with translated():
            return bool(await self._redis.set(f"session:lock:{{{user}}}", token, nx=True, px=int(ttl * 1000)))

    async def unlock(self, user: str, token: str) -> None:
        await self._scripts.run("unlock", [f"session:lock:{{{user}}}"], [token])


class RedisInbox:
    """Commands in a stream; each is removed when an owner has taken it up."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def put(self, user: str, command: Command, *, limit: int) -> str | None:
        keys = [f"chat:inbox:{{{user}}}", f"chat:seen:{{{user}}}:{command.id}", f"chat:events:{{{user}}}"]
        place = await self._scripts.run("put", keys, [COMMAND.dump_json(command).decode(), limit, DAY])
        return None if place == "full" else str(place)

    async def read(self, user: str, after: str) -> list[Waiting]:
        with translated():
            found = _texts(await self._redis.xrange(f"chat:inbox:{{{user}}}", min=f"({after}"))
        waiting = []
        for place, fields in found:
            try:
                waiting.append(Waiting(place=place, command=COMMAND.validate_json(fields["c"])))
            except ValidationError:  # another version's: nobody here can ever carry it out
                log.error("command.unknown", user=user, place=place)
                await self.remove(user, place)
        return waiting

    async def remove(self, user: str, place: str) -> None:
        with translated():
            await self._redis.xdel(f"chat:inbox:{{{user}}}", place)


class RedisLog:
    """Events in a stream whose ids are `<epoch>-<n>`: Redis itself refuses what an older epoch writes."""

    def __init__(self, redis: Redis, scripts: Scripts, keep: int) -> None:
        self._redis = redis
        self._scripts = scripts
        self._keep = keep

    async def append(self, user: str, epoch: int, entries: Sequence[Entry]) -> None:
        args: list[str | int] = [epoch, self._keep, DAY, f"chat:bell:{{{user}}}"]
        for entry in entries:
            args += [entry.id, f"{entry.command_id} {EVENT.dump_json(entry.event).decode()}"]
        await self._scripts.run_fenced("append", [f"chat:events:{{{user}}}", owner_key(user)], args)

    async def read(self, user: str, after: str, *, limit: int = 1000) -> list[Entry]:
        with translated():
            found = _texts(await self._redis.xrange(f"chat:events:{{{user}}}", min=f"({after}", count=limit))
        return [entry for place, fields in found if (entry := _entry(place, fields["e"]))]

    async def erase(self, user: str, entries: Sequence[Entry], commands: Collection[str]) -> None:
        with translated():
            async with self._redis.pipeline(transaction=False) as pipeline:
                for entry in entries:
                    pipeline.xdel(f"chat:events:{{{user}}}", entry.id)
                for command in commands:
                    pipeline.delete(f"chat:seen:{{{user}}}:{command}")
                await pipeline.execute()


def _texts(found: Any) -> list[tuple[str, dict[str, str]]]:
    """The client decodes, which its types cannot tell."""
    return list(found or ())


def _entry(place: str, text: str) -> Entry | None:
    """Return an entry, or None for an event that only another version of this program knows."""
    command_id, _, event = text.partition(" ")
    try:
        return Entry(id=place, command_id=command_id, event=EVENT.validate_json(event))
    except ValidationError:
        log.warning("event.unknown", place=place)
        return None


class RedisWindow:
    """Recent messages in a list.

    Args:
        redis: A client with `decode_responses=True`.
        max_messages: Messages that are kept.
        ttl: Seconds until an unused window expires.
    """

    def __init__(self, redis: Redis, scripts: Scripts, max_messages: int, ttl: int) -> None:
        self._redis = redis
        self._scripts = scripts
        self._max = max_messages
        self._ttl = ttl

    async def read(self, user: str, session_id: str | None) -> list[Message] | None:
        key = _window_key(user, session_id)
        try:  # as bytes: what is no UTF-8 must not hide the rest either
            found = list(await self._redis.execute_command("LRANGE", key, 0, -1, NEVER_DECODE=True))  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise failed(error) from error
            await self._set_aside(user, key, [b""])
            return None
        except (RedisError, OSError) as error:
            raise failed(error) from error
        messages = {text: _message(text) for text in found}
        if bad := [text for text in found if messages[text] is None]:
            await self._set_aside(user, key, bad)
        return [message for text in found if (message := messages[text])] or None

    async def append(
        self,
        user: str,
        session_id: str | None,
        messages: Sequence[Message],
        *,
        epoch: int | None,
        create: bool,
    ) -> None:
        await self._remember(user, session_id, messages, epoch, "create" if create else "append")

    async def replace(
        self, user: str, session_id: str | None, messages: Sequence[Message], *, epoch: int | None
    ) -> None:
        await self._remember(user, session_id, messages, epoch, "replace")

    async def clear(self, user: str, session_id: str | None, *, epoch: int | None) -> None:
        keys = [_window_key(user, session_id), owner_key(user)]
        await self._scripts.run_fenced("forget", keys, [_epoch(epoch)])

    async def _remember(
        self, user: str, session_id: str | None, messages: Sequence[Message], epoch: int | None, how: str
    ) -> None:
        keys = [_window_key(user, session_id), owner_key(user)]
        texts = [MESSAGE.dump_json(message) for message in messages[-self._max :]]
        args = [_epoch(epoch), self._max, self._ttl, how, *texts]
        try:
            await self._scripts.run_fenced("remember", keys, args)
        except StoreUnavailable as error:
            if "WRONGTYPE" not in str(error.__cause__):
                raise
            await self._set_aside(user, keys[0], [b""])
            await self._scripts.run_fenced("remember", keys, args)

    async def _set_aside(self, user: str, key: str, bad: list[bytes]) -> None:
        """What nobody can read is kept for somebody to look at, and does not hide the rest."""
        log.error("history.unreadable", key=key, values=len(bad))
        aside = f"chat:aside:{{{user}}}"
        await self._scripts.run("aside", [key, aside, f"{aside}:key"], [ASIDE, *bad])


def _epoch(epoch: int | None) -> int | str:
    """A script takes an empty epoch for a writer who is no owner."""
    return "" if epoch is None else epoch


def _message(text: bytes) -> Message | None:
    try:
        return MESSAGE.validate_json(text)
    except ValidationError:
        return None


def _window_key(user: str, session_id: str | None) -> str:
    return f"chat:history:{{{user}}}" + (f":{session_id}" if session_id else "")


class RedisConfigs:
    """Sealed configurations."""

    def __init__(self, redis: Redis, scripts: Scripts, ttl: int) -> None:
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


class RedisBells:
    """Pub/sub over one connection a worker. Only `run` touches it: the client's object is for one task."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._local = LocalBells()
        self._pubsub: PubSub = redis.pubsub(ignore_subscribe_messages=True)
        self._wanted: Counter[str] = Counter()
        self._subscribed: set[str] = set()
        self._hearing = anyio.CancelScope()
        self._settled = anyio.Event()

    async def ring(self, name: str, note: str = "") -> None:
        with translated():
            await self._redis.publish(name, note)

    @asynccontextmanager
    async def listen(self, name: str) -> AsyncIterator[LocalBell]:
        async with self._local.listen(name) as bell:
            self._wanted[name] += 1
            try:
                await self._settle()
                yield bell
            finally:
                self._wanted -= Counter([name])
                self._hearing.cancel()

    async def _settle(self) -> None:
        """Wait until what is wanted is subscribed to, or cannot be now: who waits for a bell also polls."""
        settled = self._settled
        self._hearing.cancel()
        with anyio.move_on_after(1):
            await settled.wait()

    async def run(self) -> None:
        """Hand on the rings that arrive; subscribe anew after an outage. Ends by cancellation."""
        while True:
            try:
                await self._subscribe()
                await self._hear()
            except (RedisError, OSError) as error:
                log.warning("bells.interrupted", error=type(error).__name__)
                self._settled.set()
                await anyio.sleep(0.5)

    async def _subscribe(self) -> None:
        while self._subscribed != (wanted := set(self._wanted)):
            if more := wanted - self._subscribed:
                await self._pubsub.subscribe(*more)
                self._subscribed |= more
            if gone := self._subscribed - wanted:
                self._subscribed -= gone
                await self._pubsub.unsubscribe(*gone)
        self._settled.set()
        self._settled = anyio.Event()

    async def _hear(self) -> None:
        """Wait a second for a ring; who wants other bells ends it earlier."""
        with anyio.CancelScope() as self._hearing:
            if not self._subscribed:
                await anyio.sleep_forever()
            message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=1.0)
            if message and message["type"] == "message":
                self._local.ring_local(message["channel"], message["data"])

    async def aclose(self) -> None:
        """Close the connection."""
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]


class RedisStore:
    """The backend that workers share.

    Args:
        redis: A client with `decode_responses=True`.
        max_messages: Messages kept in a window.
        history_ttl: Seconds until an unused window expires.
        session_ttl: Seconds until an unused configuration expires.
        keep_events: Entries kept in a user's log, about.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        max_messages: int = 50,
        history_ttl: int = 3600,
        session_ttl: int = 300,
        keep_events: int = 20_000,
    ) -> None:
        scripts = Scripts(redis)
        self.redis = redis
        self.leases = RedisLeases(redis, scripts)
        self.inbox = RedisInbox(redis, scripts)
        self.log = RedisLog(redis, scripts, keep_events)
        self.window = RedisWindow(redis, scripts, max_messages, history_ttl)
        self.configs = RedisConfigs(redis, scripts, session_ttl)
        self.bells = RedisBells(redis)

    async def ping(self) -> None:
        """Return when Redis answers."""
        with translated():
            await self.redis.ping()


@asynccontextmanager
async def open_redis(url: str, **limits: int) -> AsyncIterator[RedisStore]:
    """Open the store at a URL and close it at the end.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        limits: Those of `RedisStore`.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=5,
        decode_responses=True,
        protocol=3,
        legacy_responses=False,
    )
    redis = Redis.from_pool(pool)
    store = RedisStore(redis, **limits)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.bells.run)
            yield store
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await store.bells.aclose()
            await redis.aclose()
