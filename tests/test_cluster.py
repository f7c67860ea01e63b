"""The client, the doorbells and the scripts on a real cluster and behind real Sentinels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha1
from importlib.resources import files
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError

from mcp_chat.exceptions import SettingsError, StoreUnavailable
from mcp_chat.stores.base import Bell
from mcp_chat.stores.bells import LocalBell
from mcp_chat.stores.client import Client, execute_many, open_client
from mcp_chat.stores.doorbells import RedisBells
from mcp_chat.stores.scripts import Scripts
from tests.redis_cluster import RedisCluster, SentinelGroup, Server, redis_cluster, sentinel_group
from tests.running import wait_until

pytestmark = pytest.mark.anyio

slow = pytest.mark.slow

FAILOVER_SECONDS = 45.0
"""Seconds within which writes work again, with servers that count as dead after one second."""
RINGS_AGAIN_SECONDS = 45.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A cluster that no test breaks."""
    with redis_cluster(tmp_path_factory.mktemp("cluster"), timeout=15_000) as cluster:
        yield cluster


@pytest.fixture
def frail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A cluster with replicas, to be broken."""
    with redis_cluster(tmp_path_factory.mktemp("frail"), replicas=True) as cluster:
        yield cluster


@pytest.fixture
def torn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A cluster without replicas, to be torn apart."""
    with redis_cluster(tmp_path_factory.mktemp("torn")) as cluster:
        yield cluster


@pytest.fixture
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    """A Sentinel group, to be broken."""
    with sentinel_group(tmp_path_factory.mktemp("group")) as group:
        yield group


@asynccontextmanager
async def bells_of(client: Client) -> AsyncIterator[RedisBells]:
    """The doorbells of a worker."""
    bells = RedisBells(client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bells.run)
        yield bells
        tasks.cancel_scope.cancel()
    await bells.aclose()


async def eventually(condition: Callable[[], Awaitable[object]], what: str, seconds: float = 10) -> None:
    """Wait until an asynchronous condition holds."""
    with anyio.move_on_after(seconds):
        while not await condition():  # noqa: ASYNC110 - what is waited for is another process's
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"not within {seconds:g} s: {what}")


async def in_thread(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Wait for other processes, while this one's tasks go on."""
    return await asyncio.to_thread(wait_until, condition, what, seconds=seconds)


async def heard(ringer: RedisBells, name: str, bell: Bell, seconds: float = 10) -> None:
    """Wait until a ring is heard; rings that cannot be are none."""

    async def reaches() -> bool:
        try:
            await ringer.ring(name, "up?")
        except StoreUnavailable:
            return False
        return await bell.wait(0.1)

    await eventually(reaches, "a ring is heard", seconds)
    while await bell.wait(0.05):
        pass
    bell.notes()


async def written(client: Client, key: str, value: str) -> bool:
    """Whether a write is done now."""
    try:
        return bool(await client.set(key, value))
    except RedisError:
        return False


# Notes


def test_notes_come_in_order_and_their_number_is_bounded() -> None:
    bell = LocalBell()
    for n in range(1500):
        bell.ring(str(n))
    assert bell.notes() == [str(n) for n in range(1000)]
    assert bell.notes() == []


async def test_a_ring_whose_note_is_dropped_is_a_ring() -> None:
    bell = LocalBell()
    for _ in range(1000):
        bell.ring("")
    assert await bell.wait(0)
    bell.ring("one too many")
    assert await bell.wait(0)


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "http://secret@h:6379/0",
        "redis+other://secret@h:6379",
        "cluster://secret@h",
        "redis://secret@h:port/0",
        "redis://secret@h:6379/zero",
        "redis://secret@h:6379/0?nonsense=1",
        "redis://secret@h:6379/0?socket_timeout=soon",
        "unix://",
        "unix+cluster:///secret",
        "redis+cluster://",
        "redis+cluster://secret@",
        "redis+cluster://secret@h:6379,",
        "redis+cluster://secret@h:99999",
        "redis+cluster://secret@h:6379/1",
        "redis+cluster://secret@h:6379/?db=1",
        "redis+cluster://secret@h:6379/name/0",
        "redis+cluster://secret@h:6379?nonsense=1",
        "redis+sentinel://secret@h:26379",
        "redis+sentinel://secret@h:26379/master/zero",
        "redis+sentinel://secret@h:26379/master/0/1",
        "redis+sentinel://secret@h:26379/master?nonsense=1",
    ],
)
async def test_a_wrong_url_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL must be .*\+sentinel://.*/master/0\.$") as caught:
        async with open_client(url):
            pass
    assert "secret" not in str(caught.value)


async def test_a_url_is_taken_apart() -> None:
    url = "rediss+sentinel://me:p%40ss@h:1,[::1]:2,third/main/3?sentinel_password=other&ssl_cert_reqs=none"
    async with open_client(url) as client:
        assert isinstance(client, Redis)
        pool: Any = client.connection_pool
        options = pool.connection_kwargs
        assert (options["username"], options["password"], options["db"]) == ("me", "p@ss", 3)
        assert (pool.service_name, options["ssl_cert_reqs"]) == ("main", "none")
        theirs = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
        assert [(it["host"], it["port"]) for it in theirs] == [("h", 1), ("::1", 2), ("third", 26379)]
        assert {(it["username"], it["password"], it["ssl_cert_reqs"]) for it in theirs} == {
            (None, "other", "none")
        }


async def test_a_url_of_a_cluster_is_taken_apart() -> None:
    async with open_client("rediss+cluster://me:p%2Fss@h:1,second/?ssl_cert_reqs=none") as client:
        nodes = list(client.nodes_manager.startup_nodes.values())  # type: ignore[union-attr]
        assert [(node.host, node.port) for node in nodes] == [("h", 1), ("second", 6379)]
        options = nodes[0].connection_kwargs
        assert (options["username"], options["password"], options["ssl_cert_reqs"]) == ("me", "p/ss", "none")


# A cluster

USER = "{u}"
OWNER = f"active:session:{USER}"
COPY = f"chat:renewed:{USER}:1"
LOG, INBOX, WINDOW, ASIDE = (f"chat:{kind}:{USER}" for kind in ("events", "inbox", "history", "aside"))
DOCUMENT, KINDS = f"chat:document:{USER}:kind:a", f"chat:documents:{USER}:kind"
SIDES = f"chat:sides:{USER}"
CALLS: dict[str, tuple[list[str], list[Any]]] = {
    "claim": ([OWNER], [0, "w", 7, 10_000]),
    "renew": ([OWNER], ["w", 7, 10_000]),
    "append": ([LOG, OWNER, INBOX], [7, 100, 10, f"chat:bell:{USER}", "7-1", "c {}"]),
    "copy_entries": ([COPY], [10, "7-1", "e", "c {}"]),
    "swap_stream": ([LOG, COPY], ["7-1", 10]),
    "put": ([INBOX, f"chat:seen:{USER}:c", LOG], ["{}", 9, 10, "", 10]),
    "done": ([INBOX, OWNER], [7, "1-1"]),
    "erase": ([LOG, OWNER, f"chat:seen:{USER}:c"], [7, "7-1"]),
    "remember": ([WINDOW, OWNER, SIDES], [7, 50, 10, "create", "{}"]),
    "regrow": ([WINDOW, OWNER, SIDES], [7, sha1(b"{}\n").hexdigest(), sha1().hexdigest(), 10, "", "{}"]),
    "spend": ([f"chat:usage:{USER}:2026-11-22", OWNER], [7, 10, "a", "{}"]),
    "swap_values": ([WINDOW], ["{}", "{}"]),
    "aside": ([WINDOW, ASIDE, f"{ASIDE}:key"], [10, "{}"]),
    "away": ([WINDOW, f"{ASIDE}:key"], [10]),
    "configure": ([f"user:config:{USER}", OWNER], [7, "sealed", 10]),
    "swap": ([f"user:config:{USER}"], ["sealed", "sealed"]),
    "forget": ([f"user:config:{USER}", OWNER], [7]),
    "keep": ([DOCUMENT, KINDS, f"chat:version:{USER}", OWNER], ["", "a", "x", 9999, 0, "w", 9, 99, 9999]),
    "drop": ([DOCUMENT, KINDS], ["a", "", "d", 9999]),
    "rate": ([f"chat:rate:{USER}"], [600]),
    "release": ([OWNER], [7]),
    "unlock": ([f"session:lock:{USER}"], ["t"]),
    "beat": (["workers"], ["w", 5000, 10]),
    "workers": (["workers"], ["alive"]),
}


def test_every_script_is_called() -> None:
    scripts = (files("mcp_chat.stores") / "lua").iterdir()
    assert {path.name for path in scripts if path.name.endswith(".lua")} == {f"{name}.lua" for name in CALLS}


@slow
async def test_every_script_runs_in_a_cluster(cluster: RedisCluster) -> None:
    for server in cluster.servers:
        server.ask("FLUSHALL")
    async with open_client(cluster.url) as client:
        scripts = Scripts(client)
        answers = {name: await scripts.run(name, *call) for name, call in CALLS.items()}
    assert int(answers.pop("keep")) > 10**15
    assert answers == dict.fromkeys(answers, 1) | {"claim": 7, "put": "7-1", "rate": 0, "workers": ["w"]}


@slow
async def test_scripts_that_were_flushed_run_again(cluster: RedisCluster) -> None:
    async with open_client(cluster.url) as client:
        scripts = Scripts(client)
        for _ in range(2):
            await scripts.run("unlock", *CALLS["unlock"])
            for server in cluster.servers:
                server.ask("SCRIPT FLUSH")
        many = [scripts.run("unlock", [f"session:lock:{{{n}}}"], ["t"]) for n in range(200)]
        assert await asyncio.gather(*many) == [1] * 200
        assert all(
            server.ask("INFO", "memory")["number_of_cached_scripts"] == 1 for server in cluster.servers
        )


@slow
async def test_many_calls_answer_in_order_and_each_for_itself(cluster: RedisCluster) -> None:
    async with open_client(cluster.url) as client:
        keys = [f"active:session:{{order-{n}}}" for n in range(200)]
        await client.set("active:session:{order-5}", "no hash", ex=10)
        writes = await execute_many(client, [("HSET", key, "epoch", n) for n, key in enumerate(keys)])
        assert isinstance(writes.pop(5), ResponseError)
        assert writes == [1] * 199
        reads = await execute_many(client, [("HGET", key, "epoch") for key in keys[6:]])
        assert reads == [str(n) for n in range(6, 200)]


@slow
async def test_more_requests_at_once_than_connections_wait_their_turn(cluster: RedisCluster) -> None:
    async with open_client(cluster.url) as client:
        await client.set("busy", "value", ex=10)
        assert await asyncio.gather(*(client.get("busy") for _ in range(500))) == ["value"] * 500


LATE = "for i = 1, 2000000 do end return KEYS[1]"
"""Answers after some milliseconds: time stands still inside a script."""


@slow
async def test_cancelled_calls_mix_up_no_replies(cluster: RedisCluster) -> None:
    async with open_client(cluster.url) as client:
        cancelled = 0
        for n in range(200):
            calling = asyncio.ensure_future(client.execute_command("EVAL", LATE, 1, f"mixed-{n}"))
            await asyncio.wait([calling], timeout=n % 10 / 10_000)
            calling.cancel()
            await asyncio.wait([calling])
            cancelled += calling.cancelled()
            assert await client.execute_command("EVAL", "return KEYS[1]", 1, f"right-{n}") == f"right-{n}"
        assert cancelled > 100


@slow
async def test_a_ring_at_one_node_is_heard_at_all_others(cluster: RedisCluster) -> None:
    async with open_client(cluster.url) as client, bells_of(client) as bells, bells.listen("door") as bell:
        await heard(bells, "door", bell)
        for n, server in enumerate(cluster.servers):
            server.ask("PUBLISH", "door", str(n))
        collected: list[str] = []

        async def all_heard() -> bool:
            await bell.wait(1)
            collected.extend(bell.notes())
            return len(collected) == 3

        await eventually(all_heard, "a ring from each node")
        assert sorted(collected) == ["0", "1", "2"]


@slow
async def test_notes_of_one_ringer_arrive_in_order(cluster: RedisCluster) -> None:
    user = USER
    async with open_client(cluster.url) as client, bells_of(client) as bells:
        scripts = Scripts(client)
        await client.delete(OWNER, LOG)
        await scripts.run("claim", *CALLS["claim"])
        async with bells.listen(f"chat:bell:{user}") as bell:
            await heard(bells, f"chat:bell:{user}", bell)
            for n in range(1, 101):
                args: list[str | int] = [7, 1000, 10, f"chat:bell:{user}", f"7-{n}", f"event {n}"]
                await scripts.run("append", [LOG, OWNER, INBOX], args)
            collected: list[str] = []

            async def all_heard() -> bool:
                await bell.wait(1)
                collected.extend(bell.notes())
                return len(collected) == 100

            await eventually(all_heard, "a hundred rings")
            assert [note.split()[-1] for note in collected] == [str(n) for n in range(1, 101)]


async def ear(cluster: RedisCluster, name: str) -> Server:
    """The node at which a bell hangs."""
    found: Server = await in_thread(lambda: cluster.subscribed(name), "somebody listens")
    return found


@slow
@pytest.mark.parametrize("end", ["kill", "pause"])
async def test_rings_are_heard_again_when_the_node_with_the_bell_dies(frail: RedisCluster, end: str) -> None:
    async with (
        open_client(frail.url) as client,
        open_client(frail.url) as other,
        bells_of(client) as bells,
        bells.listen("door") as bell,
    ):
        ringer = RedisBells(other)
        await heard(ringer, "door", bell)
        before = await ear(frail, "door")
        getattr(before, end)()
        await heard(ringer, "door", bell, RINGS_AGAIN_SECONDS)
        if end == "kill":
            assert await ear(frail, "door") is not before


@slow
async def test_a_node_that_was_cut_off_from_the_others_keeps_no_bell(torn: RedisCluster) -> None:
    async with open_client(torn.url) as client, bells_of(client) as bells, bells.listen("door") as bell:
        await heard(bells, "door", bell)
        before = await ear(torn, "door")
        own = before.ask("CLUSTER MYID")
        for server in torn.servers:
            if server is not before:
                server.ask("CLUSTER FORGET", own)
                before.ask("CLUSTER FORGET", server.ask("CLUSTER MYID"))
        await in_thread(lambda: not before.ask("PUBSUB CHANNELS", "door"), "the bell hangs elsewhere", 30)
        await heard(bells, "door", bell, RINGS_AGAIN_SECONDS)


@slow
async def test_a_cluster_goes_on_when_a_master_dies(frail: RedisCluster) -> None:
    async with open_client(frail.url) as client:
        scripts = Scripts(client)
        await scripts.run("claim", *CALLS["claim"])
        dead = frail.master_of(OWNER)
        other = next(key for key in map(str, range(100)) if frail.master_of(f"{{{key}}}") is not dead)
        await client.wait(1, 1000, target_nodes=client.get_node_from_key(OWNER))  # type: ignore[union-attr]
        dead.kill()
        began = time.monotonic()
        assert await scripts.run("unlock", [f"session:lock:{{{other}}}"], ["t"]) == 1
        assert time.monotonic() - began < 1, "nobody else waits for the dead node"

        async def renewed() -> bool:
            try:
                return bool(await scripts.run("renew", *CALLS["renew"]))
            except StoreUnavailable:
                return False

        await eventually(renewed, "writes work again", FAILOVER_SECONDS)
        assert await client.hget(OWNER, "epoch") == "7"
        assert frail.master_of(OWNER) is not dead


@slow
async def test_a_cluster_that_is_gone_is_the_store_that_does_not_answer(frail: RedisCluster) -> None:
    async with open_client(frail.url) as client:
        scripts = Scripts(client)
        await scripts.run("unlock", *CALLS["unlock"])
        for server in frail.servers:
            server.kill()
        with anyio.fail_after(12), pytest.raises(StoreUnavailable):
            await scripts.run("unlock", *CALLS["unlock"])
        with anyio.fail_after(12), pytest.raises(StoreUnavailable):
            await RedisBells(client).ring("door")


# Sentinels


@slow
async def test_writes_work_again_after_a_failover(group: SentinelGroup) -> None:
    async with open_client(group.url) as client:
        scripts = Scripts(client)
        await client.set("key", "before")
        await scripts.run("unlock", *CALLS["unlock"])
        await client.wait(1, 1000)
        group.master.kill()
        await eventually(lambda: written(client, "key", "after"), "writes work again", FAILOVER_SECONDS)
        assert group.master.ask("GET", "key") == "after"
        assert await scripts.run("unlock", *CALLS["unlock"]) == 1


@slow
async def test_a_hanging_master_is_left_and_not_believed_when_it_is_back(group: SentinelGroup) -> None:
    async with open_client(group.url) as client:
        await client.set("key", "before")
        await client.wait(1, 1000)
        hung = group.master
        hung.pause()
        await eventually(lambda: written(client, "key", "after"), "writes work again", FAILOVER_SECONDS)
        hung.resume()
        assert await client.get("key") == "after"
        await in_thread(hung.is_replica, "it is a replica", 30)
        assert await client.get("key") == "after"
        assert await written(client, "key", "again")


@slow
async def test_a_demoted_master_is_left_though_it_answers(group: SentinelGroup) -> None:
    async with open_client(group.url) as client:
        assert isinstance(client, Redis)
        await asyncio.gather(*(client.set(f"key-{n}", "before") for n in range(20)))
        demoted = group.master
        await asyncio.to_thread(group.fail_over)
        await eventually(lambda: written(client, "key", "after"), "writes work again", FAILOVER_SECONDS)
        await in_thread(demoted.is_replica, "it is a replica", 30)
        ports = {(await client.info("server"))["tcp_port"] for _ in range(40)}
        assert ports == {group.master.port}


@slow
async def test_a_replica_that_a_sentinel_still_calls_master_is_left_at_once(group: SentinelGroup) -> None:
    async with open_client(group.url) as client:
        await client.set("key", "value")
        pool: Any = client.connection_pool  # type: ignore[union-attr]
        connection = pool.make_connection()
        with pytest.raises(ConnectionLost, match="not a master any more"):
            await connection.connect_to((group.replica.host, group.replica.port))
        assert not connection.is_connected


@slow
@pytest.mark.parametrize("how", ["kill", "pause", "demote"])
async def test_rings_are_heard_again_after_a_failover(group: SentinelGroup, how: str) -> None:
    async with (
        open_client(group.url) as client,
        open_client(group.url) as other,
        bells_of(client) as bells,
        bells.listen("door") as bell,
    ):
        ringer = RedisBells(other)
        await heard(ringer, "door", bell)
        before = group.master
        if how == "demote":
            await asyncio.to_thread(group.fail_over)
        else:
            getattr(before, how)()
            await in_thread(lambda: group.master is not before, "a failover", 45)
        await heard(ringer, "door", bell, RINGS_AGAIN_SECONDS)
        await in_thread(lambda: group.master.ask("PUBSUB CHANNELS", "door"), "the bell hangs at the master")
