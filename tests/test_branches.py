"""The branches of a conversation: one contract over every store, and the way to them over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from mcp_chat.exceptions import Fenced, MessageMoved
from mcp_chat.message import Message, Usage, now
from mcp_chat.spent import Spent
from mcp_chat.stores.base import Addition
from mcp_chat.stores.branching import Branching
from mcp_chat.stores.cipher import PLAIN, Cipher, Sealing
from mcp_chat.stores.database import migrate
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import open_redis
from mcp_chat.stores.sql import SQLArchive, open_sql
from mcp_chat.vault import Vault
from tests.test_archive import postgresql

__all__ = ["postgresql"]

pytestmark = pytest.mark.anyio

SEALING = Sealing(Vault([bytes(range(32))]))
BEGAN = now()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Talk:
    """A conversation in some store; messages are as late as their names are high."""

    store: Branching[Any]
    user: str
    epochs: Callable[[], Awaitable[int]]
    write: Callable[[Sequence[Message], int], Awaitable[None]]
    line: Callable[[], Awaitable[list[Message]]]
    epoch: int = 0
    count: int = 0

    async def say(self, *texts: str) -> None:
        """Add messages: the user's have no sign in front, those of the assistant have one."""
        said = []
        for text in texts:
            self.count += 1
            role: Any = "assistant" if text.startswith("-") else "user"
            at = BEGAN + timedelta(seconds=self.count)
            said.append(Message(id=text.strip("-"), role=role, content=text, created_at=at))
        await self.write(said, self.epoch)

    async def edit(self, old: str, *texts: str) -> None:
        """Say something instead of a message."""
        await self.cut(old)
        await self.say(*texts)

    async def cut(self, old: str, side: str = "") -> None:
        """Put a message and all behind it aside."""
        side = side or f"{secrets.token_hex(4)}-side"
        await self.store.cut(self.user, "s", old, side=side, epoch=self.epoch)

    async def show(self, message: str) -> None:
        """Switch to the branch of a message."""
        await self.store.switch(self.user, "s", message, epoch=self.epoch)

    async def shown(self) -> str:
        """What the line says."""
        return " ".join(message.id for message in await self.line())

    async def ways(self) -> dict[str, list[str]]:
        """The branches by their forks: first message, how many messages, and a star for what is shown."""
        found: dict[str, list[str]] = {}
        for branch in await self.store.branches(self.user, "s"):
            star = "*" if branch.current else ""
            found.setdefault(branch.fork, []).append(f"{branch.id}{branch.messages}{star}")
        return found


STORES = ["memory", "redis", "redis, sealed", "sqlite", "sqlite, sealed"]


@pytest.fixture(scope="module")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that these tests share."""
    url = f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/chat.db"
    migrate(url)
    return url


@pytest.fixture
def postgresql_url(postgresql: str) -> str:
    """The same."""
    migrate(postgresql)
    return postgresql


@pytest.fixture(params=[*STORES, pytest.param("postgresql", marks=pytest.mark.slow)])
async def talk(request: pytest.FixtureRequest, name: str) -> AsyncIterator[Talk]:
    """A conversation in each store."""
    cipher: Cipher = SEALING if "sealed" in request.param else PLAIN
    if "sql" in request.param:
        kind = request.param.partition(",")[0]
        async with open_sql(request.getfixturevalue(f"{kind}_url"), cipher) as archive:
            yield await in_archive(archive, name)
    elif request.param == "memory":
        yield await in_window(MemoryStore(), name)
    else:
        async with open_redis(request.getfixturevalue("valkey_url"), cipher=cipher) as store:
            yield await in_window(store, name)


async def in_archive(archive: SQLArchive, name: str) -> Talk:
    async def write(messages: Sequence[Message], epoch: int) -> None:
        await archive.add(Addition(user=name, session_id="s", messages=tuple(messages), epoch=epoch))

    async def epochs() -> int:
        return await archive.next_epoch(name, 0)

    async def line() -> list[Message]:
        return await archive.read(name, "s", limit=100)

    return Talk(archive, name, epochs, write, line, await epochs())


async def in_window(store: Any, name: str) -> Talk:
    async def write(messages: Sequence[Message], epoch: int) -> None:
        await store.window.append(name, "s", messages, epoch=epoch, create=True)

    async def epochs() -> int:
        lease = await store.leases.claim(name, "w", floor=0, seen=await store.leases.get(name))
        return int(lease.epoch)

    async def line() -> list[Message]:
        return await store.window.read(name, "s") or []

    return Talk(store.window, name, epochs, write, line, await epochs())


# The contract


async def test_a_conversation_that_went_one_way_has_no_branches(talk: Talk) -> None:
    await talk.say("a1", "-b1")
    assert await talk.ways() == {}
    assert await talk.store.sides(talk.user, "s") == []


async def test_what_was_said_from_a_message_on_is_put_aside_and_found_again(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2", "-b2", "a3", "-b3")
    await talk.edit("a2", "c2", "-d2")
    assert await talk.shown() == "a1 b1 c2 d2"
    assert await talk.ways() == {"b1": ["a24", "c22*"]}
    await talk.show("a2")
    assert await talk.shown() == "a1 b1 a2 b2 a3 b3"
    assert await talk.ways() == {"b1": ["a24*", "c22"]}
    await talk.show("c2")
    assert await talk.shown() == "a1 b1 c2 d2"


async def test_a_conversation_may_begin_in_several_ways(talk: Talk) -> None:
    await talk.say("a1", "-b1")
    await talk.edit("a1", "c1", "-d1")
    await talk.edit("c1", "e1")
    assert await talk.shown() == "e1"
    assert await talk.ways() == {"": ["a12", "c12", "e11*"]}
    await talk.show("a1")
    assert await talk.shown() == "a1 b1"


async def test_branches_behind_a_cut_go_along_and_come_back(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2", "-b2", "a3", "-b3")
    await talk.edit("a3", "c3", "-d3")  # behind b2: a3, c3
    await talk.edit("a1", "e1", "-f1")  # at the beginning: a1 with all of that, e1
    assert await talk.shown() == "e1 f1"
    assert await talk.ways() == {"": ["a16", "e12*"], "b2": ["a32", "c32"]}
    await talk.show("a1")
    assert await talk.shown() == "a1 b1 a2 b2 c3 d3"
    assert await talk.ways() == {"": ["a16*", "e12"], "b2": ["a32", "c32*"]}
    await talk.show("a3")
    assert await talk.shown() == "a1 b1 a2 b2 a3 b3"


async def test_a_branch_of_a_branch_that_is_not_shown_is_taken_up_with_it(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2", "-b2")
    await talk.edit("a2", "c2", "-d2")
    await talk.edit("a1", "e1", "-f1")
    await talk.show("a2")  # its fork is not shown either
    assert await talk.shown() == "a1 b1 a2 b2"
    assert await talk.ways() == {"": ["a14*", "e12"], "b1": ["a22*", "c22"]}
    await talk.show("f1")
    await talk.show("d2")  # any message of a branch stands for it
    assert await talk.shown() == "a1 b1 c2 d2"
    assert await talk.ways() == {"": ["a14*", "e12"], "b1": ["a22", "c22*"]}


async def test_a_cut_that_is_made_again_under_its_name_changes_nothing(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2")
    await talk.cut("a2", "one-side")
    await talk.cut("a2", "one-side")
    await talk.say("c2")
    await talk.cut("a2", "one-side")
    assert await talk.shown() == "a1 b1 c2"
    assert await talk.ways() == {"b1": ["a21", "c21*"]}


async def test_an_open_end_is_a_branch_of_its_own_again_when_it_is_taken_up(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2")
    await talk.cut("a2")
    assert await talk.ways() == {"b1": ["a21"]}
    await talk.show("a2")
    assert await talk.shown() == "a1 b1 a2"
    assert await talk.ways() == {}


async def test_what_is_not_shown_or_was_never_said_is_not_cut(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2")
    await talk.edit("a2", "c2")
    for message in ("a2", "x"):
        with pytest.raises(MessageMoved):
            await talk.cut(message)
    with pytest.raises(MessageMoved):
        await talk.show("x")
    assert await talk.shown() == "a1 b1 c2"


async def test_to_show_what_is_shown_changes_nothing(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2")
    await talk.edit("a2", "c2")
    before = await talk.ways()
    await talk.show("b1")
    await talk.show("c2")
    assert (await talk.shown(), await talk.ways()) == ("a1 b1 c2", before)


async def test_an_older_epoch_changes_no_branch(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2")
    await talk.edit("a2", "c2")
    older = replace(talk)
    talk.epoch = await talk.epochs()
    with pytest.raises(Fenced):
        await older.cut("c2")
    with pytest.raises(Fenced):
        await older.show("a2")
    assert await talk.shown() == "a1 b1 c2"


async def test_sides_come_behind_those_that_they_fork_from(talk: Talk) -> None:
    await talk.say("a1", "-b1", "a2", "-b2")
    await talk.edit("a2", "c2", "-d2")
    await talk.edit("a1", "e1", "-f1")
    await talk.edit("e1", "g1")
    known = {""} | set((await talk.shown()).split())
    sides = await talk.store.sides(talk.user, "s")
    assert len(sides) == 3
    for side in sides:
        assert side.fork in known
        known |= {message.id for message in side.messages}
    assert known == {"", *["a1", "b1", "a2", "b2", "c2", "d2", "e1", "f1", "g1"]}


# The archive alone


@pytest.fixture
async def archive(sqlite_url: str) -> AsyncIterator[SQLArchive]:
    async with open_sql(sqlite_url, SEALING) as archive:
        yield archive


def step() -> Spent:
    return Spent(
        id=secrets.token_hex(8), day=BEGAN.date(), session_id="s", model="a:b", usage=Usage(input_tokens=1)
    )


async def summed_up(archive: SQLArchive, talk: Talk, upto: str) -> bool:
    """Keep a summary of what was said up to a message."""
    (kept,) = [each for each in await archive.page(talk.user, "s", limit=100) if each.message.id == upto]
    summary = {"text": "so far", "upto": upto, "place": kept.place}
    return await archive.keep_summary(talk.user, "s", summary, step(), epoch=talk.epoch)


async def test_a_summary_of_what_is_not_shown_any_more_is_dropped(archive: SQLArchive, name: str) -> None:
    talk = await in_archive(archive, name)
    await talk.say("a1", "-b1", "a2", "-b2", "a3")
    assert await summed_up(archive, talk, "b1")
    await talk.edit("a3", "c3")
    session = await archive.session(name, "s")
    assert session is not None
    assert session.context["summary"]["upto"] == "b1", "it is of what is still shown"
    await talk.edit("a1", "d1")
    session = await archive.session(name, "s")
    assert session is not None
    assert "summary" not in session.context
    await talk.show("c3")
    assert await summed_up(archive, talk, "b2")
    await talk.show("d1")
    session = await archive.session(name, "s")
    assert session is not None
    assert "summary" not in session.context


async def test_a_summary_that_comes_behind_the_cut_is_not_kept(archive: SQLArchive, name: str) -> None:
    talk = await in_archive(archive, name)
    await talk.say("a1", "-b1", "a2")
    before = await archive.session(name, "s")
    (kept, *_) = await archive.page(name, "s", limit=100)
    await talk.edit("a1", "c1")
    summary = {"text": "so far", "upto": "b1", "place": kept.place + 1}
    assert not await archive.keep_summary(name, "s", summary, step(), epoch=talk.epoch)
    after = await archive.session(name, "s")
    assert before is not None
    assert after is not None
    assert "summary" not in after.context
    assert after.token_usage.input_tokens == before.token_usage.input_tokens + 1, "it was spent"


async def test_a_conversation_that_is_put_away_keeps_its_branches(archive: SQLArchive, name: str) -> None:
    talk = await in_archive(archive, name)
    await talk.say("a1", "-b1")
    await talk.edit("a1", "c1")
    await archive.put_away(name, "s")
    assert await talk.ways() == {}
    (away,) = await archive.sessions(name, limit=10)
    assert [branch.id for branch in await archive.branches(name, away.id)] == ["a1", "c1"]
