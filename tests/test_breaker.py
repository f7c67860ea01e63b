"""What fails again and again is left alone for a while, and tried by one before by all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

import anyio
import pytest
from mcp.server import MCPServer

from mcp_chat.breaker import Breaker, Breakers, Endurance, Resting
from tests.faults import within
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until


class Clock:
    """Time that a test puts forward."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(Endurance(failures=3, window=60, rest=10), clock=clock)


def attempt(breaker: Breaker, error: BaseException | None = None) -> bool:
    """Make one attempt; tell whether it was let through."""
    try:
        with breaker.attempt(
            lambda error: None if isinstance(error, KeyError) else isinstance(error, OSError)
        ):
            if error:
                raise error
    except Resting:
        return False
    except (OSError, ValueError, KeyError, asyncio.CancelledError):
        pass
    return True


def broken(breaker: Breaker) -> Breaker:
    assert all(attempt(breaker, OSError()) for _ in range(3))
    return breaker


def test_enough_failures_in_a_row_open_it_and_the_rest_closes_it(breaker: Breaker, clock: Clock) -> None:
    broken(breaker)
    assert breaker.open
    with pytest.raises(Resting) as resting, breaker.attempt(lambda _: True):
        pass
    assert resting.value.seconds == 10
    clock.now += 9.9
    assert not attempt(breaker)
    clock.now += 0.1
    assert attempt(breaker)
    assert not breaker.open


def test_failures_with_a_success_in_between_or_over_a_long_time_do_not(
    breaker: Breaker, clock: Clock
) -> None:
    for _ in range(5):
        attempt(breaker, OSError())
        attempt(breaker, OSError())
        attempt(breaker)
    for _ in range(9):
        attempt(breaker, OSError())
        clock.now += 31
    assert not breaker.open


def test_errors_that_are_nobodys_fault_count_as_success_and_cancellations_as_nothing(
    breaker: Breaker,
) -> None:
    for _ in range(3):
        attempt(breaker, OSError())
        attempt(breaker, OSError())
        attempt(breaker, ValueError())
    assert not breaker.open
    for _ in range(3):
        attempt(breaker, asyncio.CancelledError())
        attempt(breaker, KeyError())
        attempt(breaker, OSError())
    assert breaker.open


def test_one_is_let_through_at_a_time_and_its_failure_means_another_rest(
    breaker: Breaker, clock: Clock
) -> None:
    broken(breaker)
    clock.now += 10
    with suppress(OSError), breaker.attempt(lambda _: True):
        assert not attempt(breaker), "there is a probe already"
        raise OSError
    clock.now += 9
    assert not attempt(breaker)
    clock.now += 1
    assert attempt(breaker, asyncio.CancelledError())
    assert attempt(breaker), "a probe that was stopped makes room for the next one"


def test_what_began_before_it_opened_changes_nothing(breaker: Breaker, clock: Clock) -> None:
    with breaker.attempt(lambda _: True):
        broken(breaker)
    assert breaker.open
    clock.now += 5
    with pytest.raises(Resting) as resting, breaker.attempt(lambda _: True):
        pass
    assert resting.value.seconds == 5


def test_each_thing_has_one_of_its_own_and_none_may_be_wanted(clock: Clock) -> None:
    breakers = Breakers(Endurance(failures=1, rest=10), clock=clock)
    attempt(breakers.of("a"), OSError())
    assert (breakers.of("a").open, breakers.of("b").open, breakers.open) == (True, False, 1)
    never = Breaker(Endurance(failures=0), clock=clock)
    assert all(attempt(never, OSError()) for _ in range(50))


# A server


class Sleeper:
    """An MCP server one of whose tools sleeps as long as it is told."""

    def __init__(self) -> None:
        self.asleep = True
        self.called = 0
        self.server = MCPServer("sleeper")
        self.server.tool(name="nap")(self.nap)

    async def nap(self) -> str:
        self.called += 1
        if self.asleep:
            await anyio.sleep(30)
        return "awake"


@pytest.fixture
def sleeper() -> Iterator[tuple[Sleeper, str]]:
    sleeper = Sleeper()
    with running(sleeper.server.streamable_http_app(), grace=0) as url:
        yield sleeper, f"{url}/mcp"


def test_a_server_that_does_not_answer_is_left_alone_and_called_again_later(
    serve: Callable[..., str], name: str, model: ModelServer, sleeper: tuple[Sleeper, str]
) -> None:
    slow, url = sleeper
    limits = {"tool_timeout": 3, "breaker_failures": 2, "breaker_rest": 8}
    with Person(serve(**limits), name) as person:
        person.connect(server={"url": url, "alias": "s"})

        def outcome() -> str:
            model.will(Reply(calls=[("s__nap", {})]), Reply(text="I see."))
            told = person.say("nap")["tool_invocations"][-1]
            return str(told.get("error") or told["output"])

        for _ in range(2):
            assert "did not answer within" in outcome()
        with within(3):  # less than a call would be waited for
            assert "has not answered several times in a row" in outcome()
        assert slow.called == 2
        slow.asleep = False
        wait_until(lambda: outcome() == "awake", "it is called again")
        assert 'mcp_chat_breakers_opened_total{what="server"} 1.0' in person.http.get("/metrics").text
