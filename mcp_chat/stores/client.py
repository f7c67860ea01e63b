"""The client of what `REDIS_URL` names: one server, a cluster, or the one that Sentinels call master.

    redis://[user:password@]host:6379/0                   one server; `rediss://` for TLS, `unix:///path`
    redis+cluster://[user:password@]host:port,host2:port  a cluster, by some of its nodes
    redis+sentinel://[user:password@]host:port,host2:port/master/0
                                                          a master and its replicas, by their Sentinels

`rediss+cluster://` and `rediss+sentinel://` stand for TLS. Options of redis-py follow a question mark;
`sentinel_username` and `sentinel_password` are for the Sentinels themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

import anyio
import structlog
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.client import NEVER_DECODE
from redis.exceptions import (
    ClusterDownError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as TimedOut

from mcp_chat.exceptions import SettingsError, StoreUnavailable
from mcp_chat.stores.line import Lines

log = structlog.get_logger()

Client = Redis | RedisCluster
RawCommand = Sequence[str | bytes | int | float]
T = TypeVar("T")
C = TypeVar("C", Redis, Sentinel)

CONNECTIONS: Final = 64
"""Of one worker, in a cluster to each node; who finds all in use waits a moment."""
PATIENCE: Final = 5.0
"""Seconds to wait for a free connection."""
LONGEST: Final = 10.0
"""Seconds after which a command of a cluster or behind Sentinels has failed, whatever was tried."""
LOOK_SECONDS: Final = 2.0
"""How often the Sentinels are asked who is the master."""
DECODED: Final = {"decode_responses": True, "protocol": 3, "legacy_responses": False}
QUICK: Final = {"socket_connect_timeout": 0.5}
"""A node whose host is lost answers nothing at all: whoever waits for it misses a heartbeat."""
WATCHED: Final = {
    "TCP_KEEPIDLE": 1,
    "TCP_KEEPALIVE": 1,  # what macOS calls the same
    "TCP_KEEPINTVL": 1,
    "TCP_KEEPCNT": 2,
    "TCP_USER_TIMEOUT": 2000,
}
"""By these a connection to a lost host soon ends, idle or not; a busy server's host still confirms."""
UNDERSTOOD: Final = {NEVER_DECODE, "keys", "full"}
"""Options of commands that a shared connection serves."""
WHAT_TO_WRITE: Final = (
    "REDIS_URL must be a URL such as redis://host:6379/0, unix:///path, "
    "redis+cluster://host:6379,host2:6379 or redis+sentinel://host:26379,host2:26379/master/0."
)


@contextlib.contextmanager
def mended() -> Iterator[None]:
    """Turn what uvloop raises at a connection that has just been closed into an error of redis-py."""
    try:
        yield
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        raise ConnectionLost(str(error)) from error


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


@contextlib.asynccontextmanager
async def open_client(url: str) -> AsyncIterator[Client]:
    """Open the client of a URL and close it at the end. Nothing is dialled before the first command.

    Raises:
        SettingsError: It is no such URL.
    """
    try:
        opened = _opened(url)
    except (ValueError, TypeError):  # what they say could show the password
        raise SettingsError(WHAT_TO_WRITE) from None
    async with opened as client:
        yield client


async def execute_many(client: Client, commands: Sequence[RawCommand]) -> list[Any]:
    """Execute commands of any users in one go; an error stands in the place of its command's answer.

    In a cluster they go side by side: its pipeline drops every connection there is when one node is away.
    """
    if isinstance(client, RedisCluster):
        return await asyncio.gather(*(client.execute_command(*c) for c in commands), return_exceptions=True)

    if isinstance(client, Single):
        return await client.execute_all(commands)

    async def attempt() -> list[Any]:
        with mended():
            async with client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return await pipeline.execute(raise_on_error=False)

    return await (_patiently(attempt) if isinstance(client, Master) else attempt())


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A URL with several hosts, taken apart; the options are those of redis-py's connections."""

    hosts: list[tuple[str, int]]
    path: list[str]
    options: dict[str, Any]


def _opened(url: str) -> contextlib.AbstractAsyncContextManager[Client]:
    scheme, _, rest = url.partition("://")
    tls, _, form = scheme.partition("+")
    match form:
        case "cluster":
            return _cluster(_parsed(tls, rest, 6379))
        case "sentinel":
            return _sentinel(_parsed(tls, rest, 26379))
    return _server(url)


def _parsed(scheme: str, rest: str, port: int) -> Address:
    """Take a URL apart; its standard parsers know of one host only."""
    if scheme not in ("redis", "rediss"):
        raise ValueError("no such scheme")
    rest, _, query = rest.partition("?")
    where, _, path = rest.partition("/")
    credentials, at, hosts = where.rpartition("@")
    options = dict(parse_url(f"{scheme}://{credentials}{at}host?{query}"))
    del options["host"]
    return Address(
        hosts=[_host(text, port) for text in hosts.split(",")],
        path=[unquote(part) for part in path.split("/") if part],
        options=options,
    )


def _host(text: str, port: int) -> tuple[str, int]:
    split = urlsplit(f"//{text}")
    if not split.hostname or split.path:
        raise ValueError("no host")
    return split.hostname, split.port or port


def _server(url: str) -> contextlib.AbstractAsyncContextManager[Redis]:
    split = urlsplit(url)
    if split.scheme == "unix" and not split.path:
        raise ValueError("no path")
    if split.scheme != "unix" and split.path.strip("/"):
        int(split.path.strip("/"))
    # enough for a connection that was cut; one that hangs is not waited for again
    quick = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.2), 3, supported_errors=(ConnectionLost,))
    pool = BlockingConnectionPool.from_url(
        url, max_connections=CONNECTIONS, timeout=PATIENCE, retry=quick, **DECODED
    )
    _check_options(pool)
    return _closing(Single.from_pool(pool))


class Single(Redis):
    """The client of one server: all commands share one connection; only pub/sub and pipelines have their own.

    With `apart` set each command has a connection to itself, as redis-py's own client has it.
    """

    apart = False
    _lines: Lines | None = None

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a command; one whose connection was cut is sent again."""
        if self.apart or not kwargs.keys() <= UNDERSTOOD:
            with mended():
                return await super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]
        kwargs.pop("keys", None)
        raw = kwargs.pop(NEVER_DECODE, False)
        found = await self._retry.call_with_retry(lambda: self._ask(args, raw), _pass)
        callback = self.response_callbacks.get(args[0])
        return callback(found, **kwargs) if callback else found

    async def execute_all(self, commands: Sequence[RawCommand]) -> list[Any]:
        """Execute commands in one go; an error stands in the place of its command's answer.

        Raises:
            RedisError: The server does not answer.
        """
        found = await asyncio.gather(*(self.execute_command(*c) for c in commands), return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException) and not isinstance(each, ResponseError):
                raise each
        return found

    async def _ask(self, command: RawCommand, raw: bool) -> Any:
        line = await self.lines.line()
        answer = line.ask(command, raw=raw)
        await line.drain()
        return await answer

    @property
    def _retry(self) -> Retry:
        retry: Retry = self.connection_pool.connection_kwargs["retry"]
        return retry

    @property
    def lines(self) -> Lines:
        """The connection that they share."""
        if self._lines is None:
            pool = self.connection_pool
            options = {**pool.connection_kwargs, "socket_timeout": None}
            patience = pool.connection_kwargs.get("socket_timeout") or PATIENCE
            connecting = options.setdefault("socket_connect_timeout", patience) or patience
            self._lines = Lines(
                lambda: pool.connection_class(**options), connecting=connecting + patience, patience=patience
            )
        return self._lines

    async def aclose(self, *args: Any, **kwargs: Any) -> None:
        """Close all connections."""
        if self._lines:
            await self._lines.aclose()
        await super().aclose(*args, **kwargs)


def _check_options(pool: ConnectionPool) -> None:
    """Make a connection that nobody opens: an option that it does not know is an error now."""
    pool.make_connection()  # type: ignore[no-untyped-call]


# Patience: a failover takes seconds


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again when a server is away, with growing pauses, about five seconds in all if nothing hangs."""
    lost = (ConnectionLost, TimedOut, ClusterDownError)
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), 10, supported_errors=lost)
    try:
        async with asyncio.timeout(LONGEST):
            return await retry.call_with_retry(attempt, _pass)
    except TimeoutError as error:
        raise TimedOut(f"not within {LONGEST:g} s") from error


async def _pass(error: Exception) -> None:
    """What must be done between two attempts: nothing."""


def _watching() -> dict[str, Any]:
    """Return the options of a connection by which it soon notices that its host is lost."""
    known = {getattr(socket, name): value for name, value in WATCHED.items() if hasattr(socket, name)}
    return {"socket_keepalive_options": known}


# A cluster


class Cluster(RedisCluster):
    """A cluster's client that is as patient as that of one server, and leaves other users' connections alone.

    redis-py's own raises at once when all connections are in use, gives up on a node that is away long
    before a replica can have taken over, and closes all connections when one node sends it elsewhere.
    """

    def __init__(self, **options: Any) -> None:
        # Some connections more than turns: the doorbells take theirs from a node, too.
        super().__init__(max_connections=CONNECTIONS + 4, retry=Retry(NoBackoff(), 1), **options)
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def initialize(self, *args: Any, **kwargs: Any) -> Cluster:
        """Learn the cluster's nodes, if they are not known."""
        if self._initialize:
            try:  # to its end: redis-py closes all connections when whoever does it for all is cancelled
                await asyncio.shield(super().initialize(*args, **kwargs))
            except RedisClusterException as error:  # no error of redis-py's tree, and not retried
                raise ConnectionLost(str(error)) from error
        return self

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a command where its keys are; wait for a failover and for a free connection."""
        return await _patiently(lambda: self._attempt(args, kwargs))

    async def _attempt(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        async with self._turns:
            try:
                with mended():
                    return await super().execute_command(*args, **kwargs)
            except (SlotNotCoveredError, AttributeError) as error:  # closed by another task while it greeted
                raise ConnectionLost(str(error)) from error

    async def aclose(self) -> None:
        """Learn the nodes anew before the next command: for this redis-py calls it, in midst of commands."""
        self._initialize = True

    async def end(self) -> None:
        """Close all connections."""
        self._initialize = False
        await super().aclose()


@contextlib.asynccontextmanager
async def _ending(client: Cluster) -> AsyncIterator[RedisCluster]:
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True):
            await client.end()


def _cluster(address: Address) -> contextlib.AbstractAsyncContextManager[RedisCluster]:
    if address.path not in ([], ["0"]) or address.options.pop("db", 0):
        raise ValueError("a cluster has no databases")
    tls = address.options.pop("connection_class", Connection) is SSLConnection
    nodes = [ClusterNode(host, port) for host, port in address.hosts]
    options = {**DECODED, **QUICK, **_watching(), **address.options}
    return _ending(Cluster(startup_nodes=nodes, ssl=tls, **options))


# Sentinels


class MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master; those to an earlier master are not used again."""

    async def release(self, connection: Any) -> None:
        """Take a connection back."""
        if (connection.host, connection.port) != self.master_address:
            connection.mark_for_reconnect()
        await super().release(connection)

    async def follow(self) -> None:
        """Look now and then who is the master. A master that was cut off from the others still answers."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(RedisError, OSError):
                await self.get_master_address()  # type: ignore[no-untyped-call]


class Master(Redis):
    """The client of whoever is master."""

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Execute a command; wait for a failover, but not for ever."""
        return await _patiently(lambda: self._try(args, kwargs))

    async def _try(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        with mended():
            return await super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]


def _sentinel(address: Address) -> contextlib.AbstractAsyncContextManager[Redis]:
    options = address.options
    name, *database = address.path
    if database:
        options["db"] = int(*database)
    if options.pop("connection_class", Connection) is SSLConnection:
        options["ssl"] = True
    sentinels = Sentinel(address.hosts, sentinel_kwargs=_sentinel_options(options))  # type: ignore[no-untyped-call]
    client: Redis = sentinels.master_for(
        name,
        redis_class=Master,
        connection_pool_class=MasterPool,
        max_connections=CONNECTIONS,
        timeout=PATIENCE,
        redis_connect_func=_confirm_master,
        **DECODED,
        **{**_watching(), **options},
    )
    _check_options(client.connection_pool)
    return _following(client, sentinels)


def _sentinel_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take what is for the Sentinels. A dead one is passed over at once, the next is asked."""
    theirs = {name: value for name, value in options.items() if name.startswith("ssl")}
    for name in ("username", "password"):
        theirs[name] = options.pop(f"sentinel_{name}", None)
    quick = {"socket_timeout": 1, "socket_connect_timeout": 1, "retry": Retry(NoBackoff(), 0)}
    return {**DECODED, **quick, **theirs}


async def _confirm_master(connection: Any) -> None:
    """Greet a server, and leave it if it is a replica: a Sentinel may tell what was true a while ago."""
    await connection.on_connect()
    await connection.send_command("ROLE")
    with contextlib.suppress(NoPermissionError):  # then its refusal of the first write has to do
        role, *_ = await connection.read_response()
        if role != "master":
            raise ConnectionLost("not a master any more")


@contextlib.asynccontextmanager
async def _following(client: Redis, sentinels: Sentinel) -> AsyncIterator[Redis]:
    following = asyncio.create_task(cast(MasterPool, client.connection_pool).follow())
    try:
        async with _closing(client), _closing(sentinels):
            yield client
    finally:
        following.cancel()


@contextlib.asynccontextmanager
async def _closing(client: C) -> AsyncIterator[C]:
    """Close it at the end, even of somebody who was cancelled."""
    try:
        yield client
    finally:
        with anyio.CancelScope(shield=True):
            await client.aclose()
