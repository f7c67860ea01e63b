"""Group commit, over a database that does what each test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from mcp_chat.exceptions import ChatError, Fenced, StoreUnavailable
from mcp_chat.message import Message
from mcp_chat.stores.base import Addition
from mcp_chat.stores.committer import BATCH, Committer

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Database:
    """Keeps what is written, after a moment, and does not take everything."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.transactions: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.refuse: Callable[[str], Exception | None] = lambda session: None
        self.fenced: set[str] = set()

    async def write(self, additions: Sequence[Addition]) -> Sequence[ChatError | None]:
        self.transactions.append(len(additions))
        await self.open.wait()
        for addition in additions:
            if error := self.refuse(addition.session_id):
                raise error
        taken = [addition.session_id for addition in additions if addition.session_id not in self.fenced]
        self.kept += taken
        return [None if addition.session_id in taken else Fenced() for addition in additions]


def of_sql(kind: type[DataError | IntegrityError | OperationalError]) -> Exception:
    return kind("INSERT", None, Exception("no"))


def addition(session: str, user: str = "ann") -> Addition:
    return Addition(user=user, session_id=session)


@asynccontextmanager
async def committing(database: Database, patience: float = 10) -> AsyncIterator[Committer[Addition, None]]:
    """A committer at work."""
    committer: Committer[Addition, None] = Committer(database.write, patience=patience)
    running = asyncio.create_task(committer.run())
    try:
        yield committer
    finally:
        committer.close()
        with anyio.fail_after(5):
            await running


async def told(committer: Committer[Addition, None], sessions: Sequence[str]) -> list[str]:
    """Add all at once; tell what came of each."""
    found = [""] * len(sessions)

    async def one(n: int) -> None:
        try:
            await committer.add(addition(sessions[n]))
        except ChatError as error:
            found[n] = type(error).__name__

    async with anyio.create_task_group() as tasks:
        for n in range(len(sessions)):
            tasks.start_soon(one, n)
    return found


async def test_one_addition_is_one_transaction() -> None:
    database = Database()
    async with committing(database) as committer:
        await committer.add(addition("a"))
        assert database.kept == ["a"]
        await committer.add(addition("b"))
    assert database.transactions == [1, 1]


async def test_nobody_is_told_before_the_transaction_has_ended() -> None:
    database = Database()
    database.open.clear()
    async with committing(database) as committer:
        adding = asyncio.create_task(committer.add(addition("a")))
        with anyio.move_on_after(0.05):
            await asyncio.wait([adding])
        assert not adding.done()
        database.open.set()
        await adding


async def test_what_comes_while_a_transaction_is_on_its_way_shares_the_next_one_in_order() -> None:
    database = Database()
    database.open.clear()
    async with committing(database) as committer, anyio.create_task_group() as tasks:
        for n in range(51):
            tasks.start_soon(committer.add, addition(f"{n}"))
            if n == 0:
                await anyio.wait_all_tasks_blocked()
        await anyio.wait_all_tasks_blocked()
        database.open.set()
    assert database.transactions == [1, 50]
    assert database.kept == [f"{n}" for n in range(51)]


async def test_fifty_tasks_share_transactions_and_the_order_of_each_is_kept() -> None:
    database = Database()

    async def one(committer: Committer[Addition, None], user: int) -> None:
        for n in range(20):
            await committer.add(addition(f"{user} {n}"))

    async with committing(database) as committer, anyio.create_task_group() as tasks:
        for user in range(50):
            tasks.start_soon(one, committer, user)
    assert sum(database.transactions) == 1000
    assert len(database.transactions) <= 60
    for user in range(50):
        assert [s for s in database.kept if s.startswith(f"{user} ")] == [f"{user} {n}" for n in range(20)]


async def test_a_transaction_has_so_many_additions_at_most() -> None:
    database = Database()
    async with committing(database) as committer:
        assert set(await told(committer, [f"{n}" for n in range(3 * BATCH + 1)])) == {""}
    assert max(database.transactions) == BATCH
    assert database.kept == [f"{n}" for n in range(3 * BATCH + 1)]


async def test_only_those_who_are_refused_hear_so() -> None:
    database = Database()
    database.fenced = {"1", "3"}
    async with committing(database) as committer:
        assert await told(committer, ["0", "1", "2", "3"]) == ["", "Fenced", "", "Fenced"]
    assert database.transactions == [4]


async def test_a_database_that_fails_fails_all_of_its_transaction_and_none_of_the_next() -> None:
    database = Database()
    database.refuse = lambda session: of_sql(OperationalError)
    async with committing(database) as committer:
        assert await told(committer, ["a", "b"]) == ["StoreUnavailable"] * 2
        assert database.transactions == [2], "it is asked once"
        database.refuse = lambda session: None
        assert await told(committer, ["c", "d"]) == ["", ""]
    assert database.kept == ["c", "d"]


@pytest.mark.parametrize(
    "error",
    [of_sql(DataError), of_sql(IntegrityError), ValueError("half a surrogate pair"), TypeError(), KeyError()],
    ids=["data", "integrity", "value", "type", "bug"],
)
async def test_one_that_is_not_fit_fails_alone(error: Exception) -> None:
    database = Database()
    database.refuse = lambda session: error if session == "bad" else None
    async with committing(database) as committer:
        assert await told(committer, ["a", "bad", "b", "bad"]) == ["", "StoreUnavailable"] * 2
        assert await told(committer, ["bad"]) == ["StoreUnavailable"]
    assert database.kept == ["a", "b"]


async def test_a_database_that_hangs_is_unavailable_after_a_while_and_then_asked_again() -> None:
    database = Database()
    database.open.clear()
    async with committing(database, patience=0.05) as committer:
        with anyio.fail_after(5):
            assert await told(committer, ["a", "b"]) == ["StoreUnavailable"] * 2
        database.open.set()
        assert await told(committer, ["c"]) == [""]
    assert database.kept == ["c"]


async def test_waiters_that_are_cancelled_disturb_nobody_and_leave_their_additions_on_their_way() -> None:
    database = Database()
    database.open.clear()
    async with committing(database) as committer:
        adding = [asyncio.create_task(committer.add(addition(f"{n}"))) for n in range(20)]
        await anyio.wait_all_tasks_blocked()
        for task in adding[::2]:
            task.cancel()
        await asyncio.wait(adding[::2])
        database.open.set()
        done, _ = await asyncio.wait(adding[1::2], timeout=5)
        assert len(done) == 10
        await committer.add(addition("last"))
    assert database.kept == [*(f"{n}" for n in range(20)), "last"]


async def test_a_scope_that_is_cancelled_waits_until_it_is_known_what_came_of_it() -> None:
    database = Database()
    database.open.clear()
    known: list[str] = []
    async with committing(database) as committer, anyio.create_task_group() as tasks:

        async def add() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await committer.add(addition("a"))
                known.extend(database.kept)

        tasks.start_soon(add)
        await anyio.wait_all_tasks_blocked()
        database.open.set()
    assert known == ["a"]


async def test_closing_writes_what_was_taken_and_takes_nothing_more() -> None:
    database = Database()
    database.open.clear()
    async with committing(database) as committer:
        adding = [asyncio.create_task(committer.add(addition(f"{n}"))) for n in range(2 * BATCH)]
        await anyio.wait_all_tasks_blocked()
        committer.close()
        with pytest.raises(StoreUnavailable):
            await committer.add(addition("late"))
        database.open.set()
        await asyncio.wait(adding, timeout=5)
    assert [task.exception() for task in adding] == [None] * len(adding)
    assert len(database.kept) == 2 * BATCH


async def test_those_who_wait_when_the_writer_is_torn_down_are_told_that_nobody_knows() -> None:
    database = Database()
    database.open.clear()
    committer: Committer[Addition, None] = Committer(database.write, patience=10)
    running = asyncio.create_task(committer.run())
    adding = [asyncio.create_task(committer.add(addition("first")))]
    await anyio.wait_all_tasks_blocked()
    adding += [asyncio.create_task(committer.add(addition(f"{n}"))) for n in range(5)]
    await anyio.wait_all_tasks_blocked()
    running.cancel()
    await asyncio.wait([running, *adding], timeout=5)
    assert [type(task.exception()) for task in adding] == [StoreUnavailable] * 6
    with pytest.raises(StoreUnavailable):
        await committer.add(addition("late"))


async def test_messages_reach_the_database_as_they_were_given() -> None:
    seen: list[Addition] = []

    async def write(additions: Sequence[Addition]) -> Sequence[ChatError | None]:
        seen.extend(additions)
        return [None] * len(additions)

    committer: Committer[Addition, None] = Committer(write, patience=1)
    running = asyncio.create_task(committer.run())
    given = Addition(user="ann", session_id="s", messages=(Message(role="user", content="a"),), epoch=7)
    await committer.add(given)
    committer.close()
    await running
    assert seen == [given]
