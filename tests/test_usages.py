"""One contract over all that counts what users spend: memory, Valkey and both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from mcp_chat.exceptions import Fenced
from mcp_chat.message import Message, Usage
from mcp_chat.spent import Spent, Sum
from mcp_chat.stores.base import Addition, Usages
from mcp_chat.stores.database import migrate
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import open_redis
from mcp_chat.stores.sql import SQLArchive, open_sql
from tests.conftest import missing
from tests.postgres import private_postgresql, programs

pytestmark = pytest.mark.anyio

TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)
LONG_AGO = TODAY - timedelta(days=500)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[SQLArchive]:
    """A database."""
    url = f"sqlite:///{tmp_path}/chat.db"
    migrate(url)
    async with open_sql(url, usage_days=400) as archive:
        yield archive


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """A private PostgreSQL; gives the URL of its database."""
    with private_postgresql(programs() or missing("PostgreSQL")) as url:
        migrate(url)
        yield url


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of the database that is asked for."""
    if request.node.callspec.params["usages"] == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    migrate(url := f"sqlite:///{tmp_path}/chat.db")
    return url


KINDS = ["memory", "valkey", "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(params=KINDS)
async def usages(
    request: pytest.FixtureRequest, valkey_url: str, database: str, name: str
) -> AsyncIterator[Usages]:
    """Each place where it is counted, owned at epoch 2."""
    if request.param == "memory":
        store = MemoryStore()
        await claim(store, name)
        yield store.usages
    elif request.param == "valkey":
        async with open_redis(valkey_url) as redis:
            await claim(redis, name)
            yield redis.usages
    else:
        async with open_sql(database) as archive:
            await archive.next_epoch(name, 2)
            yield archive


async def claim(store: object, user: str) -> None:
    """Own a user at epoch 2."""
    lease = await store.leases.claim(user, "one", floor=2, seen=None)  # type: ignore[attr-defined]
    assert lease.epoch >= 2


def step(id_: str, *, day: date = TODAY, **more: object) -> Spent:
    """A step of a turn."""
    usage = Usage(input_tokens=10, output_tokens=5, cached_tokens=4, reasoning_tokens=2, cost_nanos=7)
    fields = {"session_id": "s", "model": "p:m", "usage": usage, **more}
    return Spent(id=id_, day=day, **fields)  # type: ignore[arg-type]


EPOCH = 2**62


async def test_a_step_counts_once_however_often_it_is_told(usages: Usages, name: str) -> None:
    for _ in range(3):
        await usages.spend(name, [step("r-a0", calls=2), step("r-a1")], epoch=EPOCH)
    found = await usages.sums(name, since=TODAY, until=TODAY, by="day")
    usage = Usage(input_tokens=20, output_tokens=10, cached_tokens=8, reasoning_tokens=4, cost_nanos=14)
    assert [(each.key, each.usage, each.steps, each.calls) for each in found] == [
        (TODAY.isoformat(), usage, 2, 2)
    ]
    assert await usages.sums(f"{name}-2", since=TODAY, until=TODAY, by="day") == []


async def test_sums_are_told_apart_by_day_model_and_session(usages: Usages, name: str) -> None:
    own = Usage(input_tokens=1, cost_nanos=100, estimated=True, unpriced=True)
    await usages.spend(
        name,
        [
            step("r-a0", day=YESTERDAY),
            step("r-a1", session_id="t"),
            step("r-a2", model="p:n", usage=own, own=True),
        ],
        epoch=EPOCH,
    )

    async def sums(by: str, since: date = YESTERDAY) -> dict[str, Sum]:
        found = await usages.sums(name, since=since, until=TODAY, by=by)  # type: ignore[arg-type]
        return {each.key: each for each in found}

    days, models, sessions = await sums("day"), await sums("model"), await sums("session")
    assert {key: each.steps for key, each in days.items()} == {str(YESTERDAY): 1, str(TODAY): 2}
    assert {key: each.steps for key, each in models.items()} == {"p:m": 2, "p:n": 1}
    assert {key: each.steps for key, each in sessions.items()} == {"s": 2, "t": 1}
    assert (models["p:n"].usage, models["p:n"].billed) == (own, 0)
    assert (models["p:m"].usage.estimated, models["p:m"].usage.unpriced) == (False, False)
    assert (days[str(TODAY)].usage.cost_nanos, days[str(TODAY)].billed) == (107, 7)
    assert days[str(TODAY)].usage.estimated
    assert list(await sums("day", TODAY)) == [str(TODAY)]


async def test_the_steps_of_a_turn_are_found_by_its_run(usages: Usages, name: str) -> None:
    mine = [step("run-a0", day=YESTERDAY, calls=1), step("run-l5-1")]
    await usages.spend(name, [*mine, step("run2-a0"), step("RUN-a0")], epoch=EPOCH)
    found = await usages.steps(name, "run", since=YESTERDAY)
    assert sorted(found, key=lambda each: each.id) == mine
    assert [each.id for each in await usages.steps(name, "run", since=TODAY)] == ["run-l5-1"]
    assert await usages.steps(name, "r%", since=YESTERDAY) == []


async def test_an_owner_that_was_replaced_counts_nothing_more(usages: Usages, name: str) -> None:
    with pytest.raises(Fenced):
        await usages.spend(name, [step("r-a0")], epoch=1)
    assert await usages.sums(name, since=TODAY, until=TODAY, by="day") == []


async def test_a_step_is_written_with_its_message_or_not_at_all(archive: SQLArchive) -> None:
    said = Message(role="assistant", content="hi", id="r-a0")
    addition = Addition(user="ann", session_id="s", messages=(said,), spent=(step("r-a0"),), epoch=1)
    await archive.next_epoch("ann", 5)
    with pytest.raises(Fenced):
        await archive.add(addition)
    assert await archive.sums("ann", since=TODAY, until=TODAY, by="day") == []
    assert await archive.session("ann", "s") is None


async def test_what_is_older_than_the_operator_wants_to_know_is_dropped(archive: SQLArchive) -> None:
    await archive.spend("ann", [step("r-a0", day=LONG_AGO), step("r-a1")], epoch=1)
    await archive.tidy()
    found = await archive.sums("ann", since=LONG_AGO, until=TODAY, by="day")
    assert [each.key for each in found] == [str(TODAY)]
    session = await archive.session("ann", "s")  # a conversation's own total stays
    assert session is not None
    assert session.token_usage.input_tokens == 20


async def test_each_day_in_valkey_expires(valkey_url: str, name: str) -> None:
    async with open_redis(valkey_url, usage_days=3) as store:
        await claim(store, name)
        await store.usages.spend(name, [step("r-a0")], epoch=EPOCH)
        ttl = await store.redis.ttl(f"chat:usage:{{{name}}}:{TODAY}")
        assert 2 * 86_400 < ttl <= 3 * 86_400


async def test_memory_drops_what_has_had_its_time(name: str) -> None:
    store = MemoryStore(usage_days=3)
    await store.usages.spend(name, [step("r-a0", day=LONG_AGO)], epoch=1)
    await store.usages.spend(name, [step("r-a1")], epoch=1)
    assert len(await store.usages.sums(name, since=LONG_AGO, until=TODAY, by="day")) == 1
