"""The history manager: one contract over all the places where it keeps what was said."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from structlog.testing import CapturingLogger

from mcp_chat.exceptions import InvalidRequest, StoreUnavailable
from mcp_chat.history import ChatHistoryManager
from mcp_chat.identity import user_key
from mcp_chat.message import MESSAGE, Message, ToolCall
from mcp_chat.record import distinct
from mcp_chat.stores import redis_window
from mcp_chat.stores.base import Window
from mcp_chat.stores.database import migrate
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.sql import SQLArchive, open_sql
from tests.proxy import proxied
from tests.test_archive import postgresql, started, together

pytestmark = pytest.mark.anyio

__all__ = ["postgresql"]

MAX = 50


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where histories are kept."""

    redis: Redis | None = None
    archive: SQLArchive | None = None
    window: Window | None = None

    def manager(self) -> ChatHistoryManager:
        """A manager of what is kept here; another one is like another process's."""
        return ChatHistoryManager(self.redis, MAX, 3600, self.archive, window=self.window)


@asynccontextmanager
async def opened(database: str | None, redis_url: str | None, size: int = MAX) -> AsyncIterator[Place]:
    """A place with a database or none, and windows in Redis or in memory."""
    async with AsyncExitStack() as stack:
        archive = await stack.enter_async_context(open_sql(database)) if database else None
        if redis_url is None:
            yield Place(archive=archive, window=MemoryStore(max_messages=size).window)
        else:
            redis = await stack.enter_async_context(Redis.from_url(redis_url, decode_responses=True))
            yield Place(archive=archive, redis=redis)


SLOW = pytest.mark.slow
ALL = ["memory", "valkey", "sqlite+memory", "sqlite+valkey", pytest.param("postgresql+valkey", marks=SLOW)]
WITH_VALKEY = [each for each in ALL if each not in ("memory", "sqlite+memory")]
WITH_ARCHIVE = [each for each in ALL if each not in ("memory", "valkey")]


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite database for all tests."""
    url = f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/chat.db"
    migrate(url)
    return url


@dataclass(frozen=True)
class Urls:
    database: str | None
    redis: str | None


@pytest.fixture
def urls(request: pytest.FixtureRequest) -> Urls:
    """What a place is made of."""
    parts = str(request.param).split("+")
    database: str | None = None
    if "sqlite" in parts:
        database = request.getfixturevalue("sqlite")
    if "postgresql" in parts:
        database = request.getfixturevalue("postgresql")
        migrate(str(database))
    return Urls(database, request.getfixturevalue("valkey_url") if "valkey" in parts else None)


@pytest.fixture
async def place(urls: Urls) -> AsyncIterator[Place]:
    async with opened(urls.database, urls.redis) as place:
        yield place


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the test's own, to look behind the manager."""
    async with Redis.from_url(valkey_url, decode_responses=True) as redis:
        yield redis


everywhere = pytest.mark.parametrize("urls", ALL, indirect=True)
over_valkey = pytest.mark.parametrize("urls", WITH_VALKEY, indirect=True)
over_an_archive = pytest.mark.parametrize("urls", WITH_ARCHIVE, indirect=True)


def said(*contents: str) -> list[Message]:
    """Messages of a user."""
    return [Message(role="user", content=content) for content in contents]


async def contents(manager: ChatHistoryManager, user: str, session_id: str | None = None) -> list[str]:
    return [message.content for message in await manager.get_history(user, session_id=session_id)]


# The contract


@over_an_archive
async def test_a_gateways_growing_list_goes_on_where_the_history_ends(place: Place, name: str) -> None:
    manager = place.manager()
    assert place.archive
    kept: list[dict[str, str]] = []
    for n in range(6):
        kept.append({"role": "assistant" if n % 2 else "user", "content": f"message {n}"})
        await manager.save_history(name, kept)
    assert await contents(manager, name) == [f"message {n}" for n in range(6)]
    assert len(await place.archive.sessions(user_key(name), limit=10)) == 1
    await manager.save_history(name, [{"role": "user", "content": "anew"}])
    assert await contents(manager, name) == ["anew"]
    assert len(await place.archive.sessions(user_key(name), limit=10)) == 2


@everywhere
async def test_what_is_no_message_is_refused(place: Place, name: str) -> None:
    manager: Any = place.manager()
    for wrong in (
        manager.append_message(name, "user", None),
        manager.save_history(name, ["x"]),
        manager.save_history(name, [5]),
        manager.get_history(name, limit="5"),
        manager.get_history(name, limit=True),
    ):
        with pytest.raises(InvalidRequest):
            await wrong
    assert await contents(manager, name) == []


@everywhere
async def test_a_user_who_said_nothing_has_no_history(place: Place, name: str) -> None:
    manager = place.manager()
    assert await manager.get_history(name) == []
    assert await manager.get_history(name, session_id="s", limit=5) == []
    assert await manager.get_langchain_messages(name) == []
    await manager.clear_history(name)
    await manager.save_history(name, [])
    assert await manager.get_history(name) == []


@everywhere
async def test_messages_come_back_as_they_were_in_the_order_in_which_they_were_appended(
    place: Place, name: str
) -> None:
    manager = place.manager()
    before = datetime.now(UTC)
    written = [
        await manager.append_message(name, "system", "Be kind."),
        await manager.append_message(name, "user", "hello", source="test", deep={"a": [1, None, "ü"]}),
        await manager.append_message(name, "assistant", "hi"),
        await manager.append_message(name, "tool", "5", tool_call_id="call"),
    ]
    assert before <= written[0].created_at <= written[1].created_at <= datetime.now(UTC)
    assert written[1].metadata == {"source": "test", "deep": {"a": [1, None, "ü"]}}
    assert await place.manager().get_history(name) == written
    assert await manager.get_history(name, limit=2) == written[2:]
    assert await manager.get_history(name, limit=0) == []
    assert await manager.get_history(name, limit=99) == written


@everywhere
async def test_conversations_of_one_user_are_apart(place: Place, name: str) -> None:
    manager = place.manager()
    for session_id in (None, "s", "t"):
        await manager.append_message(name, "user", f"in {session_id}", session_id=session_id)
    await manager.clear_history(name, session_id="s")
    assert await contents(manager, name) == ["in None"]
    assert await contents(manager, name, "s") == []
    assert await contents(manager, name, "t") == ["in t"]


@everywhere
async def test_the_default_conversation_has_a_name_too(place: Place, name: str) -> None:
    manager = place.manager()
    await manager.append_message(name, "user", "a")
    await manager.append_message(name, "user", "b", session_id="default")
    assert await contents(manager, name) == await contents(manager, name, "default") == ["a", "b"]
    assert [message.content for message in await manager.record.recent(user_key(name), None, epoch=None)] == [
        "a",
        "b",
    ]


@everywhere
async def test_saving_what_begins_with_the_history_adds_the_rest(place: Place, name: str) -> None:
    manager = place.manager()
    first = await manager.append_message(name, "user", "a", key="value")
    more = [
        first,
        Message(role="assistant", content="", tool_calls=(ToolCall(id="1", name="add", args={"n": 1}),)),
        Message(role="tool", content="2", tool_call_id="1", name="add", status="success"),
    ]
    await manager.save_history(name, more)
    assert await manager.get_history(name) == more
    await manager.save_history(name, more)
    assert await manager.get_history(name) == more
    if place.archive:
        assert len(await place.archive.sessions(user_key(name), limit=9)) == 1


@everywhere
async def test_saving_something_else_begins_anew(place: Place, name: str) -> None:
    manager = place.manager()
    for content in "abc":
        await manager.append_message(name, "user", content)
    await manager.save_history(
        name, [{"role": "user", "content": "x", "timestamp": 1}, {"role": "assistant", "content": "y"}]
    )
    assert await contents(place.manager(), name) == ["x", "y"]
    if place.archive:
        _, earlier = await place.archive.sessions(user_key(name), limit=9)
        assert await contents(manager, name, earlier.id) == ["a", "b", "c"]
    await manager.save_history(name, [])
    assert await contents(manager, name) == []


@everywhere
async def test_clearing_begins_anew_and_an_archive_keeps_what_was_there(place: Place, name: str) -> None:
    manager = place.manager()
    for content in "ab":
        await manager.append_message(name, "user", content)
        await manager.clear_history(name)
    await manager.append_message(name, "user", "c")
    assert await contents(manager, name) == ["c"]
    if place.archive:
        earlier = [session.name for session in await place.archive.sessions(user_key(name), limit=9)]
        assert earlier == ["c", "b", "a"]


NO_MESSAGES: list[Any] = [
    {"role": "robot", "content": "a"},
    {"role": None, "content": "a"},
    {"role": ["user"], "content": "a"},
    {"content": "a"},
    {"role": "user"},
    {"role": "user", "content": 5},
    {"role": "tool", "content": "answers no call"},
    {},
    Message(role="robot", content="a"),  # type: ignore[arg-type]
    Message(role="user", content="a", metadata={"a": object()}),
    Message(role="user", content="a", metadata={"a": float("nan")}),
    Message(role="user", content="a", id="x" * 65),
    Message(role="user", content="a", id=""),
    Message(role="user", content="a", id="a\x00b"),
]


@everywhere
async def test_what_is_no_message_is_refused_and_changes_nothing(place: Place, name: str) -> None:
    manager = place.manager()
    await manager.append_message(name, "user", "kept")
    for wrong in NO_MESSAGES:
        with pytest.raises(InvalidRequest):
            await manager.save_history(name, [*said("lost"), wrong])
    for role in ("robot", "", "User", "human"):
        with pytest.raises(InvalidRequest, match="system, user, assistant, tool"):
            await manager.append_message(name, role, "lost")
    with pytest.raises(InvalidRequest):
        await manager.append_message(name, "user", "lost", key=object())
    with pytest.raises(InvalidRequest):
        await manager.get_history(name, limit=-1)
    assert await contents(manager, name) == ["kept"]


@everywhere
@pytest.mark.parametrize("session_id", ["", "a b", "*", "}", "{x}", "a/b", "a\n", "x" * 65, "\ud800"])
async def test_an_id_that_no_conversation_has_is_refused(place: Place, name: str, session_id: str) -> None:
    manager = place.manager()
    calls: list[Awaitable[Any]] = [
        manager.get_history(name, session_id=session_id),
        manager.append_message(name, "user", "a", session_id=session_id),
        manager.save_history(name, said("a"), session_id=session_id),
        manager.clear_history(name, session_id=session_id),
        manager.get_langchain_messages(name, session_id=session_id),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match="id of a conversation"):
            await call


TEXTS = {
    "NUL": "a\x00b",
    "emoji": "👩‍👩‍👧 \U0001f600 e\u0301 \u2028 \ufeff",
    "large": "ü" * 1_000_000,
    "empty": "",
    "JSON": '{"role": "user"}',
    "escape": "\x1b[31m'; DROP TABLE chat_message; -- %s :name ${x} \\",
}


@everywhere
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_any_text_comes_back(place: Place, name: str, text: str) -> None:
    manager = place.manager()
    await manager.append_message(name, "user", text, key=text[:100])
    await manager.save_history(name, [*await manager.get_history(name), *said(text)])
    found = await place.manager().get_history(name)
    assert [message.content for message in found] == [text, text]
    assert found[0].metadata == {"key": text[:100]}
    assert [message.content for message in await manager.get_langchain_messages(name)][-1:] != []


@everywhere
async def test_half_a_surrogate_pair_becomes_the_replacement_character(place: Place, name: str) -> None:
    manager = place.manager()
    await manager.append_message(name, "user", "a\ud800b", **{"k\udc00": "\udfff"})
    await manager.save_history(
        name, [*await manager.get_history(name), {"role": "user", "content": "\ud83d"}]
    )
    found = await manager.get_history(name)
    assert [message.content for message in found] == ["a\ufffdb", "\ufffd"]
    assert found[0].metadata == {"k\ufffd": "\ufffd"}


@everywhere
async def test_langchain_gets_what_a_model_takes(place: Place, name: str) -> None:
    manager = place.manager()
    asked = Message(role="assistant", content="", tool_calls=(ToolCall(id="1", name="add", args={"n": 1}),))
    await manager.save_history(name, [Message(role="system", content="Be kind."), *said("hello"), asked])
    found = await manager.get_langchain_messages(name)
    assert [type(message) for message in found[:3]] == [SystemMessage, HumanMessage, AIMessage]
    assert found[1].content == "hello"
    assert isinstance(found[2], AIMessage)
    assert [(call["name"], call["args"]) for call in found[2].tool_calls] == [("add", {"n": 1})]
    assert found[3].type == "tool", "a call that was interrupted gets a result"


@everywhere
async def test_a_window_has_its_limit_and_an_archive_has_none(place: Place, name: str) -> None:
    manager = place.manager()
    messages = said(*(f"{n}" for n in range(MAX + 10)))
    await manager.save_history(name, messages[:-1])
    await manager.record.add(user_key(name), None, messages[-1:], epoch=None)
    assert await manager.get_history(name) == (messages if place.archive else messages[-MAX:])
    assert await manager.record.recent(user_key(name), None, epoch=None) == messages[-MAX:]
    assert len(await manager.get_langchain_messages(name)) == MAX


def test_of_two_messages_with_one_id_the_first_counts() -> None:
    a, b = said("a", "b")
    assert distinct([a, b, replace(a, content="again")]) == [a, b]


# Ids of users

IDS = [
    "a:b",
    "a*",
    "*",
    "}",
    "{x}",
    "a/b",
    "a\nb",
    "",
    "\x00",
    "\ud800",
    "\udc00",
    "x" * 128,
    "x" * 129,
    "x" * 10_000,
    "x" * 10_001,
    "A",
    "a",
    "ä",
    "a\u0308",
    " a",
    "a ",
    "a\n",
]


def lookalikes(victim: str) -> list[str]:
    """Ids that look like keys of a user's, or like what becomes of an id."""
    key = user_key(victim)
    return [
        f"{{{key}}}",
        f"{key}}}",
        f"{key}}}:s",
        f"{key}:s",
        f"chat:history:{{{key}}}",
        f"history:{{{key}}}",
        f"{key}:imported",
        f"{key}:unreadable",
        f"{{chat:history:{key}}}:imported",
        f"{{chat:history:{key}}}:unreadable",
        f"{key}\x00",
        f"{key}*",
        f"../{key}",
        f"~{sha256(victim.encode('utf-8', 'surrogatepass')).hexdigest()}",
    ]


@everywhere
async def test_users_with_strange_ids_never_meet(place: Place, name: str) -> None:
    manager = place.manager()
    ids = [*IDS, *lookalikes(name), *lookalikes(f"{name}:1"), name, f"{name}:1"]
    assert len(set(ids)) == len(ids)
    for id_ in ids:
        await manager.clear_history(id_)
        await manager.clear_history(id_, session_id="s")
    for n, id_ in enumerate(ids):
        assert await contents(manager, id_) == [], id_[:80]
        await manager.append_message(id_, "user", f"of {n}")
        await manager.append_message(id_, "user", f"of {n}", session_id="s")
    for n, id_ in enumerate(ids):
        assert await contents(manager, id_) == [f"of {n}"]
        assert await contents(manager, id_, "s") == [f"of {n}"]


ANY_ID = st.one_of(
    st.text(st.characters(codec=None), max_size=20),  # lone surrogates too
    st.text(":*{}/\n~x", max_size=6),
    st.sampled_from(IDS),
    st.sampled_from(IDS).map(user_key),
)


@given(one=ANY_ID, other=ANY_ID)
@example(one="a:b", other=user_key("a:b"))
@example(one="x" * 129, other="x" * 130)
@example(one="a\n", other="a")
def test_two_ids_never_share_a_key(one: str, other: str) -> None:
    assert (user_key(one) == user_key(other)) == (one == other)
    assert len(user_key(one)) <= 128
    assert not set(user_key(one)) & set(":*{}/\n ")


# Any sequence of operations


@dataclass(frozen=True)
class Step:
    """An operation on a history; `keep` is of its last messages, and `add` are those behind them."""

    kind: str
    user: int
    session: str | None
    keep: int = 0
    add: tuple[tuple[str, str], ...] = ()


SPOKEN = st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text("ab\x00ü", max_size=3))
STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(["append", "append", "append", "save", "clear", "lose"]),
        st.integers(0, 1),
        st.sampled_from([None, "s"]),
        st.integers(0, 4),
        st.lists(SPOKEN, max_size=3).map(tuple),
    ),
    max_size=14,
)
SMALL = 4


async def carry_out(step: Step, manager: ChatHistoryManager, user: str) -> None:
    at = {"session_id": step.session}
    match step.kind:
        case "append":
            for role, content in step.add:
                await manager.append_message(user, role, content, **at)
        case "save":
            there = await manager.get_history(user, limit=SMALL, **at)
            new = [{"role": role, "content": content} for role, content in step.add]
            await manager.save_history(user, [*there[: step.keep], *new], **at)
        case "clear":
            await manager.clear_history(user, **at)
        case "lose" if manager._archive:
            await manager.record.clear(user_key(user), step.session, epoch=None)


def modelled(step: Step, before: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What becomes of a plain list."""
    match step.kind:
        case "append":
            return [*before, *step.add]
        case "save":
            return [*before[-SMALL:][: step.keep], *step.add]
        case "clear":
            return []
    return before


def spoken(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
async def test_any_sequence_of_operations_gives_the_same_history_in_all_stores_and_in_a_plain_list(
    managers: dict[str, ChatHistoryManager], steps: list[Step]
) -> None:
    run = secrets.token_hex(4)
    model: dict[tuple[int, str | None], list[tuple[str, str]]] = {}
    for step in steps:
        for kind, manager in managers.items():
            await carry_out(step, manager, f"{kind}:{run}" if step.user else f"{kind}{run}")
        where = (step.user, step.session)
        model[where] = modelled(step, model.get(where, []))
    for number, session in product((0, 1), (None, "s")):
        wanted = model.get((number, session), [])
        for kind, manager in managers.items():
            user = f"{kind}:{run}" if number else f"{kind}{run}"
            found = await manager.get_history(user, session_id=session)
            assert spoken(found) == (wanted if manager._archive else wanted[-SMALL:]), kind
            recent = await manager.record.recent(user_key(user), session, epoch=None)
            assert spoken(recent) == wanted[-SMALL:], kind


@pytest.fixture(params=["home", pytest.param("postgresql", marks=SLOW)])
async def managers(
    request: pytest.FixtureRequest, sqlite: str, valkey_url: str
) -> AsyncIterator[dict[str, ChatHistoryManager]]:
    """A manager over each place, with a small window."""
    places: dict[str, tuple[str | None, str | None]] = {
        "memory": (None, None),
        "valkey": (None, valkey_url),
        "sqlite+memory": (sqlite, None),
        "sqlite+valkey": (sqlite, valkey_url),
    }
    if request.param == "postgresql":
        database: str = request.getfixturevalue("postgresql")
        migrate(database)
        places = {"postgresql+valkey": (database, valkey_url)}
    async with AsyncExitStack() as stack:
        found = {}
        for kind, (database_url, redis_url) in places.items():
            place = await stack.enter_async_context(opened(database_url, redis_url, SMALL))
            found[kind] = ChatHistoryManager(place.redis, SMALL, 3600, place.archive, window=place.window)
        yield found


# Several processes

APPENDER = """
import asyncio, json, sys, time
from contextlib import AsyncExitStack
from redis.asyncio import Redis
from mcp_chat.history import ChatHistoryManager
from mcp_chat.stores.sql import open_sql

async def main(database, redis_url, user, who):
    async with AsyncExitStack() as stack:
        archive = await stack.enter_async_context(open_sql(database)) if database else None
        redis = await stack.enter_async_context(Redis.from_url(redis_url, decode_responses=True))
        manager = ChatHistoryManager(redis, 200, 3600, archive)
        await manager.get_history(user, limit=1)
        print("ready", flush=True)
        sys.stdin.readline()
        done = []

        async def speak(task):
            for n in range(5):
                content, sent = f"{who} {task} {n}", time.monotonic()
                await manager.append_message(user, "user", content)
                done.append((content, sent, time.monotonic()))

        await asyncio.gather(*(speak(task) for task in range(10)))
        with open(sys.argv[5], "w") as file:
            json.dump(done, file)

asyncio.run(main(*sys.argv[1:5]))
"""


@over_valkey
async def test_200_appends_of_4_processes_at_once_are_all_there_in_the_order_of_their_acknowledgement(
    urls: Urls, place: Place, name: str, tmp_path: Path
) -> None:
    files = [tmp_path / f"{n}.json" for n in range(4)]
    processes = [
        started(APPENDER, urls.database or "", str(urls.redis), name, f"{n}", str(file))
        for n, file in enumerate(files)
    ]
    assert await to_thread.run_sync(together, processes) == [0] * 4
    told = [tuple(each) for file in files for each in json.loads(file.read_text())]
    manager = ChatHistoryManager(place.redis, 200, 3600, place.archive)
    found = await contents(manager, name)
    assert len(found) == 200
    assert sorted(found) == sorted(content for content, _, _ in told)
    sent = {content: at for content, at, _ in told}
    acknowledged = {content: at for content, _, at in told}
    for n, earlier in enumerate(found):
        for later in found[n + 1 :]:
            assert acknowledged[later] >= sent[earlier], "it was acknowledged before the other was sent"


# Redis away, Redis empty


async def everything(manager: ChatHistoryManager, user: str, *, archive: bool) -> None:
    """Call each method while Redis is away: what cannot be done is an error."""
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "get": lambda: manager.get_history(user),
        "limited": lambda: manager.get_history(user, session_id="s", limit=3),
        "langchain": lambda: manager.get_langchain_messages(user),
        "append": lambda: manager.append_message(user, "user", "while away", session_id="away"),
        "save": lambda: manager.save_history(user, said("lost")),
        "clear": lambda: manager.clear_history(user),
    }
    outcomes = {}
    for call, run in calls.items():
        try:
            await run()
            outcomes[call] = "done"
        except StoreUnavailable:
            outcomes[call] = "unavailable"
    works = {"get", "limited", "langchain", "append"} if archive else set()
    assert outcomes == {call: "done" if call in works else "unavailable" for call in calls}


@over_valkey
async def test_a_redis_that_is_away_is_an_error_and_never_an_empty_history(
    urls: Urls, place: Place, name: str
) -> None:
    before = place.manager()
    await before.append_message(name, "user", "kept")
    await before.append_message(name, "user", "kept", session_id="s")
    with proxied(str(urls.redis)) as proxy:
        async with Redis.from_url(proxy.url, decode_responses=True) as redis:
            manager = ChatHistoryManager(redis, MAX, 3600, place.archive)
            assert await contents(manager, name) == ["kept"]
            proxy.cut()
            await everything(manager, name, archive=place.archive is not None)
            new = ChatHistoryManager(redis, MAX, 3600, place.archive)
            if place.archive:
                assert await contents(new, name) == ["kept"], "of a user it has not met"
            else:
                with pytest.raises(StoreUnavailable):
                    await new.get_history(name)
            proxy.heal()
            assert await contents(manager, name) == ["kept"]
            await manager.append_message(name, "user", "after")
            assert await contents(manager, name) == ["kept", "after"]
    assert await contents(before, name, "away") == (["while away"] if place.archive else [])


async def test_a_closed_port_is_an_error(name: str) -> None:
    async with Redis(port=1, decode_responses=True, retry=Retry(NoBackoff(), 0)) as redis:
        manager = ChatHistoryManager(redis)
        with pytest.raises(StoreUnavailable):
            await manager.get_history(name)
        with pytest.raises(StoreUnavailable):
            await manager.append_message(name, "user", "a")


async def test_a_save_that_fails_without_an_archive_leaves_what_was_there(
    valkey_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable

    async with opened(None, valkey_url) as place:
        manager = place.manager()
        await manager.save_history(name, said("a", "b"))
        for write in ("append", "replace"):
            monkeypatch.setattr(manager.record._window, write, fail)
        with pytest.raises(StoreUnavailable):
            await manager.save_history(name, said("c"))
        assert await contents(manager, name) == ["a", "b"]


@over_an_archive
@pytest.mark.parametrize("how", ["flushed", "expired", "cleared", "cut"])
async def test_a_window_that_is_lost_is_filled_again_from_the_archive(
    place: Place, name: str, how: str
) -> None:
    manager, user = place.manager(), user_key(name)
    for content in "abc":
        await manager.append_message(name, "user", content)
    epoch = 1 << 50
    assert len(await manager.record.recent(user, None, epoch=epoch)) == 3
    await lost(place, user, how)
    assert await contents(manager, name) == ["a", "b", "c"]
    assert [m.content for m in await manager.record.recent(user, None, epoch=epoch)] == ["a", "b", "c"]
    await lost(place, user, how)
    await manager.record.add(user, None, said("d"), epoch=epoch)
    recent = await manager.record.recent(user, None, epoch=epoch)
    assert [message.content for message in recent] == [*"abcd"]
    await manager.append_message(name, "user", "from elsewhere")
    recent = await manager.record.recent(user, None, epoch=epoch)
    assert [message.content for message in recent] == [*"abcd", "from elsewhere"]


async def lost(place: Place, user: str, how: str) -> None:
    """Lose the user's window."""
    if place.redis is None or how == "cleared":
        await place.manager().record.clear(user, None, epoch=None)
    elif how == "flushed":
        await place.redis.flushall()
    elif how == "cut":
        await place.redis.delete(f"chat:history:{{{user}}}")
    else:
        await place.redis.pexpire(f"chat:history:{{{user}}}", 1)
        while await place.redis.exists(f"chat:history:{{{user}}}"):  # noqa: ASYNC110 - Valkey's clock
            await anyio.sleep(0.001)


@over_valkey
async def test_reading_and_appending_touch_nobody_elses_window(
    place: Place, client: Redis, name: str
) -> None:
    manager = place.manager()
    await manager.append_message(f"{name}2", "user", "theirs")
    await manager.record.recent(user_key(f"{name}2"), None, epoch=None)
    before = {key: await client.dump(key) for key in await keys(client, f"{name}2")}
    await manager.append_message(name, "user", "a")
    await manager.clear_history(name)
    await manager.save_history(name, said("b"))
    assert {key: await client.dump(key) for key in await keys(client, f"{name}2")} == before


# Values that nobody can read


async def keys(client: Redis, user: str) -> list[str]:
    return [key async for key in client.scan_iter(match="*", count=1000) if user in key]


async def all_expire(client: Redis, user: str) -> bool:
    return all([await client.pttl(key) > 0 for key in await keys(client, user)])


BAD = [b"nonsense", b"", b"\xff\xfe", b"null", b'{"role": "robot", "content": "a"}', b"[" * 1000, b'"a"']


@over_valkey
async def test_values_of_a_window_that_nobody_can_read_are_put_aside_and_the_rest_goes_on(
    urls: Urls, place: Place, client: Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_window, "log", told := CapturingLogger())
    manager, key = place.manager(), f"chat:history:{{{name}}}"
    await manager.append_message(name, "user", "a")
    await manager.record.recent(name, None, epoch=None)
    for n, bad in enumerate(BAD):
        await client.rpush(key, bad)
        await client.rpush(key, MESSAGE.dump_json(said(f"{n}")[0]))
        await client.lpush(key, bad)
    wanted = ["a", *(f"{n}" for n in range(len(BAD)))]
    assert [m.content for m in await manager.record.recent(name, None, epoch=None)] == wanted
    assert ("error", ("history.unreadable",)) in [(call.method_name, call.args) for call in told.calls]
    async with Redis.from_url(str(urls.redis)) as raw:
        aside = [value async for value in _list(raw, f"chat:aside:{{{name}}}")]
    assert sorted(aside) == sorted(BAD * 2)
    assert await client.llen(key) == len(wanted)
    assert await all_expire(client, name)
    await manager.append_message(name, "user", "next")
    assert (await contents(manager, name))[-1] == "next"


async def _list(client: Redis, key: str) -> AsyncIterator[bytes]:
    found: Any = await client.lrange(key, 0, -1)
    for value in found:
        yield value


@over_valkey
@pytest.mark.parametrize("first", ["read", "append"])
@pytest.mark.parametrize(
    "command",
    [
        ["SET", "{}", "text"],
        ["HSET", "{}", "a", "b"],
        ["ZADD", "{}", "1", "a"],
        ["XADD", "{}", "*", "a", "b"],
    ],
)
async def test_a_window_of_a_wrong_type_is_put_aside_as_a_whole(
    place: Place, client: Redis, name: str, command: list[str], first: str
) -> None:
    manager, key = place.manager(), f"chat:history:{{{name}}}"
    await client.execute_command(*(key if part == "{}" else part for part in command))  # type: ignore[no-untyped-call]
    kind = await client.type(key)
    if first == "read":
        assert await manager.record.recent(name, None, epoch=None) == []
    await manager.append_message(name, "user", "a")
    assert await contents(manager, name) == ["a"]
    assert [m.content for m in await manager.record.recent(name, None, epoch=None)] == ["a"]
    if first == "read" or place.archive is None:
        assert await client.type(f"chat:aside:{{{name}}}:key") == kind
    assert await all_expire(client, name)


# What a gateway has kept

OLD = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "hi"},
    {"role": "user", "content": "hello"},
]


@over_valkey
@pytest.mark.parametrize("form", ["chat_history:{}", "chat:history:{}"])
async def test_a_gateways_history_is_the_beginning_of_ours(
    place: Place, client: Redis, name: str, form: str
) -> None:
    await client.set(form.format(name), json.dumps(OLD))
    manager = place.manager()
    await manager.append_message(name, "user", "next")
    assert await contents(manager, name) == ["hello", "hi", "hello", "next"]
    assert await contents(place.manager(), name) == ["hello", "hi", "hello", "next"]
    assert not await client.exists(form.format(name))
    assert await client.get(f"{{{form.format(name)}}}:imported") == json.dumps(OLD)
    assert await all_expire(client, name)
    await manager.clear_history(name)
    assert await contents(place.manager(), name) == []


@over_valkey
async def test_a_gateways_history_is_imported_once_by_many_at_once(
    place: Place, client: Redis, name: str
) -> None:
    for turn in range(10):
        user = f"{name}-{turn}"
        await client.set(f"chat_history:{user}", json.dumps(OLD * 20))
        managers = [place.manager() for _ in range(8)]
        await asyncio.gather(*(manager.get_history(user) for manager in managers))
        found = await contents(place.manager(), user)
        wanted = [each["content"] for each in OLD * 20]
        assert found == (wanted if place.archive else wanted[-MAX:])
        if place.archive:
            assert len(await place.archive.sessions(user, limit=9)) == 1
    assert await all_expire(client, name)


@over_valkey
async def test_a_gateways_history_that_was_read_before_another_has_imported_it_changes_nothing(
    place: Place, client: Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.set(f"chat_history:{name}", json.dumps(OLD * 16))
    slow = place.manager()
    assert slow._gateway is not None
    read = await slow._gateway.read(name)

    async def late(user_id: str) -> list[Message]:
        return read

    monkeypatch.setattr(slow._gateway, "read", late)
    await place.manager().append_message(name, "user", "next")
    await slow.append_message(name, "user", "and then")
    wanted = [*(each["content"] for each in OLD * 16), "next", "and then"]
    assert await contents(place.manager(), name) == wanted


@over_valkey
async def test_a_gateways_history_is_imported_once_even_if_the_process_dies_in_between(
    place: Place, client: Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.set(f"chat_history:{name}", json.dumps(OLD))
    dying = place.manager()

    async def die(user_id: str) -> None:
        raise KeyboardInterrupt

    assert dying._gateway is not None
    monkeypatch.setattr(dying._gateway, "done", die)
    with suppress(KeyboardInterrupt):
        await dying.append_message(name, "user", "never")
    assert await client.exists(f"chat_history:{name}")
    await place.manager().append_message(name, "user", "next")
    assert await contents(place.manager(), name) == ["hello", "hi", "hello", "next"]
    assert not await client.exists(f"chat_history:{name}")


@over_valkey
@pytest.mark.parametrize(
    "value", [b"nonsense", b"\xff\xfe", b"{}", b"null", b"5", b"", b"[" * 100_000, b'[{"role": "user"']
)
async def test_a_gateways_value_that_nobody_can_read_is_put_aside(
    urls: Urls, place: Place, client: Redis, name: str, value: bytes
) -> None:
    await client.set(f"chat:history:{name}", value)
    await client.set(f"chat_history:{name}", json.dumps(OLD))
    manager = place.manager()
    assert await contents(manager, name) == ["hello", "hi", "hello"]
    async with Redis.from_url(str(urls.redis)) as raw:
        assert await raw.get(f"{{chat:history:{name}}}:unreadable") == value
    assert not await client.exists(f"chat:history:{name}")
    assert await all_expire(client, name)


@over_valkey
async def test_entries_of_a_gateway_that_are_no_messages_are_left_out(
    place: Place, client: Redis, name: str
) -> None:
    entries: list[Any] = [
        OLD[0],
        None,
        5,
        {"role": "robot", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": "half \ud800 \x00"},
        OLD[1],
    ]
    await client.set(f"chat_history:{name}", json.dumps(entries))
    assert await contents(place.manager(), name) == ["hello", "half \ufffd \x00", "hi"]


@over_valkey
async def test_a_gateways_key_of_another_type_is_left_alone(place: Place, client: Redis, name: str) -> None:
    await client.hset(f"chat_history:{name}", "a", "b")
    try:
        assert await contents(place.manager(), name) == []
        assert await client.type(f"chat_history:{name}") == "hash"
    finally:
        await client.delete(f"chat_history:{name}")


@over_valkey
async def test_nobody_gets_a_gateways_history_by_an_id_that_looks_like_its_key(
    place: Place, client: Redis, name: str
) -> None:
    """`chat:history:<id>` of one could be a window or a history of another."""
    manager = place.manager()
    await manager.append_message(name, "user", "mine", session_id="s")
    await manager.record.recent(name, "s", epoch=None)
    for key in (f"{{chat_history:{name}}}:imported", f"chat_history:{name}:imported"):
        await client.set(key, json.dumps(OLD), ex=60)
    for id_ in lookalikes(name):
        assert await contents(manager, id_) == []
    assert await contents(manager, name, "s") == ["mine"]


@over_valkey
async def test_every_key_that_is_left_behind_expires(place: Place, client: Redis, name: str) -> None:
    manager = place.manager()
    await client.set(f"chat_history:{name}", json.dumps(OLD))
    for session_id in (None, "s"):
        await manager.append_message(name, "user", "a", session_id=session_id)
        await manager.record.recent(name, session_id, epoch=1 << 50)
        await manager.save_history(name, said("b"), session_id=session_id)
        await manager.record.recent(name, session_id, epoch=1 << 50)
        await manager.record.add(name, session_id, said("c"), epoch=1 << 50)
        await client.rpush(f"chat:history:{{{name}}}", "bad")
        await manager.get_history(name, session_id=session_id)
        await manager.record.recent(name, session_id, epoch=1 << 50)
    assert len(await keys(client, name)) >= 3
    assert await all_expire(client, name)
