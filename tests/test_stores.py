"""One contract over memory and Valkey, and what only Valkey can get wrong."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, cycle, pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from mcp_chat.commands import Cancel, Command, Disconnect, Send
from mcp_chat.embedded import DataDir, EmbeddedValkey
from mcp_chat.events import Entry, TakenOver, TextDelta, TurnFinished, order
from mcp_chat.exceptions import Fenced, Forgotten, StoreUnavailable
from mcp_chat.identity import user_key
from mcp_chat.message import Message
from mcp_chat.stores.base import START, Bell, Lease, Store, Waiting, log_bell
from mcp_chat.stores.cipher import PLAIN, Sealing
from mcp_chat.stores.client import Single
from mcp_chat.stores.memory import MemoryRates, MemoryStore
from mcp_chat.stores.redis import RedisStore, open_redis
from mcp_chat.stores.redis_branches import owner_key
from mcp_chat.vault import Vault
from tests.proxy import proxied

pytestmark = pytest.mark.anyio

MESSAGES, EVENTS = 5, 200


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", "valkey", "valkey, sealed", "valkey, each command apart"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each backend."""
    if request.param == "memory":
        yield MemoryStore(max_messages=MESSAGES, keep_events=EVENTS)
    else:
        cipher = Sealing(Vault([bytes(range(32))])) if "sealed" in request.param else PLAIN
        url = request.getfixturevalue("valkey_url")
        async with open_redis(url, cipher=cipher, max_messages=MESSAGES, keep_events=EVENTS) as redis:
            if "apart" in request.param:
                assert isinstance(redis.redis, Single)
                redis.redis.apart = True
            yield redis


@pytest.fixture
async def valkey(valkey_url: str) -> AsyncIterator[RedisStore]:
    """Valkey alone."""
    async with open_redis(valkey_url, max_messages=MESSAGES, keep_events=EVENTS) as redis:
        yield redis


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the test's own, to look behind the store."""
    async with Redis.from_url(valkey_url, decode_responses=True) as redis:
        yield redis


async def eventually(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until an asynchronous condition holds."""
    with anyio.move_on_after(10):
        while not await condition():  # noqa: ASYNC110 - what is waited for is another process's
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"not within 10 s: {what}")


async def claimed(store: Store, user: str, worker: str = "one") -> Lease:
    """Take the user's lease, whoever holds it."""
    lease = await store.leases.claim(user, worker, floor=0, seen=await store.leases.get(user))
    assert lease is not None
    return lease


def texts(lease: Lease, *parts: str, start: int = 1) -> list[Entry]:
    """Entries of a lease's epoch, one for each text."""
    return [
        Entry(id=f"{lease.epoch}-{n}", command_id="c", event=TextDelta(text=text))
        for n, text in enumerate(parts, start)
    ]


async def logged(store: Store, user: str) -> list[str]:
    """The texts in a user's log."""
    found = await store.log.read(user, START)
    return [entry.event.text for entry in found if isinstance(entry.event, TextDelta)]


def said(*contents: str) -> list[Message]:
    """Messages of a user."""
    return [Message(role="user", content=content) for content in contents]


# Leases


async def test_a_user_nobody_serves_has_no_lease(store: Store, name: str) -> None:
    assert await store.leases.get(name) is None


async def test_a_lease_names_its_worker_and_epoch(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    assert lease == Lease(user=name, worker="one", epoch=lease.epoch)
    assert await store.leases.get(name) == lease


async def test_a_lease_is_taken_only_from_the_one_that_was_seen(store: Store, name: str) -> None:
    first = await claimed(store, name)
    assert await store.leases.claim(name, "two", floor=0, seen=None) is None
    second = await store.leases.claim(name, "two", floor=0, seen=first)
    assert second is not None
    assert second.epoch > first.epoch
    assert await store.leases.claim(name, "three", floor=0, seen=first) is None
    assert await store.leases.get(name) == second


async def test_of_many_who_claim_at_once_one_gets_the_lease(store: Store, name: str) -> None:
    got: list[Lease | None] = []

    async def claim(worker: str) -> None:
        got.append(await store.leases.claim(name, worker, floor=0, seen=None))

    async with anyio.create_task_group() as tasks:
        for n in range(20):
            tasks.start_soon(claim, f"worker-{n}")
    assert [lease for lease in got if lease] == [await store.leases.get(name)]


async def test_an_epoch_is_at_least_its_floor_and_rises_from_there(store: Store, name: str) -> None:
    floor = 4_000_000_000_000
    first = await store.leases.claim(name, "one", floor=floor, seen=None)
    assert first is not None
    assert first.epoch == floor
    second = await store.leases.claim(name, "two", floor=7, seen=first)
    assert second is not None
    assert second.epoch == floor + 1


async def test_an_epoch_is_above_those_of_a_lease_that_was_lost(store: Store, name: str) -> None:
    """Redis forgets; the clock in milliseconds does not."""
    now = await claimed(store, name)
    assert now.epoch > 1_700_000_000_000


async def test_a_released_lease_names_no_worker_and_its_epoch_goes_on(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.leases.release(lease)
    assert await store.leases.get(name) == replace(lease, worker="")
    again = await claimed(store, name, "two")
    assert again.epoch > lease.epoch


async def test_only_the_holder_releases_a_lease(store: Store, name: str) -> None:
    first = await claimed(store, name)
    second = await claimed(store, name, "two")
    await store.leases.release(first)
    assert await store.leases.get(name) == second


async def test_the_gate_lets_one_in_until_its_token_opens_it(store: Store, name: str) -> None:
    assert await store.leases.lock(name, "mine", 30)
    assert not await store.leases.lock(name, "yours", 30)
    await store.leases.unlock(name, "yours")
    assert not await store.leases.lock(name, "yours", 30)
    await store.leases.unlock(name, "mine")
    assert await store.leases.lock(name, "yours", 30)


async def test_the_gate_opens_by_itself_and_a_late_token_does_not_open_the_next_one(
    store: Store, name: str
) -> None:
    assert await store.leases.lock(name, "late", 0.02)
    await eventually(lambda: store.leases.lock(name, "next", 30), "the gate opens by itself")
    await store.leases.unlock(name, "late")
    assert not await store.leases.lock(name, "other", 30)


async def test_a_worker_is_alive_for_as_long_as_its_beat_counts(store: Store, name: str) -> None:
    assert not await store.leases.alive(name)
    await store.leases.beat(name, 30)
    assert await store.leases.alive(name)
    await store.leases.beat(name, 0.02)

    async def dead() -> bool:
        return not await store.leases.alive(name)

    await eventually(dead, "the beat ends")


async def test_a_worker_that_said_goodbye_is_not_alive(store: Store, name: str) -> None:
    await store.leases.beat(name, 30)
    await store.leases.forget(name)
    assert not await store.leases.alive(name)


async def test_no_worker_is_not_alive(store: Store) -> None:
    assert not await store.leases.alive("")


async def test_a_renewed_lease_is_the_same(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    assert await store.leases.renew(lease)
    assert await store.leases.get(name) == lease


async def test_a_lease_that_is_anothers_by_now_is_not_renewed(store: Store, name: str) -> None:
    first = await claimed(store, name)
    second = await claimed(store, name, "two")
    assert not await store.leases.renew(first)
    assert not await store.leases.renew(replace(second, worker="one"))
    assert await store.leases.get(name) == second


async def test_a_released_lease_is_not_renewed(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.leases.release(lease)
    assert not await store.leases.renew(lease)
    assert await store.leases.get(name) == replace(lease, worker="")


FORGOTTEN = 4_000_000_000_000
"""The epoch of a lease that the store knows nothing of."""


async def test_a_lease_that_the_store_has_forgotten_is_written_again(store: Store, name: str) -> None:
    lease = Lease(user=name, worker="one", epoch=FORGOTTEN)
    assert await store.leases.renew(lease, anew=True)
    assert await store.leases.get(name) == lease
    assert not await store.leases.renew(Lease(user=name, worker="two", epoch=FORGOTTEN), anew=True)
    await store.log.append(name, lease.epoch, texts(lease, "mine"))
    assert await logged(store, name) == ["mine"]


async def test_an_earlier_owners_lease_is_the_sign_of_a_store_that_has_lost_its_data(
    store: Store, name: str
) -> None:
    earlier, later = (Lease(user=name, worker="one", epoch=FORGOTTEN + n) for n in (0, 1))
    assert await store.leases.renew(earlier, anew=True)
    with pytest.raises(Forgotten):
        await store.leases.renew(later)
    with pytest.raises(Forgotten):
        await store.log.append(name, later.epoch, texts(later, "lost"))
    assert await store.leases.renew(later, anew=True)
    assert await store.leases.get(name) == later
    assert not await store.leases.renew(earlier, anew=True)


async def test_a_lease_that_was_written_again_fences_those_before_it(store: Store, name: str) -> None:
    assert await store.leases.renew(Lease(user=name, worker="one", epoch=FORGOTTEN), anew=True)
    earlier = Lease(user=name, worker="two", epoch=FORGOTTEN - 1)
    with pytest.raises(Fenced):
        await store.log.append(name, earlier.epoch, texts(earlier, "too late"))
    assert (await claimed(store, name, "three")).epoch == FORGOTTEN + 1


async def test_a_lease_that_the_store_has_forgotten_is_not_made_up(store: Store, name: str) -> None:
    with pytest.raises(Forgotten):
        await store.leases.renew(Lease(user=name, worker="one", epoch=FORGOTTEN))
    assert await store.leases.get(name) is None


async def test_a_user_whose_lease_was_written_again_is_among_those_of_its_worker(
    store: Store, name: str
) -> None:
    assert await store.leases.renew(Lease(user=name, worker=f"{name}-w", epoch=FORGOTTEN), anew=True)
    assert await store.leases.users(f"{name}-w") == [name]


async def test_a_worker_has_the_users_that_it_has_claimed_and_not_released(store: Store, name: str) -> None:
    assert await store.leases.users(f"{name}-w") == []
    a = await claimed(store, f"{name}-a", f"{name}-w")
    await claimed(store, f"{name}-b", f"{name}-w")
    await claimed(store, f"{name}-c", f"{name}-v")
    assert await store.leases.users(f"{name}-w") == [f"{name}-a", f"{name}-b"]
    await store.leases.release(a)
    assert await store.leases.users(f"{name}-w") == [f"{name}-b"]
    assert await store.leases.users(f"{name}-v") == [f"{name}-c"]


async def test_a_user_is_among_those_of_the_worker_that_took_the_lease(store: Store, name: str) -> None:
    first = await claimed(store, name, f"{name}-w")
    await claimed(store, name, f"{name}-v")
    await store.leases.release(first)
    assert await store.leases.users(f"{name}-v") == [name]


async def test_a_late_release_leaves_a_user_to_the_worker_that_has_claimed_them_anew(
    store: Store, name: str
) -> None:
    first = await claimed(store, name, f"{name}-w")
    second = await claimed(store, name, f"{name}-w")
    await store.leases.release(first)
    assert await store.leases.get(name) == second
    assert await store.leases.users(f"{name}-w") == [name]


async def test_the_users_of_a_worker_that_has_stopped_are_still_known(store: Store, name: str) -> None:
    await store.leases.beat(f"{name}-w", 30)
    await claimed(store, name, f"{name}-w")
    await store.leases.forget(f"{name}-w")
    assert await store.leases.users(f"{name}-w") == [name]


async def silent(store: Store, worker: str, *, taking: bool = True) -> None:
    """Let a worker beat for the last time, and wait until that has passed."""
    await store.leases.beat(worker, 0.02, taking=taking)

    async def dead() -> bool:
        return not await store.leases.alive(worker)

    async def noticed() -> bool:
        return worker in await store.leases.silent()

    await eventually(dead, "the beat ends")
    await eventually(noticed, "the silence is noticed")


async def test_a_worker_that_beats_takes_users_and_is_not_silent(store: Store, name: str) -> None:
    assert name not in await store.leases.workers()
    assert name not in await store.leases.silent()
    await store.leases.beat(name, 30)
    assert name in await store.leases.workers()
    assert name not in await store.leases.silent()


async def test_a_worker_whose_beat_has_stopped_is_silent_until_it_is_forgotten(
    store: Store, name: str
) -> None:
    await silent(store, name)
    assert name not in await store.leases.workers()
    await store.leases.forget(name)
    assert name not in await store.leases.silent()
    assert name not in await store.leases.workers()


async def test_a_silent_worker_that_beats_again_is_back(store: Store, name: str) -> None:
    await silent(store, name)
    await store.leases.beat(name, 30)
    assert name in await store.leases.workers()
    assert name not in await store.leases.silent()


async def test_a_worker_that_says_so_takes_no_users_and_is_alive(store: Store, name: str) -> None:
    await store.leases.beat(name, 30)
    await store.leases.beat(name, 30, taking=False)
    assert await store.leases.alive(name)
    assert name not in await store.leases.workers()
    assert name not in await store.leases.silent()
    await store.leases.beat(name, 30)
    assert name in await store.leases.workers()


async def test_a_worker_that_dies_while_it_takes_no_users_is_silent_too(store: Store, name: str) -> None:
    await store.leases.beat(name, 30)
    await silent(store, name, taking=False)
    await store.leases.forget(name)
    assert name not in await store.leases.silent()


# The inbox


async def test_commands_are_read_in_order_behind_a_place(store: Store, name: str) -> None:
    commands: list[Command] = [Send(session_id="s", text="1"), Cancel(session_id="s"), Disconnect()]
    for command in commands:
        await store.inbox.put(name, command, limit=10)
    waiting = await store.inbox.read(name, START)
    assert [each.command for each in waiting] == commands
    assert [each.command for each in await store.inbox.read(name, waiting[0].place)] == commands[1:]
    assert await store.inbox.read(name, waiting[-1].place) == []


async def test_the_same_command_again_is_not_put_twice_and_gives_the_same_place(
    store: Store, name: str
) -> None:
    lease = await claimed(store, name)
    await store.log.append(name, lease.epoch, texts(lease, "before"))
    command = Send(session_id="s", text="hello")
    place = await store.inbox.put(name, command, limit=10)
    assert place == f"{lease.epoch}-1"
    await store.log.append(name, lease.epoch, texts(lease, "after", start=2))
    assert await store.inbox.put(name, command, limit=10) == place
    assert len(await store.inbox.read(name, START)) == 1
    [waiting] = await store.inbox.read(name, START)
    await store.inbox.remove(name, waiting.place, epoch=lease.epoch)
    assert await store.inbox.put(name, command, limit=10) == place
    assert await store.inbox.read(name, START) == []


async def test_a_first_command_of_all_is_at_the_start(store: Store, name: str) -> None:
    assert await store.inbox.put(name, Disconnect(), limit=10) == START


async def test_a_full_inbox_takes_nothing_new_but_knows_what_it_has(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    first, second, third = Disconnect(), Disconnect(), Disconnect()
    place = await store.inbox.put(name, first, limit=2)
    assert await store.inbox.put(name, second, limit=2) is not None
    assert await store.inbox.put(name, third, limit=2) is None
    assert await store.inbox.put(name, first, limit=2) == place
    [waiting, _] = await store.inbox.read(name, START)
    await store.inbox.remove(name, waiting.place, epoch=lease.epoch)
    assert await store.inbox.put(name, third, limit=2) is not None
    assert [each.command for each in await store.inbox.read(name, START)] == [second, third]


async def test_a_place_stays_behind_when_all_before_it_were_removed(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.inbox.put(name, Disconnect(), limit=9)
    [first] = await store.inbox.read(name, START)
    await store.inbox.remove(name, first.place, epoch=lease.epoch)
    await store.inbox.put(name, Disconnect(id="later"), limit=9)
    assert [each.command.id for each in await store.inbox.read(name, first.place)] == ["later"]


async def test_removing_what_is_gone_changes_nothing(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.inbox.put(name, Disconnect(), limit=9)
    [first] = await store.inbox.read(name, START)
    await store.inbox.remove(name, first.place, epoch=lease.epoch)
    await store.inbox.remove(name, first.place, epoch=lease.epoch)
    assert await store.inbox.read(name, START) == []


async def test_an_inbox_waits_until_its_commands_have_ended(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    assert not await store.inbox.waits(name)
    await store.inbox.put(name, Disconnect(), limit=9)
    assert await store.inbox.waits(name)
    assert not await store.inbox.waits(f"{name}2")
    [waiting] = await store.inbox.read(name, START)
    await store.inbox.remove(name, waiting.place, epoch=lease.epoch)
    assert not await store.inbox.waits(name)


async def test_it_stays_known_where_the_log_ended_when_a_command_was_first_seen(
    store: Store, name: str
) -> None:
    lease = await claimed(store, name)
    assert await store.inbox.seen(name, "c") is None
    await store.log.append(name, lease.epoch, texts(lease, "before"))
    place = await store.inbox.put(name, Disconnect(id="c"), limit=9)
    await store.log.append(name, lease.epoch, texts(lease, "after", start=2))
    [waiting] = await store.inbox.read(name, START)
    await store.inbox.remove(name, waiting.place, epoch=lease.epoch)
    assert await store.inbox.seen(name, "c") == place == f"{lease.epoch}-1"
    assert await store.inbox.seen(name, "d") is None
    assert await store.inbox.seen(f"{name}2", "c") is None


async def test_a_command_that_a_full_inbox_did_not_take_was_not_seen(store: Store, name: str) -> None:
    assert await store.inbox.put(name, Disconnect(id="c"), limit=0) is None
    assert await store.inbox.seen(name, "c") is None
    assert not await store.inbox.waits(name)


async def test_an_older_epoch_removes_no_command(store: Store, name: str) -> None:
    old = await claimed(store, name)
    await store.inbox.put(name, Disconnect(), limit=9)
    [waiting] = await store.inbox.read(name, START)
    new = await claimed(store, name, "two")
    with pytest.raises(Fenced):
        await store.inbox.remove(name, waiting.place, epoch=old.epoch)
    assert await store.inbox.read(name, START) == [waiting]
    await store.inbox.remove(name, waiting.place, epoch=new.epoch)
    assert await store.inbox.read(name, START) == []


async def test_inboxes_of_two_users_are_apart(store: Store, name: str) -> None:
    await store.inbox.put(name, Disconnect(id="same"), limit=1)
    assert await store.inbox.put(f"{name}2", Disconnect(id="same"), limit=1) is not None
    assert len(await store.inbox.read(f"{name}2", START)) == 1


# The log


async def test_events_are_read_in_order_behind_a_place(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    entries = texts(lease, "a", "b", "c")
    await store.log.append(name, lease.epoch, entries)
    assert await store.log.read(name, START) == entries
    assert await store.log.read(name, entries[0].id) == entries[1:]
    assert await store.log.read(name, START, limit=2) == entries[:2]
    assert await store.log.read(name, entries[2].id) == []


async def test_events_that_are_sent_again_are_there_once(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.log.append(name, lease.epoch, texts(lease, "a", "b"))
    await store.log.append(name, lease.epoch, texts(lease, "a", "b"))
    await store.log.append(name, lease.epoch, texts(lease, "a", "b", "c"))
    assert await logged(store, name) == ["a", "b", "c"]


async def test_an_owner_is_fenced_as_soon_as_a_later_one_has_the_lease(store: Store, name: str) -> None:
    old = await claimed(store, name)
    await store.log.append(name, old.epoch, texts(old, "mine"))
    await claimed(store, name, "two")
    with pytest.raises(Fenced):
        await store.log.append(name, old.epoch, texts(old, "too late", start=2))
    assert await logged(store, name) == ["mine"]


async def test_an_owner_is_fenced_when_a_later_one_has_written(store: Store, name: str) -> None:
    old = await claimed(store, name)
    new = await claimed(store, name, "two")
    await store.log.append(name, new.epoch, texts(new, "new"))
    with pytest.raises(Fenced):
        await store.log.append(name, old.epoch, texts(old, "too late"))
    assert await logged(store, name) == ["new"]


async def test_the_log_itself_fences_when_the_lease_is_lost(
    valkey: RedisStore, client: Redis, name: str
) -> None:
    old = await claimed(valkey, name)
    new = await claimed(valkey, name, "two")
    await valkey.log.append(name, new.epoch, texts(new, "new"))
    await client.delete(owner_key(name))
    assert await valkey.leases.renew(old, anew=True)
    with pytest.raises(Fenced):
        await valkey.log.append(name, old.epoch, texts(old, "too late"))
    assert await logged(valkey, name) == ["new"]


async def test_a_released_lease_still_fences_those_before_it(store: Store, name: str) -> None:
    old = await claimed(store, name)
    new = await claimed(store, name, "two")
    await store.leases.release(new)
    with pytest.raises(Fenced):
        await store.log.append(name, old.epoch, texts(old, "too late"))


async def test_the_fence_and_the_end_survive_trimming(store: Store, name: str) -> None:
    old = await claimed(store, name)
    new = await claimed(store, name, "two")
    for n in range(1, 1001, 100):
        entries = texts(new, *(str(i) for i in range(n, n + 100)), start=n)
        await store.log.append(name, new.epoch, entries)
    kept = await store.log.read(name, START)
    assert 200 <= len(kept) < 1000
    assert kept[-1].id == await store.log.end(name) == f"{new.epoch}-1000"
    with pytest.raises(Fenced):
        await store.log.append(name, old.epoch, texts(old, "too late"))
    await store.log.append(name, new.epoch, texts(new, "again", start=1))
    assert await store.log.read(name, START) == kept


async def test_ids_strictly_rise_over_owners(store: Store, name: str) -> None:
    for worker in ("one", "two", "three"):
        lease = await claimed(store, name, worker)
        await store.log.append(name, lease.epoch, texts(lease, *"abc"))
    places = [order(entry.id) for entry in await store.log.read(name, START)]
    assert len(places) == 9
    assert all(a < b for a, b in pairwise(places))


async def test_nine_comes_before_ten(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.log.append(name, lease.epoch, texts(lease, *"abcdefghijkl"))
    assert [e.id.partition("-")[2] for e in await store.log.read(name, f"{lease.epoch}-9")] == [
        "10",
        "11",
        "12",
    ]


async def test_events_keep_their_command_and_their_form(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    entries = [
        Entry(
            id=f"{lease.epoch}-1",
            command_id="with-hyphen_1",
            event=TextDelta(text='two words\n"ü" \x00 \u2028'),
        ),
        Entry(id=f"{lease.epoch}-2", command_id="other", event=TurnFinished(elapsed_ms=7)),
    ]
    await store.log.append(name, lease.epoch, entries)
    assert await store.log.read(name, START) == entries


async def test_appends_of_many_users_side_by_side_stay_apart(store: Store, name: str) -> None:
    async def one(user: str) -> None:
        lease = await claimed(store, user)
        for n in range(1, 11):
            await store.log.append(user, lease.epoch, texts(lease, f"{user} {n}", start=n))

    users = [f"{name}-{n}" for n in range(20)]
    async with anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(one, user)
    for user in users:
        assert await logged(store, user) == [f"{user} {n}" for n in range(1, 11)]


async def test_an_epoch_may_begin_with_zero(store: Store, name: str) -> None:
    old = await claimed(store, name)
    await store.log.append(name, old.epoch, texts(old, "a", "b", start=0))
    new = await claimed(store, name, "two")
    await store.log.append(name, new.epoch, texts(new, "c", start=0))
    assert await logged(store, name) == ["a", "b", "c"]
    assert await store.log.end(name) == f"{new.epoch}-0"


async def test_logs_of_many_users_are_read_at_once(store: Store, name: str) -> None:
    users = [f"{name}-{n}" for n in range(20)]
    wanted: dict[str, list[Entry]] = {f"{name}-nobody": []}
    places = {f"{name}-nobody": START}
    for n, user in enumerate(users):
        lease = await claimed(store, user)
        entries = texts(lease, *(f"{user} {k}" for k in range(5)))
        await store.log.append(user, lease.epoch, entries)
        places[user] = entries[n % 5].id
        wanted[user] = entries[n % 5 + 1 :]
    assert await store.log.read_many(places) == wanted
    few = {user: entries[:2] for user, entries in wanted.items()}
    assert await store.log.read_many(places, limit=2) == few
    assert await store.log.read_many({}) == {}


async def test_a_log_ends_where_it_begins_or_at_its_last_entry(store: Store, name: str) -> None:
    assert await store.log.end(name) == START
    lease = await claimed(store, name)
    assert await store.log.end(name) == START
    await store.log.append(name, lease.epoch, texts(lease, "a", "b"))
    assert await store.log.end(name) == f"{lease.epoch}-2"


async def test_a_log_ends_where_its_last_entry_was_erased(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    entries = texts(lease, "a", "b")
    await store.log.append(name, lease.epoch, entries)
    for _ in range(2):
        await store.log.erase(name, [entries[-1]], [], epoch=lease.epoch)
        assert await store.log.end(name) == entries[-1].id
        await store.log.erase(name, entries, [], epoch=lease.epoch)
        assert await store.log.end(name) == entries[-1].id
    assert await store.log.read(name, START) == []


async def test_an_entry_that_was_erased_and_is_sent_again_stays_away(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    entries = texts(lease, "a", "b", "c")
    await store.log.append(name, lease.epoch, entries[:2])
    await store.log.erase(name, entries[:2], [], epoch=lease.epoch)
    await store.log.append(name, lease.epoch, entries)
    assert await logged(store, name) == ["c"]


async def test_erased_entries_are_gone_and_their_commands_were_never_seen(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    erased, kept = Disconnect(id="erased"), Disconnect(id="kept")
    for command in (erased, kept):
        await store.inbox.put(name, command, limit=9)
    for waiting in await store.inbox.read(name, START):
        await store.inbox.remove(name, waiting.place, epoch=lease.epoch)
    entries = texts(lease, "a", "b", "c")
    await store.log.append(name, lease.epoch, entries)
    await store.log.erase(name, entries[:2], ["erased"], epoch=lease.epoch)
    assert await store.log.read(name, START) == entries[2:]
    assert await store.inbox.seen(name, "erased") is None
    assert await store.inbox.put(name, erased, limit=9) == entries[2].id
    assert await store.inbox.put(name, kept, limit=9) == START
    assert [each.command for each in await store.inbox.read(name, START)] == [erased]


async def test_an_older_epoch_erases_nothing(store: Store, name: str) -> None:
    old = await claimed(store, name)
    entries = texts(old, "a", "b")
    await store.inbox.put(name, Disconnect(id="c"), limit=9)
    await store.log.append(name, old.epoch, entries)
    new = await claimed(store, name, "two")
    with pytest.raises(Fenced):
        await store.log.erase(name, entries, ["c"], epoch=old.epoch)
    assert await store.log.read(name, START) == entries
    assert await store.inbox.seen(name, "c") == START
    await store.log.erase(name, entries, ["c"], epoch=new.epoch)
    assert await store.log.read(name, START) == []


State = tuple[Lease | None, list[Waiting], list[Entry], str, str | None, list[str]]


async def state(store: Store, user: str) -> State:
    """What a store tells of a user."""
    lease = await store.leases.get(user)
    return (
        lease,
        await store.inbox.read(user, START),
        await store.log.read(user, START),
        await store.log.end(user),
        await store.inbox.seen(user, "c"),
        await store.leases.users(f"worker-of-{user}"),
    )


Step = Callable[[Store, Lease], Awaitable[object]]
PLACES: dict[str, str] = {}


async def remove_first(store: Store, lease: Lease) -> None:
    """Remove the command that was first at the first time, as one who does not know whether that arrived."""
    if lease.user not in PLACES:
        PLACES[lease.user] = (await store.inbox.read(lease.user, START))[0].place
    await store.inbox.remove(lease.user, PLACES[lease.user], epoch=lease.epoch)


STEPS: dict[str, Step] = {
    "renew": lambda store, lease: store.leases.renew(lease),
    "append": lambda store, lease: store.log.append(lease.user, lease.epoch, texts(lease, "b", "c", start=2)),
    "done": remove_first,
    "erase": lambda store, lease: store.log.erase(lease.user, texts(lease, "a"), ["c"], epoch=lease.epoch),
}


async def prepared(store: Store, user: str) -> Lease:
    """A user with two commands and an entry."""
    lease = await claimed(store, user, f"worker-of-{user}")
    for command_id in ("c", "d"):
        await store.inbox.put(user, Disconnect(id=command_id), limit=9)
    await store.log.append(user, lease.epoch, texts(lease, "a"))
    return lease


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_what_is_sent_again_changes_nothing(store: Store, name: str, step: Step) -> None:
    lease = await prepared(store, name)
    await step(store, lease)
    once = await state(store, name)
    await step(store, lease)
    assert await state(store, name) == once


# The window


async def test_a_window_that_does_not_exist_is_none(store: Store, name: str) -> None:
    assert await store.window.read(name, "s") is None


async def test_messages_go_only_into_a_window_that_exists(store: Store, name: str) -> None:
    """A window that vanished must be filled from the archive, not begin with the middle."""
    lease = await claimed(store, name)
    await store.window.append(name, "s", said("lost"), epoch=lease.epoch, create=False)
    assert await store.window.read(name, "s") is None


async def test_messages_make_a_window_where_it_is_all_there_is(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    first, second = said("first", "second")
    await store.window.append(name, "s", [first], epoch=lease.epoch, create=True)
    await store.window.append(name, "s", [second], epoch=lease.epoch, create=False)
    assert await store.window.read(name, "s") == [first, second]


async def test_a_window_keeps_the_newest_messages(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    messages = said(*"abcdefgh")
    await store.window.append(name, "s", messages[:4], epoch=lease.epoch, create=True)
    await store.window.append(name, "s", messages[4:], epoch=lease.epoch, create=True)
    assert await store.window.read(name, "s") == messages[-5:]
    await store.window.replace(name, "s", messages, epoch=lease.epoch)
    assert await store.window.read(name, "s") == messages[-5:]


async def test_a_window_is_replaced_as_a_whole(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.window.append(name, "s", said("old"), epoch=lease.epoch, create=True)
    messages = said("new", "newer")
    await store.window.replace(name, "s", messages, epoch=lease.epoch)
    assert await store.window.read(name, "s") == messages


async def test_a_window_replaced_by_nothing_is_none(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.window.append(name, "s", said("old"), epoch=lease.epoch, create=True)
    await store.window.replace(name, "s", [], epoch=lease.epoch)
    assert await store.window.read(name, "s") is None


async def test_messages_that_are_sent_again_are_there_once(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    messages = said("a", "b")
    for _ in range(2):
        await store.window.append(name, "s", messages[:1], epoch=lease.epoch, create=True)
    for _ in range(2):
        await store.window.append(name, "s", messages[1:], epoch=lease.epoch, create=False)
    assert await store.window.read(name, "s") == messages


async def test_a_message_that_is_sent_again_behind_others_is_there_once(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    a, b = said("a", "b")
    for message in (a, b, a):
        await store.window.append(name, "s", [message], epoch=lease.epoch, create=True)
    assert await store.window.read(name, "s") == [a, b]


async def test_more_messages_than_a_window_has_that_are_sent_again_are_there_in_order(
    store: Store, name: str
) -> None:
    lease = await claimed(store, name)
    messages = said(*"abcdefgh")
    for _ in range(2):
        await store.window.append(name, "s", messages, epoch=lease.epoch, create=True)
    assert await store.window.read(name, "s") == messages[-MESSAGES:]


async def test_a_long_addition_that_is_sent_again_behind_others_is_there_once(
    valkey_url: str, name: str
) -> None:
    messages, [later] = said(*(f"{n}" for n in range(300))), said("later")
    async with open_redis(valkey_url, max_messages=1000) as redis:
        for store in (redis, MemoryStore(max_messages=1000)):
            for addition in (messages, [later], messages):
                await store.window.append(name, "s", addition, epoch=None, create=True)
            assert await store.window.read(name, "s") == [*messages, later]


async def test_a_writer_that_is_no_owner_is_never_refused(store: Store, name: str) -> None:
    await claimed(store, name)
    first, second = said("first", "second")
    await store.window.append(name, "s", [first], epoch=None, create=False)
    assert await store.window.read(name, "s") is None
    await store.window.append(name, "s", [first], epoch=None, create=True)
    await store.window.append(name, "s", [second], epoch=None, create=False)
    assert await store.window.read(name, "s") == [first, second]
    await store.window.replace(name, "s", [second], epoch=None)
    assert await store.window.read(name, "s") == [second]
    await store.window.clear(name, "s", epoch=None)
    assert await store.window.read(name, "s") is None


async def test_an_older_epoch_changes_no_window(store: Store, name: str) -> None:
    old = await claimed(store, name)
    messages = said("kept")
    await store.window.append(name, "s", messages, epoch=old.epoch, create=True)
    await claimed(store, name, "two")
    with pytest.raises(Fenced):
        await store.window.append(name, "s", said("late"), epoch=old.epoch, create=True)
    with pytest.raises(Fenced):
        await store.window.append(name, "none", said("late"), epoch=old.epoch, create=False)
    with pytest.raises(Fenced):
        await store.window.replace(name, "s", said("late"), epoch=old.epoch)
    with pytest.raises(Fenced):
        await store.window.clear(name, "s", epoch=old.epoch)
    assert await store.window.read(name, "s") == messages


async def test_a_cleared_window_is_gone_and_others_are_not(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    for session in ("s", "t", None):
        await store.window.append(name, session, said(f"{session}"), epoch=lease.epoch, create=True)
    await store.window.clear(name, "s", epoch=lease.epoch)
    assert await store.window.read(name, "s") is None
    for session in ("t", None):
        found = await store.window.read(name, session)
        assert found is not None
        assert [message.content for message in found] == [f"{session}"]


async def test_a_window_that_was_read_does_not_change_by_itself(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    await store.window.append(name, "s", said("a"), epoch=lease.epoch, create=True)
    found = await store.window.read(name, "s")
    await store.window.append(name, "s", said("b"), epoch=lease.epoch, create=True)
    assert found is not None
    assert [message.content for message in found] == ["a"]


# Configurations


async def test_a_configuration_is_kept_until_it_is_deleted(store: Store, name: str) -> None:
    assert await store.configs.get(name) is None
    lease = await claimed(store, name)
    await store.configs.put(name, "sealed 1", epoch=lease.epoch)
    await store.configs.put(name, "sealed 2", epoch=lease.epoch)
    assert await store.configs.get(name) == "sealed 2"
    assert await store.configs.get(f"{name}2") is None
    await store.configs.delete(name, epoch=lease.epoch)
    assert await store.configs.get(name) is None


async def test_an_older_epoch_changes_no_configuration(store: Store, name: str) -> None:
    old = await claimed(store, name)
    new = await claimed(store, name, "two")
    await store.configs.put(name, "new", epoch=new.epoch)
    with pytest.raises(Fenced):
        await store.configs.put(name, "old", epoch=old.epoch)
    assert await store.configs.get(name) == "new"


# Bells


async def rung(bell: Bell) -> bool:
    with anyio.fail_after(5):
        return await bell.wait(5)


async def heard(store: Store, listening: str, bell: Bell) -> None:
    """Wait until the bell is up: a ring reaches it."""

    async def reaches() -> bool:
        await store.bells.ring(listening, "up?")
        return await bell.wait(0.05)

    await eventually(reaches, "the bell hangs")
    last = secrets.token_hex(8)
    await store.bells.ring(listening, last)

    async def all_came() -> bool:
        await bell.wait(0.05)
        return last in bell.notes()

    await eventually(all_came, "the last ring")


async def collected(bell: Bell, number: int) -> list[str]:
    """Wait for so many notes."""
    notes: list[str] = []

    async def all_there() -> bool:
        await bell.wait(0.05)
        notes.extend(bell.notes())
        return len(notes) >= number

    await eventually(all_there, f"{number} notes")
    return notes


async def test_a_ring_reaches_every_listener_of_its_name_and_no_other(store: Store, name: str) -> None:
    async with (
        store.bells.listen(name) as one,
        store.bells.listen(name) as two,
        store.bells.listen(f"{name}2") as other,
    ):
        await heard(store, name, one)
        await heard(store, f"{name}2", other)
        while await two.wait(0.02):
            pass
        two.notes()
        await store.bells.ring(name, "note")
        assert await rung(one)
        assert await rung(two)
        assert one.notes() == two.notes() == ["note"]
        assert one.notes() == []
        assert not await other.wait(0.05)
        assert other.notes() == []


async def test_a_ring_before_the_wait_is_remembered_once(store: Store, name: str) -> None:
    async with store.bells.listen(name) as bell, store.bells.listen(name) as witness:
        await heard(store, name, bell)
        while await witness.wait(0.02):
            pass
        await store.bells.ring(name, "a")
        assert await rung(witness)
        assert await rung(bell)
        assert not await bell.wait(0.02)


async def test_notes_of_several_rings_are_collected_in_order(store: Store, name: str) -> None:
    async with store.bells.listen(name) as bell:
        await heard(store, name, bell)
        for note in ("a", "b", "a", "c"):
            await store.bells.ring(name, note)
        assert await collected(bell, 4) == ["a", "b", "a", "c"]


async def test_nobody_needs_to_listen(store: Store, name: str) -> None:
    await store.bells.ring(name, "into the void")


async def test_a_bell_that_was_taken_down_can_be_hung_again(store: Store, name: str) -> None:
    for _ in range(3):
        async with store.bells.listen(name) as bell:
            await heard(store, name, bell)


async def test_an_append_rings_the_bell_of_its_user(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    async with store.bells.listen(log_bell(name)) as bell:
        await heard(store, log_bell(name), bell)
        await store.log.append(name, lease.epoch, texts(lease, "a"))
        assert await rung(bell)


STRANGE = [
    "",
    "a\nb\n\nc",
    "\r\n",
    'say "no"',
    "it's",
    "\\n",
    "👩‍👩‍👧 \U0001f600 ü \u2028 \x85 \x00",
    "{}[]",
    " a ",
]


async def test_what_a_ring_carries_is_what_was_appended(store: Store, name: str) -> None:
    """Memory carries nothing; whoever hears a ring then reads the log."""
    lease = await claimed(store, name)
    entries = texts(lease, *STRANGE)
    async with store.bells.listen(log_bell(name)) as bell:
        await heard(store, log_bell(name), bell)
        await store.log.append(name, lease.epoch, entries)
        [note] = await collected(bell, 1)
    assert store.log.heard(name, note) in ([], entries)


async def test_a_ring_without_a_note_carries_nothing(store: Store, name: str) -> None:
    assert store.log.heard(name, "") == store.log.heard(name, "up?") == []


async def test_a_backend_that_works_answers_its_ping(store: Store) -> None:
    await store.ping()


# Rates


async def test_a_minutes_worth_of_requests_may_come_at_once_and_no_more(store: Store, name: str) -> None:
    assert [await store.rates.take(name, per_minute=7) for _ in range(7)] == [0] * 7
    waits = [await store.rates.take(name, per_minute=7) for _ in range(2)]
    assert all(60 / 7 - 8 < wait <= 60 / 7 for wait in waits), "what is refused is not counted"
    assert await store.rates.take(f"{name}-other", per_minute=7) == 0


async def test_who_has_waited_as_long_as_was_said_may_ask_again(store: Store, name: str) -> None:
    assert await store.rates.take(name, per_minute=1) == 0
    wait = await store.rates.take(name, per_minute=30)
    assert 0 < wait <= 2
    await anyio.sleep(wait)
    assert await store.rates.take(name, per_minute=30) == 0


async def test_requests_that_come_together_are_each_counted(store: Store, name: str) -> None:
    waits: list[float] = []

    async def take() -> None:
        waits.append(await store.rates.take(name, per_minute=10))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(take)
    assert waits.count(0) == 10


async def test_whoever_has_not_asked_for_a_minute_leaves_nothing_behind(
    valkey: RedisStore, client: Redis, name: str
) -> None:
    for _ in range(9):
        await valkey.rates.take(name, per_minute=3)
    assert await keys_of(client, name) == [f"chat:rate:{{{name}}}"]
    assert 50_000 < await client.pttl(f"chat:rate:{{{name}}}") <= 60_000
    clock: Iterator[float] = cycle([0.0])
    rates = MemoryRates(lambda: next(clock))
    for n in range(100):
        await rates.take(f"{name}-{n}", per_minute=3)
    clock = count(100.0, 0.001)
    for _ in range(100):
        await rates.take(name, per_minute=1000)
    assert len(rates._moments) == 1


async def test_a_worker_that_says_so_takes_no_further_turns(store: Store, name: str) -> None:
    assert not await store.leases.full(name)
    await store.leases.beat(name, 30, full=True)
    assert await store.leases.full(name)
    assert await store.leases.alive(name)
    await store.leases.beat(name, 30)
    assert not await store.leases.full(name)
    await store.leases.beat(name, 0.02, full=True)
    await anyio.sleep(0.05)
    assert not await store.leases.full(name), "it is dead"


# What only Valkey can get wrong


async def do_everything(store: Store, user: str) -> Lease:
    """Every operation that writes, on one user."""
    lease = await claimed(store, user, f"worker-of-{user}")
    await store.leases.renew(lease)
    await store.leases.lock(user, "token", 30)
    await store.leases.beat(f"worker-of-{user}", 30)
    await store.inbox.put(user, Send(session_id="s", text="hello"), limit=9)
    await store.inbox.put(user, Disconnect(), limit=9)
    [first, _] = await store.inbox.read(user, START)
    await store.inbox.remove(user, first.place, epoch=lease.epoch)
    await store.log.append(user, lease.epoch, texts(lease, "a", "b"))
    await store.log.erase(user, texts(lease, "a"), [first.command.id], epoch=lease.epoch)
    await store.window.append(user, "s", said("a"), epoch=lease.epoch, create=True)
    await store.window.append(user, "s", said("b"), epoch=lease.epoch, create=False)
    await store.window.replace(user, "t", said("a"), epoch=lease.epoch)
    await store.window.replace(user, None, said("a"), epoch=lease.epoch)
    await store.configs.put(user, "sealed", epoch=lease.epoch)
    await store.rates.take(user, per_minute=100)
    for document in "ab":
        await store.documents.put_document(user, "kind", document, "x", seconds=60, epoch=lease.epoch)
    await store.documents.drop_document(user, "kind", "a")
    await store.leases.release(lease)
    return await claimed(store, user, lease.worker)


async def keys_of(client: Redis, user: str) -> list[str]:
    return [key async for key in client.scan_iter(match="*", count=1000) if user in key]


async def test_every_key_has_a_time_to_live(valkey: RedisStore, client: Redis, name: str) -> None:
    await do_everything(valkey, name)
    keys = ["workers", *await keys_of(client, name)]
    assert f"worker:sessions:worker-of-{name}" in keys
    assert len(keys) >= 16
    lives = {key: await client.pttl(key) for key in keys}
    assert all(life > 0 for life in lives.values()), lives


async def test_an_emptied_inbox_has_a_time_to_live_too(valkey: RedisStore, client: Redis, name: str) -> None:
    lease = await claimed(valkey, name)
    await valkey.inbox.put(name, Disconnect(), limit=9)
    [waiting] = await valkey.inbox.read(name, START)
    await valkey.inbox.remove(name, waiting.place, epoch=lease.epoch)
    assert all([await client.pttl(key) > 0 for key in await keys_of(client, name)])


async def test_a_lease_lives_on_while_its_owner_writes(valkey: RedisStore, client: Redis, name: str) -> None:
    lease = await claimed(valkey, name)
    await client.pexpire(owner_key(name), 5000)
    await valkey.log.append(name, lease.epoch, texts(lease, "a"))
    assert await client.pttl(owner_key(name)) > 5000


@pytest.mark.parametrize("id", ["plain", "ann@example.org", "{a}b", "{}", "a}{b", "a:b*c", "ünï", "x" * 300])
async def test_all_keys_of_a_user_share_one_slot(
    valkey: RedisStore, client: Redis, name: str, id: str
) -> None:
    user = user_key(f"{id}{name}")
    await do_everything(valkey, user)
    keys = [key for key in await keys_of(client, user) if not key.startswith("worker:")]
    assert len(keys) >= 12
    assert {key_slot(key.encode()) for key in keys} == {key_slot(user.encode())}


async def test_each_ring_of_a_log_carries_exactly_what_was_appended(valkey: RedisStore, name: str) -> None:
    lease = await claimed(valkey, name)
    first = Entry(id=f"{lease.epoch}-0", command_id="", event=TakenOver(worker="one", before=START))
    appends = [[first], texts(lease, *STRANGE), texts(lease, *"ab", start=len(STRANGE) + 1)]
    async with valkey.bells.listen(log_bell(name)) as bell:
        await heard(valkey, log_bell(name), bell)
        for entries in appends:
            await valkey.log.append(name, lease.epoch, entries)
        notes = await collected(bell, len(appends))
    assert [valkey.log.heard(name, note) for note in notes] == appends
    assert await valkey.log.read(name, START) == [entry for entries in appends for entry in entries]


async def test_a_ring_of_another_version_carries_nothing(valkey: RedisStore, name: str) -> None:
    assert valkey.log.heard(name, '7-1\nc {"type": "of tomorrow"}\n7-2\nnonsense') == []


async def test_a_ring_does_not_carry_what_was_refused(valkey: RedisStore, name: str) -> None:
    old = await claimed(valkey, name)
    new = await claimed(valkey, name, "two")
    async with valkey.bells.listen(log_bell(name)) as bell:
        await heard(valkey, log_bell(name), bell)
        with pytest.raises(Fenced):
            await valkey.log.append(name, old.epoch, texts(old, "too late"))
        await valkey.log.append(name, new.epoch, texts(new, "mine"))
        assert [valkey.log.heard(name, note) for note in await collected(bell, 1)] == [texts(new, "mine")]


async def test_what_a_user_leaves_behind_expires_soon_and_lives_on_if_they_return(
    valkey: RedisStore, client: Redis, name: str
) -> None:
    lease = await prepared(valkey, name)
    await valkey.log.append(name, lease.epoch, texts(lease, "goodbye", start=2), ttl=1000)
    keys = [owner_key(name), f"chat:events:{{{name}}}", f"chat:inbox:{{{name}}}"]
    assert all([0 < await client.ttl(key) <= 1000 for key in keys])
    again = await claimed(valkey, name, "two")
    await valkey.log.append(name, again.epoch, texts(again, "b"))
    await valkey.inbox.put(name, Disconnect(), limit=9)
    assert all([await client.ttl(key) > 1000 for key in keys])


async def test_an_older_epoch_shortens_no_life(valkey: RedisStore, client: Redis, name: str) -> None:
    old = await prepared(valkey, name)
    await claimed(valkey, name, "two")
    with pytest.raises(Fenced):
        await valkey.log.append(name, old.epoch, texts(old, "goodbye", start=2), ttl=1000)
    assert all([await client.ttl(key) > 1000 for key in await keys_of(client, name)])


async def contents(client: Redis, user: str) -> dict[str, bytes]:
    """What is in a user's keys, to the last byte."""
    keys = await keys_of(client, user)
    dump: Callable[..., Awaitable[bytes]] = client.execute_command
    return {key: await dump("DUMP", key, NEVER_DECODE=True) for key in keys}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
async def test_what_is_sent_again_changes_no_byte(
    valkey: RedisStore, client: Redis, name: str, step: Step
) -> None:
    lease = await prepared(valkey, name)
    await step(valkey, lease)
    once = await contents(client, name)
    await step(valkey, lease)
    assert await contents(client, name) == once


async def test_a_renewed_lease_lives_on(valkey: RedisStore, client: Redis, name: str) -> None:
    lease = await claimed(valkey, name, f"worker-of-{name}")
    await client.pexpire(owner_key(name), 5000)
    assert await valkey.leases.renew(lease, anew=True)
    assert await client.pttl(owner_key(name)) > 5000


async def test_it_stays_known_whom_a_worker_serves_while_it_renews_their_leases(
    valkey: RedisStore, client: Redis, name: str
) -> None:
    lease = await claimed(valkey, name, f"worker-of-{name}")
    await client.pexpire(f"worker:sessions:worker-of-{name}", 5000)
    assert await valkey.leases.renew(lease, anew=True)
    assert await client.pttl(f"worker:sessions:worker-of-{name}") > 5000


async def test_an_append_without_a_lease_adds_nothing_until_that_is_written_again(
    valkey: RedisStore, client: Redis, name: str
) -> None:
    lease = await claimed(valkey, name)
    await valkey.log.append(name, lease.epoch, texts(lease, "a"))
    await client.delete(owner_key(name))
    for _ in range(2):
        with pytest.raises(Forgotten):
            await valkey.log.append(name, lease.epoch, texts(lease, "b", start=2))
    assert await logged(valkey, name) == ["a"]
    assert await valkey.leases.renew(lease, anew=True)
    await valkey.log.append(name, lease.epoch, texts(lease, "b", start=2))
    assert await logged(valkey, name) == ["a", "b"]


async def test_a_ring_does_not_carry_what_was_forgotten(valkey: RedisStore, client: Redis, name: str) -> None:
    lease = await claimed(valkey, name)
    async with valkey.bells.listen(log_bell(name)) as bell:
        await heard(valkey, log_bell(name), bell)
        await client.delete(owner_key(name))
        with pytest.raises(Forgotten):
            await valkey.log.append(name, lease.epoch, texts(lease, "lost"))
        await valkey.bells.ring(log_bell(name), "end")
        assert await collected(bell, 1) == ["end"]


@pytest.fixture
def own_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey that may lose everything."""
    with DataDir(tmp_path_factory.mktemp("own")) as data, EmbeddedValkey(data) as own:
        yield own.url


async def flush(url: str) -> None:
    """Take everything out of a server."""
    async with Redis.from_url(url) as redis:
        await redis.flushall()


async def test_a_server_that_lost_everything_takes_an_append_when_the_lease_is_written_again(
    own_url: str, name: str
) -> None:
    async with open_redis(own_url) as store:
        lease = await prepared(store, name)
        await flush(own_url)
        with pytest.raises(Forgotten):
            await store.log.append(name, lease.epoch, texts(lease, "b", start=2))
        assert await store.log.end(name) == START
        assert await store.leases.renew(lease, anew=True)
        await store.log.append(name, lease.epoch, texts(lease, "b", start=2))
        assert await logged(store, name) == ["b"]


async def test_of_two_owners_of_a_server_that_lost_everything_the_first_to_come_has_the_lease(
    own_url: str, name: str
) -> None:
    async with open_redis(own_url) as store:
        old = await claimed(store, name)
        await flush(own_url)
        new = await claimed(store, name, "two")
        assert not await store.leases.renew(old, anew=True)
        with pytest.raises(Fenced):
            await store.log.append(name, old.epoch, texts(old, "too late"))
        assert await store.leases.get(name) == new


async def test_a_worker_is_back_with_its_next_beat_when_a_server_lost_everything(
    own_url: str, name: str
) -> None:
    async with open_redis(own_url) as store:
        await store.leases.beat(name, 30)
        await flush(own_url)
        assert name not in await store.leases.workers()
        await store.leases.beat(name, 30)
        assert await store.leases.workers() == [name]


async def test_scripts_that_the_server_forgot_are_sent_again(
    valkey: RedisStore, client: Redis, name: str
) -> None:
    for part in ("a", "b"):
        await client.script_flush()
        await do_everything(valkey, f"{name}-{part}")


async def test_windows_and_configurations_are_kept_for_as_long_as_was_asked(
    valkey_url: str, client: Redis, name: str
) -> None:
    async with open_redis(valkey_url, history_ttl=1000, session_ttl=100) as store:
        await do_everything(store, name)
    assert 990 < await client.ttl(f"chat:history:{{{name}}}:s") <= 1000
    assert 90 < await client.ttl(f"user:config:{{{name}}}") <= 100


async def test_a_store_that_is_full_refuses_and_does_not_pretend(
    valkey: RedisStore, client: Redis, name: str
) -> None:
    lease = await claimed(valkey, name)
    await valkey.log.append(name, lease.epoch, texts(lease, "a"))
    await client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable):
            await valkey.log.append(name, lease.epoch, texts(lease, "b", start=2))
        with pytest.raises(StoreUnavailable):
            await valkey.window.append(name, "s", said("a"), epoch=lease.epoch, create=True)
        with pytest.raises(StoreUnavailable):
            await valkey.inbox.put(name, Disconnect(), limit=9)
        with pytest.raises(StoreUnavailable):
            await valkey.configs.put(name, "sealed", epoch=lease.epoch)
    finally:
        await client.config_set("maxmemory", "0")
    await valkey.log.append(name, lease.epoch, texts(lease, "b", start=2))
    assert await logged(valkey, name) == ["a", "b"]


OPERATIONS: dict[str, Callable[[Store, str], Awaitable[Any]]] = {
    "ping": lambda store, user: store.ping(),
    "get": lambda store, user: store.leases.get(user),
    "claim": lambda store, user: store.leases.claim(user, "w", floor=0, seen=None),
    "renew": lambda store, user: store.leases.renew(Lease(user=user, worker="w", epoch=1)),
    "release": lambda store, user: store.leases.release(Lease(user=user, worker="w", epoch=1)),
    "beat": lambda store, user: store.leases.beat("w", 1),
    "beat and take none": lambda store, user: store.leases.beat("w", 1, taking=False),
    "alive": lambda store, user: store.leases.alive("w"),
    "full": lambda store, user: store.leases.full("w"),
    "take": lambda store, user: store.rates.take(user, per_minute=100),
    "workers": lambda store, user: store.leases.workers(),
    "silent": lambda store, user: store.leases.silent(),
    "users": lambda store, user: store.leases.users("w"),
    "forget": lambda store, user: store.leases.forget("w"),
    "lock": lambda store, user: store.leases.lock(user, "t", 1),
    "unlock": lambda store, user: store.leases.unlock(user, "t"),
    "put": lambda store, user: store.inbox.put(user, Disconnect(), limit=9),
    "waiting": lambda store, user: store.inbox.read(user, START),
    "seen": lambda store, user: store.inbox.seen(user, "c"),
    "waits": lambda store, user: store.inbox.waits(user),
    "remove": lambda store, user: store.inbox.remove(user, "1-0", epoch=1),
    "append": lambda store, user: store.log.append(
        user, 1, [Entry(id="1-1", command_id="c", event=TextDelta(text="a"))]
    ),
    "read": lambda store, user: store.log.read(user, START),
    "read many": lambda store, user: store.log.read_many({user: START, f"{user}2": START}),
    "end": lambda store, user: store.log.end(user),
    "erase": lambda store, user: store.log.erase(user, [], ["c"], epoch=1),
    "messages": lambda store, user: store.window.read(user, "s"),
    "remember": lambda store, user: store.window.append(user, "s", said("a"), epoch=1, create=True),
    "replace": lambda store, user: store.window.replace(user, "s", said("a"), epoch=1),
    "clear": lambda store, user: store.window.clear(user, "s", epoch=1),
    "config": lambda store, user: store.configs.get(user),
    "configure": lambda store, user: store.configs.put(user, "sealed", epoch=1),
    "delete": lambda store, user: store.configs.delete(user, epoch=1),
    "ring": lambda store, user: store.bells.ring(user),
}


@pytest.mark.slow
async def test_a_server_that_is_away_is_one_error_whatever_is_asked_and_heals(
    valkey_url: str, name: str
) -> None:
    with proxied(valkey_url) as proxy:
        async with open_redis(proxy.url) as store:
            await store.ping()
            proxy.cut()
            unlike: dict[str, object] = {}

            async def ask(operation: str) -> None:
                try:
                    unlike[operation] = await OPERATIONS[operation](store, name)
                except StoreUnavailable:
                    pass
                except Exception as error:  # noqa: BLE001 - any other error is what this is about
                    unlike[operation] = error

            async with anyio.create_task_group() as tasks:
                for operation in OPERATIONS:
                    tasks.start_soon(ask, operation)
            assert unlike == {}
            proxy.heal()
            await do_everything(store, name)


async def test_a_server_that_hangs_counts_as_away_after_a_while(valkey_url: str, name: str) -> None:
    with proxied(valkey_url) as proxy:
        async with open_redis(proxy.url) as store:
            await store.ping()
            proxy.hang()
            with anyio.fail_after(12), pytest.raises(StoreUnavailable):
                await store.configs.get(name)
            proxy.heal()
            await store.ping()


async def test_more_requests_at_once_than_connections_wait_their_turn(valkey: RedisStore, name: str) -> None:
    lease = await claimed(valkey, name)
    await valkey.configs.put(name, "sealed", epoch=lease.epoch)
    found: list[str | None] = []

    async def read() -> None:
        found.append(await valkey.configs.get(name))

    async with anyio.create_task_group() as tasks:
        for _ in range(500):
            tasks.start_soon(read)
    assert found == ["sealed"] * 500


async def test_bells_ring_again_after_the_server_cut_the_connection(
    valkey: RedisStore, client: Redis, name: str
) -> None:
    async with valkey.bells.listen(name) as bell:
        await heard(valkey, name, bell)
        await client.client_kill_filter(_type="pubsub")
        await heard(valkey, name, bell)


async def test_a_bell_that_was_hung_while_the_server_was_away_rings_later(valkey_url: str, name: str) -> None:
    with proxied(valkey_url) as proxy:
        async with open_redis(proxy.url) as store:
            proxy.cut()
            async with store.bells.listen(name) as bell:
                assert not await bell.wait(0)
                proxy.heal()
                await heard(store, name, bell)


async def test_a_listener_that_is_cancelled_while_it_hangs_its_bell_leaves_no_deaf_one(
    valkey: RedisStore, name: str
) -> None:
    async def listen() -> None:
        async with valkey.bells.listen(name):
            await anyio.lowlevel.checkpoint()

    async with valkey.bells.listen(f"{name}-awake"):
        for k in range(8):
            await cancelled_at(k, listen)
            async with valkey.bells.listen(name) as bell:
                await heard(valkey, name, bell)


async def test_many_listeners_at_once_are_all_heard(valkey: RedisStore, name: str) -> None:
    async def listen(n: int) -> None:
        async with valkey.bells.listen(f"{name}-{n}") as bell:
            await heard(valkey, f"{name}-{n}", bell)

    async with anyio.create_task_group() as tasks:
        for n in range(50):
            tasks.start_soon(listen, n)


class Steps:
    """Runs a coroutine and cancels its task at the k-th moment in which it waits."""

    def __init__(self, work: Awaitable[Any], k: int) -> None:
        self._work = work
        self._k = k

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        step: Callable[[], Any] = partial(steps.send, None)
        for wait in count():
            try:
                future = step()
            except StopIteration as end:
                return end.value
            if wait == self._k:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield future
            except BaseException as error:  # noqa: BLE001 - handed on
                step = partial(steps.throw, error)
            else:
                step = partial(steps.send, None)


async def cancelled_at(k: int, work: Callable[[], Awaitable[Any]]) -> bool:
    """Run work in a task that is cancelled at its k-th wait; tell whether it came so far."""

    async def run() -> None:
        await Steps(work(), k)

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


async def test_steps_cancels_at_each_wait() -> None:
    done: list[int] = []

    async def work() -> None:
        for n in range(3):
            await asyncio.sleep(0.001)
            done.append(n)

    assert [await cancelled_at(k, work) for k in range(4)] == [True, True, True, False]
    assert done == [0, 0, 1, 0, 1, 2]


READS: list[Callable[[Store, str], Awaitable[str]]] = []


def reads(read: Callable[[Store, str], Awaitable[str]]) -> Callable[[Store, str], Awaitable[str]]:
    READS.append(read)
    return read


@reads
async def _config(store: Store, user: str) -> str:
    return str(await store.configs.get(user))


@reads
async def _window(store: Store, user: str) -> str:
    return "".join(message.content for message in await store.window.read(user, "s") or [])


@reads
async def _log(store: Store, user: str) -> str:
    return "".join(await logged(store, user))


@reads
async def _inbox(store: Store, user: str) -> str:
    return "".join(w.command.text for w in await store.inbox.read(user, START) if isinstance(w.command, Send))


@reads
async def _lease(store: Store, user: str) -> str:
    lease = await store.leases.get(user)
    return lease.worker if lease else ""


@reads
async def _logs(store: Store, user: str) -> str:
    """Several answers at once."""
    found = await store.log.read_many({f"{user}-nobody": START, user: START})
    return "".join(e.event.text for log in found.values() for e in log if isinstance(e.event, TextDelta))


@reads
async def _users(store: Store, user: str) -> str:
    return "".join(await store.leases.users(user))


@reads
async def _script(store: Store, user: str) -> str:
    """A script answers too: that of a command which was put before."""
    place = await store.inbox.put(user, Send(session_id="s", text=user, id="first"), limit=9)
    return user if place == START else f"place {place}"


async def test_2000_cancelled_reads_mix_up_no_replies(valkey_url: str, name: str) -> None:
    """R1: a reply that a cancelled call left in a pooled connection must not become the next user's."""
    users = [f"{name}-{n}" for n in range(16)]
    cancels: list[bool] = []
    mixed: list[tuple[str, str]] = []

    async def storm(store: Store, user: str) -> None:
        """Cancel at every wait, also of calls that must connect first as the one before was cancelled."""
        await store.inbox.put(user, Send(session_id="s", text=user, id="first"), limit=9)
        lease = await claimed(store, user, worker=user)
        await store.configs.put(user, user, epoch=lease.epoch)
        await store.window.replace(user, "s", said(user), epoch=lease.epoch)
        await store.log.append(user, lease.epoch, texts(lease, user))
        for read in cycle(READS):
            for k in (1, 0, 2, 3, 4, 5):
                cancels.append(await cancelled_at(k, partial(read, store, user)))
            found = await read(store, user)
            if found != user:
                mixed.append((user, found))
            if sum(cancels) >= 2000:
                return

    with proxied(valkey_url, delay=0.0005) as proxy:
        async with open_redis(proxy.url) as store, anyio.create_task_group() as tasks:
            for user in users:
                tasks.start_soon(storm, store, user)
    assert sum(cancels) >= 2000
    assert mixed == []


async def test_readers_who_go_away_at_any_moment_leave_no_connection_taken(
    valkey: RedisStore, name: str
) -> None:
    async def come_and_go(n: int) -> None:
        for k in range(20):
            with anyio.move_on_after((n * 20 + k) % 97 / 20_000):
                while True:
                    await valkey.ping()

    async with anyio.create_task_group() as tasks:
        for n in range(100):
            tasks.start_soon(come_and_go, n)
    with anyio.fail_after(30):
        for _ in range(200):
            await valkey.ping()
    assert isinstance(valkey.redis, Redis)
    assert not valkey.redis.connection_pool._in_use_connections
