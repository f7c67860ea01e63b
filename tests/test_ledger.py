"""The record of accepted commands: one contract over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from anyio import to_thread
from sqlalchemy import create_engine, event, insert
from structlog.testing import capture_logs

from mcp_chat.commands import Cancel, Command, Connect, DeleteSession, Disconnect, Send
from mcp_chat.deed import Deed
from mcp_chat.events import Cancelled, Connected, Disconnected, Failed, Final, SessionDeleted, TurnFinished
from mcp_chat.exceptions import ChatError, Fenced, StoreUnavailable, TooLarge
from mcp_chat.message import Part, Usage, now
from mcp_chat.stores.base import Accepted, Addition, Archive
from mcp_chat.stores.cipher import PLAIN
from mcp_chat.stores.database import driver_url, migrate
from mcp_chat.stores.documents import MOST
from mcp_chat.stores.rows import command_row
from mcp_chat.stores.sql import SQLArchive, open_sql
from mcp_chat.stores.tables import chat_command, metadata
from tests.test_archive import (
    archive,
    broken,
    contents,
    empty_url,
    fresh_postgresql,
    is_postgresql,
    postgresql,
    rows_in,
    said,
    started,
    together,
    transactions,
    url,
)
from tests.test_stores import cancelled_at

pytestmark = pytest.mark.anyio

__all__ = ["archive", "empty_url", "fresh_postgresql", "postgresql", "url"]

DONE = TurnFinished(elapsed_ms=1)
FAILED = Failed(code="interrupted", text="no")

COMMANDS: list[Command] = [
    Connect(sealed="v1:sealed", user_id="Ann <ann@example.org>"),
    Send(
        session_id="s",
        text="NUL \x00, \u2028, family 👩‍👩‍👧 and '; DROP TABLE chat_command; -- %s :name ${x}",
        parts=(Part(upload_id="u", media_type="image/png", name="ä.png", size=3),),
        interrupt=True,
    ),
    Cancel(session_id="s"),
    Cancel(),
    Disconnect(),
    DeleteSession(session_id="s"),
]
FINALS: list[Final] = [
    TurnFinished(stopped=True, elapsed_ms=7, usage=Usage(input_tokens=3, output_tokens=4)),
    Connected(session_id="s", tools=("demo__add", "demo__ü")),
    Cancelled(turns=2),
    Disconnected(),
    SessionDeleted(existed=True),
    Failed(code="model_failed", text="It's \x00 \U0001f600", retryable=True, retry_after=1.5),
]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def alone(empty_url: str) -> AsyncIterator[SQLArchive]:
    """Each kind of archive, in a database that no other test knows."""
    migrate(empty_url)
    async with open_sql(empty_url) as opened:
        yield opened


def send(text: str = "hello", session: str = "s", **fields: Any) -> Send:
    """A message of a user's."""
    return Send(session_id=session, text=text, **fields)


async def accept_all(archive: Archive, user: str, commands: Sequence[Command]) -> list[Accepted]:
    """Accept commands, all at once."""
    return list(await asyncio.gather(*(archive.accept(user, command) for command in commands)))


async def texts(archive: Archive, user: str) -> list[str]:
    """The texts of the messages that have not ended."""
    return [each.text for each in await archive.open_commands(user) if isinstance(each, Send)]


async def aged(archive: SQLArchive, column: str, seconds: float, command_id: str) -> None:
    """Have something happen to a command so long ago."""
    past = f"-{seconds} seconds"
    moment = (
        "now() + interval {0}" if is_postgresql(archive) else "strftime('%Y-%m-%d %H:%M:%f000', 'now', {0})"
    )
    await broken(archive, f"UPDATE chat_command SET {column} = {moment} WHERE id = {{1}}", past, command_id)


# Once for each id


async def test_a_command_is_new_once_and_then_what_it_was_at_first(archive: Archive, name: str) -> None:
    first = send("first", id="c")
    assert await archive.accept(name, first) == Accepted(
        id="c", session_id="s", run=first.run, command=first, new=True
    )
    known = Accepted(id="c", session_id="s", run=first.run, command=first)
    assert await archive.accept(name, send("second", session="t", id="c")) == known
    assert await archive.accept(name, Disconnect(id="c")) == known
    assert await archive.accepted(name, "c") == known
    assert await archive.open_commands(name) == [first]


async def test_a_command_that_comes_twice_in_one_transaction_is_the_first(
    archive: SQLArchive, name: str
) -> None:
    commands = [send(f"{n}", id=f"{n // 3}") for n in range(9)]
    commits = transactions(archive)
    accepted = await accept_all(archive, name, commands)
    assert len(commits) == 1
    assert [each.new for each in accepted] == [True, False, False] * 3
    assert [each.command for each in accepted] == [commands[n // 3 * 3] for n in range(9)]
    assert await archive.open_commands(name) == commands[::3]


async def test_commands_of_two_users_with_equal_ids_are_apart(archive: Archive, name: str) -> None:
    for user in (name, f"{name}2"):
        assert (await archive.accept(user, send(user, id="c"))).new
    await archive.end(name, "c", DONE, epoch=1)
    assert await archive.open_commands(name) == []
    assert await texts(archive, f"{name}2") == [f"{name}2"]


async def test_two_workers_who_accept_the_same_commands_at_once_agree_on_the_first(
    url: str, name: str
) -> None:
    async with open_sql(url) as one, open_sql(url) as two:
        for turn in range(15):
            mine = [send("one", id=f"{turn}-{n}") for n in range(12)]
            theirs = [send("two", id=command.id) for command in reversed(mine)]
            ours, others = await asyncio.gather(accept_all(one, name, mine), accept_all(two, name, theirs))
            for a, b in zip(ours, reversed(others), strict=True):
                assert a.new != b.new
                assert a.command == b.command is not None


ACCEPTER = """
import sys, anyio
from mcp_chat.commands import Send
from mcp_chat.stores.sql import open_sql

async def main(url, users, mine):
    async with open_sql(url) as archive:
        await archive.ping()
        print("ready", flush=True)
        sys.stdin.readline()
        new = []
        async def accept(user, n):
            accepted = await archive.accept(user, Send(session_id="s", text=mine, id=f"c{n}"))
            if accepted.new:
                new.append(n)
                assert accepted.command.text == mine
        for n in range(40):
            async with anyio.create_task_group() as tasks:
                for user in users:
                    tasks.start_soon(accept, user, n)

anyio.run(main, sys.argv[1], sys.argv[3:], sys.argv[2])
"""


async def test_two_processes_that_accept_the_same_commands_keep_each_once(url: str, name: str) -> None:
    users = [f"{name}-{n}" for n in range(5)]
    orders = {"one": users, "two": users[::-1]}
    processes = [started(ACCEPTER, url, mine, *order) for mine, order in orders.items()]
    assert await to_thread.run_sync(together, processes) == [0, 0]
    async with open_sql(url) as archive:
        for user in users:
            assert [each.id for each in await archive.open_commands(user)] == [f"c{n}" for n in range(40)]


async def test_a_user_whom_nobody_knows_is_accepted_and_draws_an_epoch(archive: Archive, name: str) -> None:
    assert await archive.epoch(name) == 0
    await archive.accept(name, send())
    assert await archive.epoch(name) == 0
    assert await archive.get(name) is None
    assert await archive.sessions(name, limit=9) == []
    assert await archive.session(name, "s") is None
    assert await archive.next_epoch(name, 5) == 5
    assert await archive.epoch(name) == 5


@pytest.mark.parametrize("wanted", ["", "x" * 10_000, "a\x00b", "'", "%", "\udcff"])
async def test_any_text_can_be_asked_for_as_a_command(archive: Archive, name: str, wanted: str) -> None:
    assert await archive.accepted(name, wanted) is None


# From acceptance to end


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
async def test_a_command_is_open_as_it_came_until_it_ends(
    archive: SQLArchive, name: str, command: Command
) -> None:
    command = replace(command, id="c")
    assert (await archive.accept(name, command)).command == command
    accepted = await archive.accepted(name, "c")
    assert accepted is not None
    assert (accepted.command, accepted.outcome, accepted.new) == (command, None, False)
    named = (command.session_id, command.run) if isinstance(command, Send) else ("", "")
    assert (accepted.session_id, accepted.run) == named
    assert await archive.open_commands(name) == [command]
    await archive.end(name, "c", DONE, epoch=1)
    assert await archive.open_commands(name) == []
    assert await rows_in(archive, "chat_command", "body IS NULL AND user_key", name) == 1


@pytest.mark.parametrize("outcome", FINALS, ids=lambda outcome: outcome.type)
async def test_a_command_that_has_ended_is_known_by_its_outcome(
    archive: Archive, name: str, outcome: Final
) -> None:
    command = send(id="c")
    await archive.accept(name, command)
    await archive.end(name, "c", outcome, epoch=1)
    known = Accepted(id="c", session_id="s", run=command.run, outcome=outcome)
    assert await archive.accepted(name, "c") == known
    assert await archive.accept(name, send("again", id="c")) == known


async def test_the_first_end_counts(archive: Archive, name: str) -> None:
    await archive.accept(name, send(id="c"))
    await archive.end(name, "c", DONE, epoch=1)
    await archive.end(name, "c", FAILED, epoch=2)
    accepted = await archive.accepted(name, "c")
    assert accepted is not None
    assert accepted.outcome == DONE


async def test_the_end_of_an_unknown_command_is_no_command(archive: SQLArchive, name: str) -> None:
    await archive.end(name, "c", DONE, epoch=1)
    assert await archive.accepted(name, "c") is None
    assert (await archive.accept(name, send(id="c"))).new


async def test_commands_are_open_in_the_order_in_which_they_were_accepted(
    archive: Archive, name: str
) -> None:
    commands = [send(f"{n}", id=f"{-n % 7}-{n}") for n in range(40)]
    for command in commands[:10]:
        await archive.accept(name, command)
    await accept_all(archive, name, commands[10:])
    for command in commands[::3]:
        await archive.end(name, command.id, DONE, epoch=1)
    assert await archive.open_commands(name) == [each for n, each in enumerate(commands) if n % 3]


async def test_a_command_that_is_withdrawn_was_never_there(archive: Archive, name: str) -> None:
    await archive.accept(name, send(id="c"))
    await archive.accept(name, send("other", id="d"))
    await archive.accept(f"{name}2", send("theirs", id="c"))
    await archive.withdraw(name, "c")
    assert await archive.accepted(name, "c") is None
    assert await texts(archive, name) == ["other"]
    assert await texts(archive, f"{name}2") == ["theirs"]
    assert (await archive.accept(name, send("again", id="c"))).new


async def test_a_command_that_was_brought_again_is_not_withdrawn(archive: Archive, name: str) -> None:
    await archive.accept(name, send("hello", id="c"))
    await archive.accept(name, send("hello", id="c"))
    await archive.withdraw(name, "c")
    await accept_all(archive, name, [send("together", id="d")] * 2)
    await archive.withdraw(name, "d")
    assert await texts(archive, name) == ["hello", "together"]


async def test_a_command_that_has_ended_is_not_withdrawn(archive: Archive, name: str) -> None:
    await archive.accept(name, send(id="c"))
    await archive.end(name, "c", DONE, epoch=1)
    await archive.withdraw(name, "c")
    assert not (await archive.accept(name, send(id="c"))).new


async def test_attempts_at_an_open_command_are_counted(archive: Archive, name: str) -> None:
    await archive.accept(name, send(id="c"))
    await archive.accept(name, send(id="d"))
    assert [await archive.retry(name, "c", epoch=epoch) for epoch in (1, 2, 2)] == [1, 2, 3]
    assert await archive.retry(name, "d", epoch=2) == 1
    assert await archive.retry(name, "unknown", epoch=2) == 0
    await archive.end(name, "c", DONE, epoch=2)
    assert await archive.retry(name, "c", epoch=2) == 0


async def test_an_answer_and_the_end_of_its_turn_are_there_together(archive: Archive, name: str) -> None:
    command = send(id="c")
    await archive.accept(name, command)
    addition = Addition(user=name, session_id="s", messages=tuple(said("answer")), ends=("c", DONE), epoch=7)
    await archive.add(replace(addition, epoch=await archive.next_epoch(name, 7)))
    assert await contents(archive, name) == ["answer"]
    assert await archive.accepted(name, "c") == Accepted(
        id="c", session_id="s", run=command.run, outcome=DONE
    )
    assert await archive.open_commands(name) == []


async def test_an_older_epoch_adds_no_answer_and_ends_no_turn(archive: Archive, name: str) -> None:
    await archive.accept(name, send(id="c"))
    await archive.next_epoch(name, 7)
    addition = Addition(user=name, session_id="s", messages=tuple(said("answer")), ends=("c", DONE), epoch=6)
    with pytest.raises(Fenced):
        await archive.add(addition)
    assert await contents(archive, name) == []
    assert [each.id for each in await archive.open_commands(name)] == ["c"]


# Epochs


async def test_an_older_epoch_ends_and_tries_nothing(archive: Archive, name: str) -> None:
    old = await archive.next_epoch(name, 1)
    command = send(id="c")
    await archive.accept(name, command)
    new = await archive.next_epoch(name, 1)
    with pytest.raises(Fenced):
        await archive.end(name, "c", DONE, epoch=old)
    with pytest.raises(Fenced):
        await archive.retry(name, "c", epoch=old)
    assert await archive.open_commands(name) == [command]
    assert await archive.retry(name, "c", epoch=new) == 1
    await archive.end(name, "c", DONE, epoch=new)


async def test_an_end_makes_its_epoch_known(archive: Archive, name: str) -> None:
    await archive.accept(name, send(id="c"))
    await archive.end(name, "c", DONE, epoch=7)
    assert await archive.epoch(name) == 7
    with pytest.raises(Fenced):
        await archive.add(Addition(user=name, session_id="s", epoch=6))


async def test_any_worker_accepts_and_withdraws_whoever_owns_the_user(archive: Archive, name: str) -> None:
    await archive.next_epoch(name, 1_800_000_000_000)
    assert (await archive.accept(name, send(id="c"))).new
    await archive.withdraw(name, "c")
    assert await archive.accepted(name, "c") is None
    assert await archive.epoch(name) == 1_800_000_000_000


async def outcomes(works: Sequence[Awaitable[object]]) -> list[str]:
    """Do all at once and tell what came of each."""
    found = await asyncio.gather(*works, return_exceptions=True)
    return [type(each).__name__ if isinstance(each, ChatError) else "" for each in found]


async def test_only_those_of_a_transaction_who_are_fenced_hear_so(archive: SQLArchive, name: str) -> None:
    await archive.next_epoch(name, 5)
    for command_id in ("c", "d"):
        await archive.accept(name, send(id=command_id))
    commits = transactions(archive)
    works: list[Awaitable[object]] = [
        archive.end(name, "c", FAILED, epoch=4),
        archive.add(Addition(user=name, session_id="s", messages=tuple(said("a")), epoch=6)),
        archive.accept(name, send("e", id="e")),
        archive.end(name, "d", FAILED, epoch=5),
        archive.end(name, "c", DONE, epoch=6),
    ]
    assert await outcomes(works) == ["Fenced", "", "", "Fenced", ""]
    assert len(commits) == 1
    assert [each.id for each in await archive.open_commands(name)] == ["d", "e"]
    accepted = await archive.accepted(name, "c")
    assert accepted is not None
    assert accepted.outcome == DONE


# Group commit


def statements(archive: SQLArchive) -> list[tuple[str, Any]]:
    """Note the statements and their values from now on."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "chat_" in statement:
            seen.append((statement, values))

    for engine in archive.engines.all:
        event.listen(engine, "before_cursor_execute", note)
    return seen


async def test_messages_acceptances_and_ends_share_a_transaction_of_a_few_statements(
    archive: SQLArchive, name: str
) -> None:
    users = [f"{name}-{n}" for n in range(40)]
    for user in users:
        await archive.accept(user, send(id="old"))
    commits, seen = transactions(archive), statements(archive)
    works = [
        work
        for user in users
        for work in (
            archive.accept(user, send("new", id="new")),
            archive.add(Addition(user=user, session_id="s", messages=tuple(said("a")), epoch=1)),
            archive.accept(user, send("again", id="old")),
            archive.end(user, "old", DONE, epoch=1),
        )
    ]
    assert await outcomes(works) == [""] * 160
    assert len(commits) == 1
    assert len(seen) <= 8
    for user in users:
        assert await texts(archive, user) == ["new"]
        assert await contents(archive, user) == ["a"]


async def test_one_acceptance_is_one_transaction_of_two_statements(archive: SQLArchive, name: str) -> None:
    await archive.next_epoch(name, 1)
    commits, seen = transactions(archive), statements(archive)
    await archive.accept(name, send())
    assert (len(commits), len(seen)) == (1, 2)


async def test_many_who_chat_at_once_share_transactions(archive: SQLArchive, name: str) -> None:
    commits = transactions(archive)

    async def chat(user: str) -> None:
        for n in range(8):
            await archive.accept(user, send(f"{n}", id=f"{n}"))
            await archive.add(Addition(user=user, session_id="s", messages=tuple(said(f"{n}")), epoch=1))
            await archive.end(user, f"{n}", DONE, epoch=1)

    users = [f"{name}-{n}" for n in range(40)]
    await asyncio.gather(*map(chat, users))
    assert len(commits) <= 120, "960 writes"
    for user in users:
        assert await contents(archive, user) == [f"{n}" for n in range(8)]
        assert await archive.open_commands(user) == []


async def test_what_connecting_writes_shares_transactions_and_a_refusal_is_its_own(
    archive: SQLArchive, name: str
) -> None:
    users = [f"{name}-{n}" for n in range(40)]
    for n in range(MOST):
        await archive.put_document(users[0], "tools", f"{n}", "text", seconds=60)
    await archive.next_epoch(users[1], 9)
    commits = transactions(archive)
    works = [
        work
        for user in users
        for work in (
            archive.put(user, "sealed", epoch=5),
            archive.note(user, [Deed(action="connect", server="good")]),
            archive.put_document(user, "tools", "good", "text", seconds=60, version=0, epoch=5),
            archive.next_epoch(user, 1),
        )
    ]
    found = await asyncio.gather(*works, return_exceptions=True)
    assert len(commits) == 1
    refused = {n: type(each) for n, each in enumerate(found) if isinstance(each, Exception)}
    assert refused == {2: TooLarge, 4: Fenced, 6: Fenced}
    assert found[3::4] == [6, 10, *[6] * 38]
    for user in users:
        assert await archive.get(user) == (None if user == users[1] else "sealed")
        assert len(await archive.deeds(user, limit=9)) == 1
        kept = await archive.get_document(user, "tools", "good")
        assert (kept is None) == (user in users[:2])


async def test_in_one_transaction_each_finds_what_was_before_it(archive: SQLArchive, name: str) -> None:
    """As if each had a transaction of its own: an end knows of acceptances before it, and only of these."""
    commits = transactions(archive)
    first, end = partial(archive.accept, name, send("first", id="c")), partial(archive.end, name, "c")
    found = await asyncio.gather(
        end(FAILED, epoch=1), first(), first(), end(DONE, epoch=1), first(), end(FAILED, epoch=1), first()
    )
    assert len(commits) == 1
    known = [(each.new, each.command is not None, each.outcome) for each in found if each is not None]
    assert known == [(True, True, None), (False, True, None), (False, False, DONE), (False, False, DONE)]


UNFIT: list[Callable[[Archive, str], Awaitable[object]]] = [
    lambda archive, user: archive.accept(user, send("half \ud800")),
    lambda archive, user: archive.accept(user, send(id="half \ud800")),
    lambda archive, user: archive.end(user, "c", Failed(code="x", text="half \ud800"), epoch=1),
    lambda archive, user: archive.end(user, "half \ud800", DONE, epoch=1),
]


@pytest.mark.parametrize("unfit", UNFIT, ids=["text", "id", "outcome", "end"])
async def test_what_cannot_be_kept_fails_alone(
    archive: SQLArchive, name: str, unfit: Callable[[Archive, str], Awaitable[object]]
) -> None:
    await archive.accept(name, send("before", id="c"))
    works = [
        archive.accept(name, send("a")),
        archive.add(Addition(user=name, session_id="s", messages=tuple(said("a")))),
        unfit(archive, name),
        archive.accept(name, send("b")),
    ]
    assert await outcomes(works) == ["", "", "StoreUnavailable", ""]
    assert await texts(archive, name) == ["before", "a", "b"]
    assert await contents(archive, name) == ["a"]


async def test_acceptances_and_ends_whose_tasks_are_cancelled_are_written_in_order(
    archive: Archive, name: str
) -> None:
    async def cancelled(work: Awaitable[object], n: int) -> None:
        task = asyncio.ensure_future(work)
        await asyncio.sleep(0)  # else it has not even begun
        await asyncio.sleep(n % 5 / 5000)
        task.cancel()

    for n in range(40):
        await cancelled(archive.accept(name, send(f"{n}", id=f"{n}")), n)
        if n % 4:
            await cancelled(archive.end(name, f"{n}", DONE, epoch=1), n)
    await archive.accept(name, send("last"))
    assert await texts(archive, name) == [*(f"{n}" for n in range(0, 40, 4)), "last"]


ACCESSES: dict[str, Callable[[SQLArchive, str], Awaitable[object]]] = {
    "accept": lambda archive, user: archive.accept(user, send()),
    "withdraw": lambda archive, user: archive.withdraw(user, "c"),
    "retry": lambda archive, user: archive.retry(user, "c", epoch=1 << 50),
    "end": lambda archive, user: archive.end(user, "c", DONE, epoch=1 << 50),
    "open_commands": lambda archive, user: archive.open_commands(user),
    "tidy": lambda archive, user: archive.tidy(),
}


@pytest.mark.parametrize("access", ACCESSES)
async def test_a_task_that_is_cancelled_at_any_moment_leaves_no_lock_behind(
    archive: SQLArchive, name: str, access: str
) -> None:
    await archive.accept(name, send(id="c"))
    for n in range(10):
        task = asyncio.ensure_future(ACCESSES[access](archive, name))
        await asyncio.sleep(n / 4000)
        task.cancel()
        await asyncio.wait([task])
        with anyio.fail_after(30):
            assert (await archive.accept(name, send(id=f"after-{n}"))).new
    for k in range(4):
        await cancelled_at(k, partial(ACCESSES[access], archive, name))
        with anyio.fail_after(30):
            await archive.accept(name, send())


async def test_an_archive_that_is_closed_has_written_what_it_took_and_accepts_nothing_more(
    url: str, name: str
) -> None:
    async with open_sql(url) as archive:
        tasks = [asyncio.create_task(archive.accept(name, send(f"{n}"))) for n in range(300)]
        await asyncio.sleep(0)
    assert all(each.new for each in await asyncio.gather(*tasks))
    with pytest.raises(StoreUnavailable):
        await archive.accept(name, send())
    with pytest.raises(StoreUnavailable):
        await archive.end(name, "c", DONE, epoch=1)
    async with open_sql(url) as again:
        assert await texts(again, name) == [f"{n}" for n in range(300)]


# What is forgotten


async def test_a_session_is_deleted_with_its_commands(archive: Archive, name: str) -> None:
    await archive.next_epoch(name, 1)
    commands: list[tuple[str, Command]] = [
        (name, send(id="ended")),
        (name, send("open", id="open")),
        (name, send(id="other", session="t")),
        (name, DeleteSession(session_id="s", id="deletion")),
        (f"{name}2", send(id="ended")),
    ]
    for user, command in commands:
        await archive.accept(user, command)
        if command.id != "open":
            await archive.end(user, command.id, DONE, epoch=1)
    await archive.next_epoch(name, 5)
    with pytest.raises(Fenced):
        await archive.delete_session(name, "s", epoch=1)
    assert await archive.accepted(name, "ended")
    await archive.delete_session(name, "s", epoch=5)
    assert await archive.accepted(name, "ended") is None
    stopped = await archive.accepted(name, "open")
    assert stopped
    assert stopped.outcome == Failed(code="interrupted", text="The conversation was deleted.")
    assert await texts(archive, name) == []
    for user, command_id in ((name, "other"), (name, "deletion"), (f"{name}2", "ended")):
        assert await archive.accepted(user, command_id)


async def test_a_session_that_is_put_away_takes_along_its_commands_that_have_ended(
    archive: Archive, name: str
) -> None:
    await archive.add(Addition(user=name, session_id="s", messages=tuple(said("a"))))
    await archive.accept(name, send(id="ended"))
    await archive.accept(name, send("open", id="open"))
    await archive.end(name, "ended", DONE, epoch=1)
    await archive.put_away(name, "s")
    [earlier] = await archive.sessions(name, limit=9)
    found = [await archive.accepted(name, command_id) for command_id in ("ended", "open")]
    assert [each and each.session_id for each in found] == [earlier.id, "s"]


async def test_a_command_is_dropped_a_week_after_it_has_ended(archive: SQLArchive, name: str) -> None:
    week = 7 * 24 * 3600
    for command_id in ("old", "fresh", "open"):
        await archive.accept(name, send(id=command_id))
        await aged(archive, "created_at", 2 * week, command_id)
    for command_id, seconds in (("old", week + 60), ("fresh", week - 60)):
        await archive.end(name, command_id, DONE, epoch=1)
        await aged(archive, "ended_at", seconds, command_id)
    await archive.tidy()
    assert await archive.accepted(name, "old") is None
    assert await archive.accepted(name, "fresh")
    assert await archive.accepted(name, "open")
    assert (await archive.accept(name, send(id="old"))).new


# What is neglected


async def test_users_whose_commands_have_waited_are_found_the_longest_first(alone: SQLArchive) -> None:
    for user, seconds in (
        ("late", 10),
        ("ann", 300),
        ("bob", 400),
        ("cid", 500),
        ("ended", 600),
        ("ann", 50),
    ):
        command = send()
        await alone.accept(user, command)
        await aged(alone, "created_at", seconds, command.id)
        if user == "ended":
            await alone.end(user, command.id, DONE, epoch=1)
    assert await alone.neglected(seconds=60) == ["cid", "bob", "ann"]
    assert await alone.neglected(seconds=60, limit=2) == ["cid", "bob"]
    assert await alone.neglected(seconds=350) == ["cid", "bob"]
    assert await alone.neglected(seconds=0) == ["cid", "bob", "ann", "late"]
    assert await alone.neglected(seconds=3600) == []


READS: list[tuple[str, Callable[[SQLArchive], Awaitable[object]]]] = [
    ("chat_command_open", lambda archive: archive.open_commands("ann")),
    ("chat_command_open", lambda archive: archive.neglected(seconds=1)),
    ("chat_command_ended", lambda archive: archive.tidy()),
    ("chat_command_id", lambda archive: archive.accepted("ann", "c")),
]


@pytest.mark.parametrize(("index", "read"), READS, ids=["open", "neglected", "tidy", "accepted"])
async def test_commands_are_found_by_an_index(
    alone: SQLArchive, index: str, read: Callable[[SQLArchive], Awaitable[object]]
) -> None:
    await to_thread.run_sync(fill, alone._engine.url.render_as_string(hide_password=False))
    seen = statements(alone)
    await read(alone)
    statement, values = next(each for each in seen if "chat_command" in each[0])
    explain = "EXPLAIN" if is_postgresql(alone) else "EXPLAIN QUERY PLAN"
    async with alone._engine.connect() as connection:
        plan = await connection.exec_driver_sql(f"{explain} {statement}", values)
        assert f"{index}" in f"{plan.all()}"


def fill(url: str) -> None:
    """Put so many ended commands into a database that it pays to look in an index."""
    engine = create_engine(driver_url(url, asynchronous=False))
    rows = [
        {**command_row(PLAIN, f"user-{n % 50}", send(id=f"{n}")), "outcome": "{}", "ended_at": now()}
        for n in range(5000)
    ]
    with engine.begin() as connection:
        connection.execute(insert(chat_command), rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()


# What nobody can read


@pytest.mark.parametrize(
    "body",
    ["", "{}", "[1]", "not JSON", '{"type": "dance", "id": "bad"}', '{"type": "send", "id": "bad"}', None],
)
async def test_an_open_command_that_nobody_can_read_is_reported_and_has_failed(
    archive: SQLArchive, name: str, body: str | None
) -> None:
    await archive.next_epoch(name, 9)
    for text in ("a", "bad", "b"):
        await archive.accept(name, send(text, id=f"{name}-{text}"))
    bad = f"{name}-bad"
    if body is None:
        await broken(archive, "UPDATE chat_command SET body = NULL WHERE id = {0}", bad)
    else:
        await broken(archive, "UPDATE chat_command SET body = {0} WHERE id = {1}", body, bad)
    again = await archive.accept(name, send(id=bad))
    assert isinstance(again.outcome, Failed)
    with capture_logs() as logged:
        assert await texts(archive, name) == ["a", "b"]
        assert await texts(archive, name) == ["a", "b"]
    assert [each["event"] for each in logged] == ["command.unreadable"]
    assert await archive.accepted(name, bad) == again
    assert await rows_in(archive, "chat_command", "outcome IS NULL AND user_key", name) == 2


async def test_an_outcome_that_nobody_can_read_is_a_failure(archive: SQLArchive, name: str) -> None:
    await archive.accept(name, send(id=name))
    await archive.end(name, name, DONE, epoch=1)
    await broken(archive, "UPDATE chat_command SET outcome = {0} WHERE id = {1}", '{"type": "?"}', name)
    accepted = await archive.accepted(name, name)
    assert accepted is not None
    assert isinstance(accepted.outcome, Failed)
    assert accepted.command is None


# The table


def test_the_migrations_make_the_table_that_the_program_knows(url: str) -> None:
    def of_commands(thing: Any, name: str | None, *_: object) -> bool:
        return (name if not hasattr(thing, "table") else thing.table.name) == "chat_command"

    engine = create_engine(driver_url(url, asynchronous=False))
    with engine.connect() as connection:
        options = {"include_object": of_commands, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


# A turn's messages


async def test_the_messages_of_a_turn_are_those_whose_ids_begin_with_its_run(
    archive: Archive, name: str
) -> None:
    ids = ["ab-q", "abc-q", "ab-a1", "AB-a1", "ab_c-q", "abxc-q", "ab"]
    messages = [replace(message, id=id_) for id_, message in zip(ids, said(*ids), strict=True)]
    await archive.add(Addition(user=name, session_id="s", messages=tuple(messages)))
    await archive.add(Addition(user=name, session_id="t", messages=(messages[0],)))

    async def turn(run: str, session: str = "s") -> list[str]:
        return [message.content for message in await archive.turn(name, session, run)]

    assert await turn("ab") == ["ab-q", "ab-a1"]
    assert await turn("ab_c") == ["ab_c-q"]
    assert await turn("ab", "t") == ["ab-q"]
    for wanted in ("", "%", "a\x00b", "\udcff", "none"):
        assert await turn(wanted) == []
