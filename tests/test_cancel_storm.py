"""A stopped user's reply is never read by the next one (CVE-2023-28858): cancel everywhere, read marks.

STORM=50 cancels fifty times as often at random; `pytest -s` shows how often.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import date
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
from mcp.server.mcpserver import Context, MCPServer
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection

from mcp_chat.commands import Cancel, Send
from mcp_chat.config import ServerConfig
from mcp_chat.connections import Connection
from mcp_chat.deed import Deed
from mcp_chat.dialer import Dialer
from mcp_chat.events import Cancelled, Entry, TextDelta
from mcp_chat.exceptions import MessageMoved
from mcp_chat.limits import ServerLimits
from mcp_chat.message import Message
from mcp_chat.netguard import Policy
from mcp_chat.session import Session
from mcp_chat.spent import Spent
from mcp_chat.stores.base import (
    START,
    Addition,
    Archive,
    Bells,
    Configs,
    EventLog,
    Inbox,
    Lease,
    Leases,
    Rates,
    Store,
    Window,
)
from mcp_chat.stores.client import Single
from mcp_chat.stores.database import migrate
from mcp_chat.stores.documents import Documents
from mcp_chat.stores.line import Line
from mcp_chat.stores.redis import RedisStore, open_redis
from mcp_chat.stores.sql import SQLArchive, open_sql
from mcp_chat.upload import Upload
from tests.mute import Mute
from tests.proxy import proxied
from tests.running import running
from tests.storm import Work, cut, cut_everywhere

pytestmark = pytest.mark.anyio

STORM = float(os.environ.get("STORM", "1"))
EARLIER = "0-1"
FINAL = Cancelled(turns=0)
AT_HAND = {"get", "accepted", "open_commands", "epoch", "session", "standing"}
"""What SQLite answers at once: there is nothing to be waited for, and so nothing to cancel."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say how often something was cancelled, to who wants to know."""

    def tell(text: str) -> None:
        record_property("cancels", text)
        sys.stdout.write(f"{text}\n")

    return tell


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[RedisStore]:
    async with open_redis(valkey_url) as store:
        yield store


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[SQLArchive]:
    url = f"sqlite:///{tmp_path}/chat.db"
    migrate(url)
    async with open_sql(url) as archive:
        yield archive


# What there is to cancel


def operations(store: Store, lease: Lease) -> dict[str, Callable[[], Work]]:
    """Every method of the store that waits, as a worker of the lease's user calls it."""
    user, epoch, worker = lease.user, lease.epoch, f"worker-of-{lease.user}"
    leases, inbox, log, window, configs = store.leases, store.inbox, store.log, store.window, store.configs
    papers = store.documents
    entry = Entry(id=f"{epoch}-{2**40}", command_id="c", event=TextDelta(text=marked(user)))
    said = [Message(role="user", content=marked(user))]
    own = {"epoch": epoch}
    return {
        "leases.get": partial(leases.get, user),
        "leases.claim": partial(leases.claim, user, lease.worker, floor=0, seen=lease),
        "leases.renew": partial(leases.renew, lease),
        "leases.release": partial(leases.release, lease),
        "leases.beat": partial(leases.beat, worker, 5.0),
        "leases.alive": partial(leases.alive, worker),
        "leases.full": partial(leases.full, worker),
        "leases.workers": leases.workers,
        "leases.silent": leases.silent,
        "leases.users": partial(leases.users, worker),
        "leases.expire": partial(leases.expire, worker),
        "leases.forget": partial(leases.forget, worker),
        "leases.lock": partial(leases.lock, user, marked(user), 5.0),
        "leases.locked_by": partial(leases.locked_by, user),
        "leases.unlock": partial(leases.unlock, user, marked(user)),
        "inbox.put": partial(inbox.put, user, Send(session_id="s", text=marked(user)), limit=1000),
        "inbox.read": partial(inbox.read, user, START),
        "inbox.seen": partial(inbox.seen, user, "nothing"),
        "inbox.waits": partial(inbox.waits, user),
        "inbox.remove": partial(inbox.remove, user, EARLIER, **own),
        "log.append": partial(log.append, user, epoch, [entry]),
        "log.read": partial(log.read, user, START),
        "log.read_many": partial(log.read_many, {user: START}),
        "log.end": partial(log.end, user),
        "log.erase": partial(log.erase, user, [entry], ["nothing"], **own),
        "window.read": partial(window.read, user, None),
        "window.append": partial(window.append, user, None, said, create=True, **own),
        "window.replace": partial(window.replace, user, None, said, **own),
        "window.clear": partial(window.clear, user, "another", **own),
        "window.cut": partial(tried, partial(window.cut, user, "forked", "a", side="x", **own)),
        "window.switch": partial(tried, partial(window.switch, user, "forked", "a", **own)),
        "window.branches": partial(window.branches, user, "forked"),
        "window.sides": partial(window.sides, user, "forked"),
        "configs.get": partial(configs.get, user),
        "configs.put": partial(configs.put, user, marked(user), **own),
        "configs.delete": partial(configs.delete, user, **own),
        "documents.get_document": partial(papers.get_document, user, "kind", "a"),
        "documents.list_documents": partial(papers.list_documents, user, "kind"),
        "documents.put_document": partial(
            papers.put_document, user, "kind", "a", marked(user), seconds=600, **own
        ),
        "documents.drop_document": partial(papers.drop_document, user, "kind", "a"),
        "rates.take": partial(store.rates.take, user, per_minute=1_000_000),
        "bells.ring": partial(store.bells.ring, user, marked(user)),
        "bells.listen": partial(listened, store.bells, user),
        "ping": store.ping,
    }


async def listened(bells: Bells, user: str) -> None:
    """Hang a bell up and take it down."""
    async with bells.listen(user) as bell:
        await bell.wait(0.001)


async def tried(work: Callable[[], Awaitable[None]]) -> None:
    """Do something with a message that nobody has said."""
    with suppress(MessageMoved):
        await work()


def records(archive: Archive, user: str) -> dict[str, Callable[[], Work]]:
    """Every method of the archive, for a user who has something in it."""
    text = marked(user)
    message = Message(role="user", content=text)
    command = Send(session_id="s", text=text)
    upload = Upload(name="a.txt", media_type="text/plain", content=text.encode())
    epoch = 10**15
    step = Spent(id="run-a0", day=date(2026, 1, 31), session_id="s", model="m")
    return {
        "get": partial(archive.get, user),
        "put": partial(archive.put, user, text, epoch=epoch),
        "delete": partial(archive.delete, user, epoch=epoch),
        "accept": partial(archive.accept, user, command),
        "withdraw": partial(archive.withdraw, user, command.id),
        "accepted": partial(archive.accepted, user, command.id),
        "failures": partial(archive.failures, user, [command.run]),
        "open_commands": partial(archive.open_commands, user),
        "retry": partial(archive.retry, user, command.id, epoch=epoch),
        "end": partial(archive.end, user, command.id, FINAL, epoch=epoch),
        "neglected": partial(archive.neglected, seconds=1e6),
        "has_sessions": partial(archive.has_sessions, user, 1),
        "holds": partial(archive.holds, user, "s", message.id),
        "epoch": partial(archive.epoch, user),
        "next_epoch": partial(archive.next_epoch, user, 0),
        "spend": partial(archive.spend, user, [step], epoch=epoch),
        "steps": partial(archive.steps, user, "run", since=step.day),
        "sums": partial(archive.sums, user, since=step.day, until=step.day, by="day"),
        "add": partial(archive.add, Addition(user=user, session_id="s", messages=(message,))),
        "note": partial(archive.note, user, [Deed(action="call", tool=text)]),
        "deeds": partial(archive.deeds, user, limit=10),
        "read": partial(archive.read, user, "s", limit=10),
        "page": partial(archive.page, user, "s", limit=10),
        "turn": partial(archive.turn, user, "s", "run"),
        "count": partial(archive.count, user, "s"),
        "standing": partial(archive.standing, user, "s", [message.id]),
        "pick": partial(archive.pick, user, "s", [message.id]),
        "search": partial(archive.search, user, ["mark"], limit=10, before=None),
        "session": partial(archive.session, user, "s"),
        "sessions": partial(archive.sessions, user, limit=10),
        "change_session": partial(archive.change_session, user, "s", name=text),
        "keep_summary": partial(archive.keep_summary, user, "s", {"text": text}, step, epoch=epoch),
        "import_session": partial(archive.import_session, user, Session(messages=(message,))),
        "cut": partial(tried, partial(archive.cut, user, "s", "nothing", side="x", epoch=epoch)),
        "switch": partial(tried, partial(archive.switch, user, "s", "nothing", epoch=epoch)),
        "branches": partial(archive.branches, user, "s"),
        "sides": partial(archive.sides, user, "s"),
        "put_away": partial(archive.put_away, user, "nothing"),
        "delete_session": partial(archive.delete_session, user, "nothing", epoch=epoch),
        "put_upload": partial(archive.put_upload, user, upload, quota=10**6),
        "parts": partial(archive.parts, user, [upload.id]),
        "upload": partial(archive.upload, user, upload.id),
        "delete_upload": partial(archive.delete_upload, user, upload.id),
        "get_document": partial(archive.get_document, user, "kind", "a"),
        "list_documents": partial(archive.list_documents, user, "kind"),
        "put_document": partial(archive.put_document, user, "kind", "a", text, seconds=600, epoch=epoch),
        "drop_document": partial(archive.drop_document, user, "kind", "a"),
        "tidy": archive.tidy,
        "ping": archive.ping,
    }


def methods(protocol: type, name: str = "") -> set[str]:
    """The methods of a protocol that wait."""
    return {
        f"{name}{method}"
        for method, value in ((m, getattr(protocol, m)) for m in dir(protocol) if not m.startswith("_"))
        if callable(value) and method not in ("heard", "ring_local")
    }


# Marks


def marked(user: str) -> str:
    """A text that says whose it is."""
    return f"mark of {user}"


async def owning(store: Store, user: str) -> Lease:
    """Take a user's lease."""
    lease = await store.leases.claim(user, "one", floor=0, seen=await store.leases.get(user))
    assert lease is not None
    return lease


async def furnished(store: Store, user: str) -> None:
    """Give a user a mark in everything that can hold one."""
    lease = await owning(store, user)
    own = {"epoch": lease.epoch}
    entry = Entry(id=f"{lease.epoch}-1", command_id="c", event=TextDelta(text=marked(user)))
    await store.log.append(user, lease.epoch, [entry])
    await store.window.replace(user, None, [Message(role="user", content=marked(user))], **own)
    await store.configs.put(user, marked(user), **own)
    await store.documents.put_document(user, "kind", "a", marked(user), seconds=600, **own)
    await store.inbox.put(user, Send(session_id="s", text=marked(user)), limit=10)
    await store.inbox.put(user, Cancel(session_id=user), limit=10)
    await store.leases.lock(user, marked(user), 600)


async def seen(store: Store, user: str) -> list[Any]:
    """All that a user can read, one after the other and then at once."""
    reads: list[Callable[[], Awaitable[Any]]] = [
        partial(store.configs.get, user),
        partial(store.window.read, user, None),
        partial(store.log.read, user, START),
        partial(store.leases.locked_by, user),
        partial(store.inbox.read, user, START),
        partial(store.leases.get, user),
        partial(store.documents.get_document, user, "kind", "a"),
        partial(store.documents.list_documents, user, "kind"),
    ]
    return [*[await read() for read in reads], *await asyncio.gather(*(read() for read in reads))]


class Bystander:
    """Somebody who looks, again and again, whether what they read is theirs."""

    def __init__(self, read: Callable[[], Awaitable[Any]]) -> None:
        self._read = read
        self._truth: Any = None

    async def look(self) -> None:
        """Read everything; the first time is the truth."""
        try:
            found = await self._read()
        except Exception as error:
            raise AssertionError("somebody else's reply was read, and cannot be understood") from error
        self._truth = self._truth or found
        assert found == self._truth, "somebody else's reply was read"


def pool_of(store: RedisStore) -> BlockingConnectionPool:
    """The connections that all users of a worker share."""
    assert isinstance(store.redis, Redis)
    pool = store.redis.connection_pool
    assert isinstance(pool, BlockingConnectionPool)
    return pool


async def all_given_back(store: RedisStore) -> None:
    """A connection that is not given back when its command is cancelled is missing for ever."""
    pool = pool_of(store)
    with anyio.move_on_after(20):
        while len(pool._in_use_connections) > 1:  # noqa: ASYNC110 - the doorbells keep theirs
            await anyio.sleep(0.01)
    assert len(pool._in_use_connections) <= 1


# The stores


async def storm(
    store: RedisStore, name: str, *, only: Callable[[str], bool], cold: bool = False
) -> Counter[str]:
    """Cancel each operation at each of its awaits; return how often.

    Args:
        cold: Let it make its connection first.
    """
    async with store.bells.listen(f"{name}-b") as bell:
        cuts = await cut_all(store, name, only, cold)
        await store.bells.ring(f"{name}-b", marked(f"{name}-b"))
        await bell.wait(5)
        assert set(bell.notes()) == {marked(f"{name}-b")}, "somebody else's bell was heard"
    return cuts


async def cut_all(store: RedisStore, name: str, only: Callable[[str], bool], cold: bool) -> Counter[str]:
    """Cancel one user's operations at each of their awaits; another one reads after each."""
    await furnished(store, f"{name}-b")
    bystander = Bystander(partial(seen, store, f"{name}-b"))
    await bystander.look()
    cuts: Counter[str] = Counter()
    for operation in filter(only, operations(store, await owning(store, f"{name}-a"))):

        async def begin(operation: str = operation) -> Work:
            work = operations(store, await owning(store, f"{name}-a"))[operation]
            if cold:
                await pool_of(store).disconnect(inuse_connections=False)
            return work()

        cuts[operation] = await cut_everywhere(begin, bystander.look)
    return cuts


async def test_every_operation_is_cancelled_there_is(store: RedisStore, archive: SQLArchive) -> None:
    lease = Lease(user="a", worker="w", epoch=1)
    protocols = {"leases": Leases, "inbox": Inbox, "log": EventLog, "window": Window}
    protocols |= {"configs": Configs, "rates": Rates, "bells": Bells, "documents": Documents}
    known = {method for name, protocol in protocols.items() for method in methods(protocol, f"{name}.")}
    assert set(operations(store, lease)) == known | {"ping"}
    assert set(records(archive, "nobody")) == methods(Archive)


SHORT = ("log.append", "window.read", "configs.get")


def any_of_them(operation: str) -> bool:
    """All operations."""
    return bool(operation)


@pytest.mark.parametrize(
    ("only", "cold"),
    [
        (any_of_them, False),
        (SHORT.__contains__, True),
        pytest.param(any_of_them, True, marks=pytest.mark.slow),
    ],
    ids=["all", "few, cold", "all, cold"],
)
async def test_a_store_cancelled_at_every_await_mixes_no_replies(
    store: RedisStore, name: str, only: Callable[[str], bool], cold: bool, tell: Callable[[str], None]
) -> None:
    cuts = await storm(store, name, only=only, cold=cold)
    assert all(cuts.values()), cuts
    await all_given_back(store)
    tell(f"{cuts.total()} cancels of {len(cuts)} operations of the store")


async def test_nor_does_it_on_a_slow_network(valkey_url: str, name: str) -> None:
    with proxied(valkey_url, delay=0.002) as proxy:
        async with open_redis(proxy.url) as store:
            cuts = await storm(store, name, only=SHORT.__contains__)
            await all_given_back(store)
    assert set(cuts) == set(SHORT)


async def test_a_line_that_forgets_who_has_left_is_noticed(
    valkey_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply that nobody waits for any more is still a reply: it is not the next one's."""

    async def careless(self: Line) -> None:
        found = await self._connection.read_response(self._waiting[0][1], math.inf)
        while self._waiting:
            answer, _, _ = self._waiting.popleft()
            if not answer.done():
                return answer.set_result(found)
        return None

    monkeypatch.setattr(Line, "_take", careless)
    with proxied(valkey_url, delay=0.002) as proxy:
        async with open_redis(proxy.url) as store:
            with pytest.raises(AssertionError, match="somebody else's reply"):
                await storm(store, name, only=SHORT.__contains__)


async def test_a_client_that_keeps_connections_with_pending_replies_is_noticed(
    valkey_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What redis-py did before its repair: after a cancelled command the connection was used again."""
    read = AbstractConnection.read_response

    async def careless(self: Any, *args: Any, **options: Any) -> Any:
        return await read(self, *args, **{**options, "disconnect_on_error": False})

    monkeypatch.setattr(AbstractConnection, "read_response", careless)
    monkeypatch.setattr(Single, "apart", True)
    with proxied(valkey_url, delay=0.002) as proxy:
        async with open_redis(proxy.url) as store:
            with pytest.raises(AssertionError, match="somebody else's reply"):
                await storm(store, name, only=SHORT.__contains__)


@pytest.mark.parametrize("connections", [64, 3])
@pytest.mark.timeout(30 + 10 * STORM)
async def test_thousands_of_cancels_at_random_mix_no_replies(
    valkey_url: str, name: str, connections: int, tell: Callable[[str], None]
) -> None:
    async with open_redis(f"{valkey_url}?max_connections={connections}") as store:
        cancelled = await random_storm(store, name, cancels=int(600 * STORM), seed=7)
        await all_given_back(store)
    tell(f"{cancelled} cancels at random")


async def random_storm(store: RedisStore, name: str, *, cancels: int, seed: int) -> int:
    """Many users at once, each cancelled at random and reading their own marks in between."""
    tally: Counter[str] = Counter()

    async def live(number: int) -> None:
        random, user = Random(f"{seed} {number}"), f"{name}-{number}"
        await furnished(store, user)
        bystander = Bystander(partial(seen, store, user))
        await bystander.look()
        while tally["cancelled"] < cancels:
            lease = await owning(store, f"{user}-a")
            operation = random.choice(list(operations(store, lease).values()))
            task = asyncio.create_task(operation())
            await asyncio.sleep(random.choice((0, 0, random.uniform(0, 0.003))))
            tally["cancelled"] += task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await bystander.look()

    await asyncio.gather(*(live(number) for number in range(24)))
    return tally["cancelled"]


# The archive


async def recorded(archive: Archive, user: str) -> None:
    """Give a user a mark in every table."""
    for operation in ("add", "put", "put_upload", "note", "change_session", "accept", "put_document"):
        await records(archive, user)[operation]()


async def found(archive: Archive, user: str) -> list[Any]:
    """All that a user can read."""
    upload = Upload(name="a.txt", media_type="text/plain", content=marked(user).encode())
    reads: list[Callable[[], Awaitable[Any]]] = [
        partial(archive.get, user),
        partial(archive.read, user, "s", limit=10),
        partial(archive.search, user, ["mark"], limit=10, before=None),
        partial(archive.session, user, "s"),
        partial(archive.upload, user, upload.id),
        partial(archive.deeds, user, limit=10),
        partial(archive.open_commands, user),
        partial(archive.get_document, user, "kind", "a"),
        partial(archive.list_documents, user, "kind"),
    ]
    return await asyncio.gather(*(read() for read in reads))


async def test_an_archive_cancelled_at_every_await_mixes_no_rows(
    archive: SQLArchive, name: str, tell: Callable[[str], None]
) -> None:
    for user in ("a", "b"):
        await recorded(archive, f"{name}-{user}")
    bystander = Bystander(partial(found, archive, f"{name}-b"))
    await bystander.look()
    cuts: Counter[str] = Counter()
    for operation in records(archive, f"{name}-a"):

        async def begin(operation: str = operation) -> Work:
            return records(archive, f"{name}-a")[operation]()

        cuts[operation] = await cut_everywhere(begin, bystander.look)
    assert {operation for operation, cut in cuts.items() if not cut} <= AT_HAND, cuts
    tell(f"{cuts.total()} cancels of {len(cuts)} operations of the archive")


# MCP servers


class Told:
    """A server that says whose token a call came with, and under which id."""

    def __init__(self) -> None:
        self.ids: dict[str, set[str]] = {}
        self.server = MCPServer("told", log_level="ERROR")
        self.server.add_tool(self.tell)

    async def tell(self, text: str, ctx: Context) -> str:
        """Tell."""
        token = (ctx.headers or {}).get("authorization", "").removeprefix("Bearer ")
        self.ids.setdefault(token, set()).add(str(ctx.request_id))
        await asyncio.sleep(0.002)
        return f"{token}: {text}"


LIMITS = ServerLimits()
DIALER = Dialer(Policy(()), timeout=30, silence=30, limits=LIMITS)
SERVED: dict[str, tuple[str, str, Callable[[MCPServer], Any]]] = {
    "sessions": ("streamable_http", "/mcp", lambda server: server.streamable_http_app(max_sessions=None)),
    "stateless": (
        "streamable_http",
        "/mcp",
        lambda server: server.streamable_http_app(stateless_http=True, json_response=True),
    ),
    "sse": ("sse", "/sse", lambda server: server.sse_app()),
}


@pytest.fixture(params=list(SERVED))
def told(request: pytest.FixtureRequest) -> Iterator[tuple[Told, str, str]]:
    """A server of each kind: it, its address and its transport."""
    transport, path, app = SERVED[request.param]
    told = Told()
    with running(app(told.server), grace=0) as url:
        yield told, f"{url}{path}", transport


@asynccontextmanager
async def connected(url: str, transport: Any, *users: str) -> AsyncIterator[list[Connection]]:
    """A connection of each user's own to the same server."""
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        opened = []
        for user in users:
            server = ServerConfig(alias="t", url=url, transport=transport, auth_token=user, operator=True)
            connection = Connection(server, DIALER, connect_timeout=30, tool_timeout=30, limits=LIMITS)
            await tasks.start(connection.run)
            opened.append(connection)
        yield opened
        for connection in opened:
            await connection.close()


async def ask(connection: Connection, text: str) -> str:
    """Call the one tool."""
    return (await connection.call(connection.tools[0], {"text": text}, Mute())).text


async def test_a_call_cancelled_at_every_await_gives_nobody_its_result(
    told: tuple[Told, str, str], tell: Callable[[str], None]
) -> None:
    server, url, transport = told
    number = 0
    async with connected(url, transport, "a", "b") as (stopped, bystander):

        async def begin() -> Work:
            nonlocal number
            number += 1
            return beside(number)

        async def beside(number: int) -> None:
            """One is stopped while the other waits for an answer under the same id."""
            other = asyncio.create_task(ask(bystander, f"beside {number}"))
            try:
                await ask(stopped, f"stopped {number}")
            finally:
                assert await asyncio.shield(other) == f"b: beside {number}"

        async def check() -> None:
            texts = f"own {number}", f"theirs {number}"
            own, theirs = await asyncio.gather(ask(stopped, texts[0]), ask(bystander, texts[1]))
            assert (own, theirs) == (f"a: {texts[0]}", f"b: {texts[1]}")

        cuts = await cut_everywhere(begin, check)
    assert cuts > 4
    assert len(server.ids["a"] & server.ids["b"]) >= cuts, "their ids are the same"
    tell(f"{cuts} cancels of calls by {transport}")


async def test_a_connection_cancelled_at_every_await_of_its_opening_harms_no_other(
    told: tuple[Told, str, Any], tell: Callable[[str], None]
) -> None:
    _, url, transport = told

    async def begin() -> Work:
        server = ServerConfig(alias="t", url=url, transport=transport, auth_token="a", operator=True)
        connection = Connection(server, DIALER, connect_timeout=30, tool_timeout=30, limits=LIMITS)
        return opened_and_closed(connection)

    async with connected(url, transport, "b") as (bystander,):

        async def check() -> None:
            assert await ask(bystander, "still there") == "b: still there"

        cuts = await cut_everywhere(begin, check)
    assert cuts > 4
    tell(f"{cuts} cancels of a connection by {transport}")


async def opened_and_closed(connection: Connection) -> None:
    """Keep a connection until it is open."""
    closing = asyncio.create_task(closed_when_open(connection))
    try:
        await connection.run()
    finally:
        closing.cancel()


async def closed_when_open(connection: Connection) -> None:
    """Close a connection as soon as it has tools."""
    while not connection.tools:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.001)
    await connection.close()


async def test_random_cancels_of_calls_give_nobody_anothers_result(told: tuple[Told, str, str]) -> None:
    _, url, transport = told
    users = [f"user-{number}" for number in range(6)]
    async with connected(url, transport, *users) as connections:

        async def live(user: str, connection: Connection) -> None:
            random = Random(user)
            for number in range(int(10 * STORM)):
                task = asyncio.create_task(ask(connection, f"stopped {number}"))
                await asyncio.sleep(random.uniform(0, 0.006))
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert await ask(connection, f"{user} {number}") == f"{user}: {user} {number}"

        await asyncio.gather(*map(live, users, connections))


async def test_a_cut_is_where_it_is_said_to_be() -> None:
    steps: list[int] = []

    async def work() -> None:
        for step in range(3):
            await asyncio.sleep(0.001)
            steps.append(step)

    assert [await cut(work(), at) for at in (1, 2, 3, 4)] == [True, True, True, False]
    assert steps == [0, 0, 1, 0, 1, 2]
