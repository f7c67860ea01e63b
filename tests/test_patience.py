"""A call is waited for while it shows progress, not for ever, and its server is told when nobody waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from mcp_chat.demo.server import sessions_only
from mcp_chat.patience import Patience
from tests.conftest import on_one_stage
from tests.faults import usable, within
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running, wait_until

pytestmark = pytest.mark.slow

SILENCE, MOST = 5.0, 12.0
TURN, SERVER = 3, 2

stage, model, alice = on_one_stage(
    connect_timeout=15,
    model_timeout=15,
    turn_timeout=60,
    tool_timeout=SILENCE,
    tool_limit=MOST,
    parallel_calls=TURN,
    server_calls=SERVER,
)


class Slow:
    """A server that takes its time.

    Attributes:
        seen: What has happened to its calls.
        most: Calls that it had at once.
    """

    def __init__(self) -> None:
        self.seen = Counter[str]()
        self.most = 0
        self._now = 0

    def server(self, *, modern: bool) -> MCPServer:
        server = MCPServer("slow", middleware=() if modern else [sessions_only])
        server.add_tool(self.work, name="work")
        return server

    async def work(self, ctx: Context, seconds: float, every: float = 100) -> str:
        """Work so long, and tell of progress that often."""
        self._now += 1
        self.most = max(self.most, self._now)
        self.seen["begun"] += 1
        try:
            end = anyio.current_time() + seconds
            while (left := end - anyio.current_time()) > 0:
                await anyio.sleep(min(left, every))
                await ctx.report_progress(seconds - left, seconds)
        except anyio.get_cancelled_exc_class():
            self.seen["cancelled"] += 1
            raise
        finally:
            self._now -= 1
        return "done"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["modern", "with sessions"])
def slow(request: pytest.FixtureRequest, alice: Person) -> Iterator[Slow]:
    """The server that the person is connected to."""
    slow = Slow()
    with running(slow.server(modern=request.param == "modern").streamable_http_app(), grace=0) as url:
        alice.connect(server={"url": f"{url}/mcp", "alias": "s"})
        yield slow


def worked(person: Person, model: ModelServer, **args: Any) -> dict[str, Any]:
    model.will(Reply(calls=[("s__work", args)]), Reply(text="I see."))
    ended = person.say("go")["tool_invocations"][-1]
    assert isinstance(ended, dict)
    return ended


def test_a_call_that_shows_progress_may_take_longer(slow: Slow, alice: Person, model: ModelServer) -> None:
    assert worked(alice, model, seconds=SILENCE + 0.5, every=0.2)["output"] == "done"
    assert slow.seen == {"begun": 1}


def test_a_silent_call_is_given_up_and_its_server_told(slow: Slow, alice: Person, model: ModelServer) -> None:
    with within(SILENCE + 30):
        end = worked(alice, model, seconds=30)
    assert end["error"] == f"The tool did not answer within {SILENCE:g} seconds."
    assert wait_until(lambda: slow.seen["cancelled"], "the server hears of it") == 1
    assert worked(alice, model, seconds=0)["output"] == "done"
    usable(alice, model)


def test_no_progress_prolongs_a_call_for_ever(slow: Slow, alice: Person, model: ModelServer) -> None:
    with within(MOST + 30):
        end = worked(alice, model, seconds=30, every=0.1)
    assert end["error"] == f"The tool did not answer within {MOST:g} seconds, and the call was cancelled."
    assert wait_until(lambda: slow.seen["cancelled"], "the server hears of it") == 1


def test_a_call_that_its_user_stops_is_stopped_at_its_server(
    slow: Slow, alice: Person, model: ModelServer
) -> None:
    model.will(Reply(calls=[("s__work", {"seconds": 30, "every": 0.1})]))
    with alice.streaming("go") as frames:
        assert next(frames)[0] == "tool_start"
        wait_until(lambda: slow.seen["begun"], "the call is made")
        assert alice.post("cancel").status_code == 200
        *_, (event, end) = frames
    assert (event, end["stopped"]) == ("final", True)
    assert wait_until(lambda: slow.seen["cancelled"], "the server hears of it") == 1
    assert worked(alice, model, seconds=0)["output"] == "done"


def test_one_server_gets_so_many_calls_of_a_turn_at_a_time(
    slow: Slow, alice: Person, model: ModelServer
) -> None:
    calls: list[tuple[str, Any]] = [("s__work", {"seconds": 0.5})] * 5
    model.will(Reply(calls=calls, call_ids=list("abcde")), Reply(text="I see."))
    ends = [end for end in alice.say("go")["tool_invocations"] if end["type"] == "tool_end"]
    assert [end["output"] for end in ends] == ["done"] * 5
    assert slow.most == SERVER


def test_a_slow_server_does_not_hold_up_calls_of_another(alice: Person, model: ModelServer) -> None:
    slow, quick = Slow(), Slow()
    with (
        running(slow.server(modern=True).streamable_http_app(), grace=0) as one,
        running(quick.server(modern=True).streamable_http_app(), grace=0) as other,
    ):
        alice.connect(servers=[{"url": f"{one}/mcp", "alias": "s"}, {"url": f"{other}/mcp", "alias": "q"}])
        calls: list[tuple[str, Any]] = [("s__work", {"seconds": 30})] * 6 + [("q__work", {"seconds": 0})]
        model.will(Reply(calls=calls, call_ids=list("abcdefg")), Reply(text="I see."))
        with alice.streaming("go") as frames:
            ended = next(data["id"] for event, data in frames if event in ("tool_end", "tool_error"))
            assert ended == "g"
            alice.post("cancel")


# The time itself


@pytest.mark.anyio
async def test_while_a_person_is_asked_no_time_passes() -> None:
    patience = Patience(0.2, 0.3)
    with patience.limited():
        with patience.resting():
            await anyio.sleep(0.25)
            with patience.resting():
                patience.prolong()
                await anyio.sleep(0.25)
        await anyio.sleep(0.1)
    assert patience.sentence.startswith("The tool did not answer within 0.2 seconds")


@pytest.mark.anyio
async def test_after_a_rest_the_time_goes_on() -> None:
    patience = Patience(0.2, 0.3)

    async def wait() -> None:
        with patience.limited():
            with patience.resting():
                await anyio.sleep(0.1)
            await anyio.sleep(30)

    with within(10), pytest.raises(TimeoutError):
        await wait()


@pytest.mark.anyio
async def test_a_sign_of_progress_that_comes_too_late_changes_nothing() -> None:
    patience, ended = Patience(0.1, 60.0), anyio.Event()

    async def wait() -> None:
        with patience.limited():
            try:
                await anyio.sleep(30)
            finally:
                ended.set()
                patience.prolong()

    with within(10), pytest.raises(TimeoutError):
        await wait()
    assert ended.is_set()


@pytest.mark.anyio
async def test_a_report_of_progress_is_handed_on_and_prolongs() -> None:
    heard: list[float] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(progress)

    patience = Patience(2.0, 4.0)
    began = anyio.current_time()
    report = patience.hearing(hear)

    async def tell() -> None:
        with patience.limited():
            while True:
                await report(len(heard), None, None)
                await anyio.sleep(0.05)

    with pytest.raises(TimeoutError):
        await tell()
    assert 3.9 < anyio.current_time() - began < 34
    assert len(heard) > 4
    assert "4 seconds" in patience.sentence
