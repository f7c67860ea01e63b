"""One contract over memory and Valkey, and what only Valkey can get wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
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
from mcp_chat.events import Entry, TextDelta, TurnFinished, order
from mcp_chat.exceptions import Fenced, StoreUnavailable
from mcp_chat.identity import user_key
from mcp_chat.message import Message
from mcp_chat.stores.base import START, Bell, Lease, Store
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import RedisStore, open_redis
from tests.proxy import proxied

pytestmark = pytest.mark.anyio

MESSAGES, EVENTS = 5, 200


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", "valkey"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Each backend."""
    if request.param == "memory":
        yield MemoryStore(max_messages=MESSAGES, keep_events=EVENTS)
    else:
        async with open_redis(
            request.getfixturevalue("valkey_url"), max_messages=MESSAGES, keep_events=EVENTS
        ) as redis:
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
    await store.inbox.remove(name, waiting.place)
    assert await store.inbox.put(name, command, limit=10) == place
    assert await store.inbox.read(name, START) == []


async def test_a_first_command_of_all_is_at_the_start(store: Store, name: str) -> None:
    assert await store.inbox.put(name, Disconnect(), limit=10) == START


async def test_a_full_inbox_takes_nothing_new_but_knows_what_it_has(store: Store, name: str) -> None:
    first, second, third = Disconnect(), Disconnect(), Disconnect()
    place = await store.inbox.put(name, first, limit=2)
    assert await store.inbox.put(name, second, limit=2) is not None
    assert await store.inbox.put(name, third, limit=2) is None
    assert await store.inbox.put(name, first, limit=2) == place
    [waiting, _] = await store.inbox.read(name, START)
    await store.inbox.remove(name, waiting.place)
    assert await store.inbox.put(name, third, limit=2) is not None
    assert [each.command for each in await store.inbox.read(name, START)] == [second, third]


async def test_a_place_stays_behind_when_all_before_it_were_removed(store: Store, name: str) -> None:
    await store.inbox.put(name, Disconnect(), limit=9)
    [first] = await store.inbox.read(name, START)
    await store.inbox.remove(name, first.place)
    await store.inbox.put(name, Disconnect(id="later"), limit=9)
    assert [each.command.id for each in await store.inbox.read(name, first.place)] == ["later"]


async def test_removing_what_is_gone_changes_nothing(store: Store, name: str) -> None:
    await store.inbox.put(name, Disconnect(), limit=9)
    [first] = await store.inbox.read(name, START)
    await store.inbox.remove(name, first.place)
    await store.inbox.remove(name, first.place)
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
    await client.delete(f"active:session:{{{name}}}")
    with pytest.raises(Fenced):
        await valkey.log.append(name, old.epoch, texts(old, "too late"))
    await valkey.log.append(name, new.epoch, texts(new, "newer", start=2))
    assert await logged(valkey, name) == ["new", "newer"]


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
    assert kept[-1].id == f"{new.epoch}-1000"
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
    while await bell.wait(0.02):
        pass
    bell.notes()


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
        assert one.notes() == two.notes() == {"note"}
        assert one.notes() == set()
        assert not await other.wait(0.05)
        assert other.notes() == set()


async def test_a_ring_before_the_wait_is_remembered_once(store: Store, name: str) -> None:
    async with store.bells.listen(name) as bell, store.bells.listen(name) as witness:
        await heard(store, name, bell)
        while await witness.wait(0.02):
            pass
        await store.bells.ring(name, "a")
        assert await rung(witness)
        assert await rung(bell)
        assert not await bell.wait(0.02)


async def test_notes_of_several_rings_are_collected(store: Store, name: str) -> None:
    async with store.bells.listen(name) as bell:
        await heard(store, name, bell)
        for note in ("a", "b", "a", "c"):
            await store.bells.ring(name, note)
        collected: set[str] = set()

        async def all_there() -> bool:
            await bell.wait(0.05)
            collected.update(bell.notes())
            return collected == {"a", "b", "c"}

        await eventually(all_there, "three notes")


async def test_nobody_needs_to_listen(store: Store, name: str) -> None:
    await store.bells.ring(name, "into the void")


async def test_a_bell_that_was_taken_down_can_be_hung_again(store: Store, name: str) -> None:
    for _ in range(3):
        async with store.bells.listen(name) as bell:
            await heard(store, name, bell)


async def test_an_append_rings_the_bell_of_its_user(store: Store, name: str) -> None:
    lease = await claimed(store, name)
    async with store.bells.listen(f"chat:bell:{{{name}}}") as bell:
        await heard(store, f"chat:bell:{{{name}}}", bell)
        await store.log.append(name, lease.epoch, texts(lease, "a"))
        assert await rung(bell)


async def test_a_backend_that_works_answers_its_ping(store: Store) -> None:
    await store.ping()


# What only Valkey can get wrong


async def do_everything(store: Store, user: str) -> Lease:
    """Every operation that writes, on one user."""
    lease = await claimed(store, user)
    await store.leases.lock(user, "token", 30)
    await store.leases.beat(f"worker-of-{user}", 30)
    await store.inbox.put(user, Send(session_id="s", text="hello"), limit=9)
    await store.inbox.put(user, Disconnect(), limit=9)
    [first, _] = await store.inbox.read(user, START)
    await store.inbox.remove(user, first.place)
    await store.log.append(user, lease.epoch, texts(lease, "a", "b"))
    await store.window.append(user, "s", said("a"), epoch=lease.epoch, create=True)
    await store.window.append(user, "s", said("b"), epoch=lease.epoch, create=False)
    await store.window.replace(user, "t", said("a"), epoch=lease.epoch)
    await store.window.replace(user, None, said("a"), epoch=lease.epoch)
    await store.configs.put(user, "sealed", epoch=lease.epoch)
    await store.leases.release(lease)
    return lease


async def keys_of(client: Redis, user: str) -> list[str]:
    return [key async for key in client.scan_iter(match="*", count=1000) if user in key]


async def test_every_key_has_a_time_to_live(valkey: RedisStore, client: Redis, name: str) -> None:
    await do_everything(valkey, name)
    keys = await keys_of(client, name)
    assert len(keys) >= 10
    lives = {key: await client.pttl(key) for key in keys}
    assert all(life > 0 for life in lives.values()), lives


async def test_an_emptied_inbox_has_a_time_to_live_too(valkey: RedisStore, client: Redis, name: str) -> None:
    await valkey.inbox.put(name, Disconnect(), limit=9)
    [waiting] = await valkey.inbox.read(name, START)
    await valkey.inbox.remove(name, waiting.place)
    assert all([await client.pttl(key) > 0 for key in await keys_of(client, name)])


async def test_a_lease_lives_on_while_its_owner_writes(valkey: RedisStore, client: Redis, name: str) -> None:
    lease = await claimed(valkey, name)
    key = f"active:session:{{{name}}}"
    await client.pexpire(key, 5000)
    await valkey.log.append(name, lease.epoch, texts(lease, "a"))
    assert await client.pttl(key) > 5000


@pytest.mark.parametrize("id", ["plain", "ann@example.org", "{a}b", "{}", "a}{b", "a:b*c", "ünï", "x" * 300])
async def test_all_keys_of_a_user_share_one_slot(
    valkey: RedisStore, client: Redis, name: str, id: str
) -> None:
    user = user_key(f"{id}{name}")
    await do_everything(valkey, user)
    keys = [key for key in await keys_of(client, user) if not key.startswith("worker:")]
    assert len(keys) >= 9
    assert {key_slot(key.encode()) for key in keys} == {key_slot(user.encode())}


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
    "release": lambda store, user: store.leases.release(Lease(user=user, worker="w", epoch=1)),
    "beat": lambda store, user: store.leases.beat("w", 1),
    "alive": lambda store, user: store.leases.alive("w"),
    "forget": lambda store, user: store.leases.forget("w"),
    "lock": lambda store, user: store.leases.lock(user, "t", 1),
    "unlock": lambda store, user: store.leases.unlock(user, "t"),
    "put": lambda store, user: store.inbox.put(user, Disconnect(), limit=9),
    "waiting": lambda store, user: store.inbox.read(user, START),
    "remove": lambda store, user: store.inbox.remove(user, "1-0"),
    "append": lambda store, user: store.log.append(
        user, 1, [Entry(id="1-1", command_id="c", event=TextDelta(text="a"))]
    ),
    "read": lambda store, user: store.log.read(user, START),
    "messages": lambda store, user: store.window.read(user, "s"),
    "remember": lambda store, user: store.window.append(user, "s", said("a"), epoch=1, create=True),
    "replace": lambda store, user: store.window.replace(user, "s", said("a"), epoch=1),
    "clear": lambda store, user: store.window.clear(user, "s", epoch=1),
    "config": lambda store, user: store.configs.get(user),
    "configure": lambda store, user: store.configs.put(user, "sealed", epoch=1),
    "delete": lambda store, user: store.configs.delete(user, epoch=1),
    "ring": lambda store, user: store.bells.ring(user),
}


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
    with anyio.fail_after(5):
        for _ in range(200):
            await valkey.ping()
    assert not valkey.redis.connection_pool._in_use_connections
