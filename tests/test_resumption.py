"""What a user was connected to is made ready again at another worker, whatever becomes of the servers."""

from __future__ import annotations

import base64
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import anyio
import pytest
from anyio import CapacityLimiter

from mcp_chat.app import create_app
from mcp_chat.seat import Seat
from mcp_chat.settings import Settings
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until
from tests.sized_mcp import SizedMCP

pytestmark = pytest.mark.slow

There = Callable[[], AbstractContextManager[Person]]

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def far() -> SizedMCP:
    """A server of the user's own."""
    return SizedMCP()


@pytest.fixture
def far_url(far: SizedMCP) -> Iterator[str]:
    """Where it is."""
    with running(far.app, grace=0) as url:
        yield f"{url}/json"


@pytest.fixture
def there(settings: Callable[..., Settings], name: str) -> There:
    """Be a person at a worker that has just begun, on the same database."""

    @contextmanager
    def there() -> Iterator[Person]:
        with (
            running(create_app(settings(connect_timeout=12, encryption_key=KEY)), grace=0) as url,
            Person(url, name) as person,
        ):
            yield person

    return there


@pytest.mark.parametrize("tools", [0, 2])
def test_the_first_token_waits_for_no_server_that_was_open_before(
    there: There,
    far: SizedMCP,
    far_url: str,
    model: ModelServer,
    tools: int,
) -> None:
    far.tools = far.tools[:tools]
    with there() as alice:
        alice.connect(servers=[{"url": far_url, "alias": "far"}])
        model.will(Reply(text="with all that is loaded but once"))
        alice.say("hello")
    far.pause = 12
    model.will(Reply(text="at once"))
    with there() as alice:
        began = time.monotonic()
        assert alice.say("hello")["response"] == "at once"
        assert time.monotonic() - began < 8


def test_a_stop_while_servers_are_waited_for_leaves_nothing_open(
    there: There,
    far: SizedMCP,
    far_url: str,
    model: ModelServer,
    tmp_path: Path,
) -> None:
    with there() as alice:
        alice.connect(servers=[{"url": far_url, "alias": "far"}])
    with sqlite3.connect(tmp_path / "chat.db") as database:  # what is not known is waited for
        database.execute("DELETE FROM chat_document")
    far.pause = 60
    with there() as alice:
        before = far.hellos
        with alice.streaming("hello") as frames, Person(str(alice.http.base_url), alice.name) as as_well:
            wait_until(lambda: far.hellos > before, "the server is waited for")
            assert as_well.post("cancel").status_code == 200
            assert list(frames)[-1][1]["stopped"] is True
        began = time.monotonic()
    assert time.monotonic() - began < 20


@pytest.mark.anyio
async def test_of_several_calls_that_come_back_for_the_same_seat_none_is_forgotten() -> None:
    places = CapacityLimiter(1)
    seat, stranger = Seat([places]), object()
    turns = [anyio.Event() for _ in range(2)]

    async def away(until: anyio.Event) -> None:
        async with seat.left():
            await until.wait()

    with anyio.fail_after(5):
        async with seat.taken(), anyio.create_task_group() as calls:
            calls.start_soon(away, turns[0])
            await anyio.wait_all_tasks_blocked()
            await places.acquire_on_behalf_of(stranger)
            turns[0].set()
            await anyio.wait_all_tasks_blocked()  # the first one waits for the seat
            calls.start_soon(away, turns[1])
            await anyio.wait_all_tasks_blocked()
            turns[1].set()
            await anyio.wait_all_tasks_blocked()  # and so does the second one
            places.release_on_behalf_of(stranger)
    assert places.borrowed_tokens == 0
