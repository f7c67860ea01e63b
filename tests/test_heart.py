"""The worker's heartbeat, against a real Valkey."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import structlog
from redis import Redis
from structlog.testing import capture_logs

from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.heart import Heart, Heartbeat, LoopHeart
from mcp_chat.stores.base import Leases
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.stores.redis import open_leases
from tests.proxy import Proxy, proxied

pytestmark = pytest.mark.slow

FAST: Any = {"every": 0.5, "ttl": 3.0, "stuck": 2.0}


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """Log lines go to `capture_logs` from every thread."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def worker() -> str:
    """A worker nobody else is."""
    return f"worker-{secrets.token_hex(4)}"


def at(url: str) -> Callable[[], AbstractAsyncContextManager[Leases]]:
    """What opens leases at a URL."""
    return lambda: open_leases(url)


@asynccontextmanager
async def beating(heart: Heartbeat) -> AsyncIterator[Heartbeat]:
    await heart.start()
    try:
        yield heart
    finally:
        await heart.stop()


async def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(0.01)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait, and keep the event loop from running."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hearts() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "heart"]


def told(logs: list[Any]) -> list[tuple[str, str | None]]:
    return [(line["event"], line.get("why")) for line in logs if line["event"].startswith("beat.")]


class Store:
    """A look at the heartbeats in a store, from outside."""

    def __init__(self, url: str) -> None:
        self._url = url

    def alive(self, worker: str) -> bool:
        async def ask() -> bool:
            async with open_leases(self._url) as leases:
                return await leases.alive(worker)

        return _in_a_loop_of_its_own(ask())


def _in_a_loop_of_its_own(work: Coroutine[Any, Any, bool]) -> bool:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(asyncio.run(work)))
    thread.start()
    thread.join(30)
    return answers[0]


def test_it_beats_from_its_start_to_its_stop_and_leaves_no_thread(valkey_url: str, worker: str) -> None:
    store = Store(valkey_url)

    async def main() -> None:
        before = time.monotonic()
        async with beating(Heart(worker, at(valkey_url), **FAST)) as heart:
            assert store.alive(worker)
            assert before <= heart.renewed <= time.monotonic()
            assert len(hearts()) == 1
            assert hearts()[0].daemon
            for _ in range(3):
                last = heart.renewed
                await eventually(lambda: heart.renewed > last)  # noqa: B023 - called in this round only
                assert heart.beats(3.0)
            assert store.alive(worker)
        assert hearts() == []
        await eventually(lambda: not heart.beats(3.0))

    asyncio.run(main())
    until(lambda: not store.alive(worker))


def test_it_does_not_beat_while_the_loop_hangs_and_beats_again_when_it_ticks(
    valkey_url: str, worker: str
) -> None:
    store = Store(valkey_url)

    async def main() -> None:
        async with beating(Heart(worker, at(valkey_url), **FAST)) as heart:
            with capture_logs() as logs:
                began = time.monotonic()
                until(lambda: not store.alive(worker))
                assert heart.renewed > began, "a loop that is only busy keeps its worker alive"
                last = heart.renewed
                time.sleep(1.5)  # noqa: ASYNC251 - it hangs
                assert heart.renewed == last
                assert not heart.beats(3.0)
                await eventually(lambda: heart.beats(3.0))
                assert store.alive(worker)
            assert told(logs) == [("beat.missed", "the event loop hangs"), ("beat.back", None)]

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["cut", "hang"])
def test_it_survives_the_store(valkey_url: str, worker: str, fault: str) -> None:
    async def main(proxy: Proxy) -> None:
        async with beating(Heart(worker, at(proxy.url), **FAST)) as heart:
            with capture_logs() as logs:
                getattr(proxy, fault)()
                last = heart.renewed
                await eventually(lambda: not heart.beats(3.0))
                await asyncio.sleep(1.5)
                assert heart.renewed - last < 1.0, "only what had arrived counts"
                proxy.heal()
                await eventually(lambda: heart.beats(3.0))
            assert told(logs) == [("beat.missed", "the store does not answer"), ("beat.back", None)]
        assert hearts() == []

    with proxied(valkey_url) as proxy:
        asyncio.run(main(proxy))
    assert Store(valkey_url).alive(worker)


def test_a_beat_counts_from_when_it_was_sent(valkey_url: str, worker: str) -> None:
    """The store may have it long before the answer is here."""

    async def main(proxy: Proxy) -> None:
        async with beating(Heart(worker, at(proxy.url), every=1.0)) as heart:
            for _ in range(2):
                last = heart.renewed
                await eventually(lambda: heart.renewed > last)  # noqa: B023 - called in this round only
                assert time.monotonic() - heart.renewed >= 0.4  # there and back

    with proxied(valkey_url, delay=0.2) as proxy:
        asyncio.run(main(proxy))


@pytest.mark.parametrize("fault", ["cut", "hang"])
def test_a_start_without_a_store_beats_when_it_is_there(valkey_url: str, worker: str, fault: str) -> None:
    """A worker may begin in the middle of an outage."""
    store = Store(valkey_url)

    async def main(proxy: Proxy) -> None:
        getattr(proxy, fault)()
        heart = Heart(worker, at(proxy.url), **FAST)
        await asyncio.wait_for(heart.start(), 30)
        assert not heart.beats(1e9)
        proxy.heal()
        await eventually(lambda: heart.beats(3.0))
        assert store.alive(worker)
        await heart.stop()
        assert hearts() == []

    with proxied(valkey_url) as proxy:
        asyncio.run(main(proxy))


def test_a_store_that_hangs_does_not_hold_up_the_stop(valkey_url: str, worker: str) -> None:
    async def main(proxy: Proxy) -> None:
        heart = Heart(worker, at(proxy.url), every=2.0)
        await heart.start()
        proxy.hang()
        await asyncio.sleep(2.1)  # a beat is on its way
        await asyncio.wait_for(heart.stop(), 30)
        assert hearts() == []
        proxy.heal()

    with proxied(valkey_url) as proxy:
        asyncio.run(main(proxy))


def test_a_parse_of_two_seconds_that_lets_no_other_thread_run_costs_nothing(
    valkey_url: str, worker: str
) -> None:
    async def main() -> None:
        async with beating(Heart(worker, at(valkey_url))) as heart:
            began = time.monotonic()
            for size in range(1, 9):
                while time.monotonic() - began < 2.0:
                    sum(range(size * 1_000_000))  # one call into C: it does not give the lock away
            assert heart.beats(5.0)
            last = heart.renewed
            await eventually(lambda: heart.renewed > last, 5)
            assert Store(valkey_url).alive(worker)

    asyncio.run(main())


def test_an_error_that_nobody_thought_of_is_not_the_last_beat(worker: str) -> None:
    leases = MemoryStore().leases
    beats: list[str] = []
    beat, trouble = leases.beat, [ValueError(), KeyError()]

    async def odd(worker: str, ttl: float, **more: Any) -> None:
        if beats and trouble:
            raise trouble.pop()
        beats.append(worker)
        await beat(worker, ttl, **more)

    leases.beat = odd  # type: ignore[method-assign]

    async def main() -> None:
        async with beating(LoopHeart(worker, leases, every=0.05)):
            with capture_logs() as logs:
                await eventually(lambda: len(beats) == 3)
            assert told(logs) == [("beat.missed", "a beat failed"), ("beat.back", None)]

    asyncio.run(main())


def test_in_one_process_it_beats_in_the_loop_itself(worker: str) -> None:
    now = [100.0]
    leases = MemoryStore().leases

    async def main() -> None:
        async with beating(LoopHeart(worker, leases, every=0.05, clock=lambda: now[0])) as heart:
            assert await leases.alive(worker)
            assert heart.renewed == 100.0
            now[0] = 103.0
            assert not heart.beats(3.0)
            await eventually(lambda: heart.beats(3.0))
            assert heart.renewed == 103.0
            assert hearts() == []
        now[0] = 110.0
        await asyncio.sleep(0.15)
        assert heart.renewed == 103.0

    asyncio.run(main())


def test_in_one_process_it_says_when_the_store_is_gone_from_the_start(worker: str) -> None:
    leases = MemoryStore().leases

    async def gone(worker: str, ttl: float, **_: Any) -> None:
        raise StoreUnavailable

    leases.beat = gone  # type: ignore[method-assign]

    async def main() -> None:
        heart = LoopHeart(worker, leases)
        await heart.start()
        assert not heart.beats(1e9)
        await heart.stop()

    asyncio.run(main())


def test_redis_counts_what_the_heart_sends(valkey_url: str, worker: str) -> None:
    """What others look at is there, and for no longer than a beat counts."""

    async def main() -> None:
        async with beating(Heart(worker, at(valkey_url), ttl=5.0)):
            with Redis.from_url(valkey_url) as redis:
                assert 0 < redis.pttl(f"worker:{worker}") <= 5000

    asyncio.run(main())
