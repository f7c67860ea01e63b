"""The demo server as the process it is, reached by real clients."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, ElicitRequestFormParams, ElicitRequestParams, ElicitResult, TextContent

from mcp_chat.demo import server as demo
from mcp_chat.demo.server import MAX_ITEMS, TodoList

pytestmark = pytest.mark.slow


class Demo:
    """The server in a process of its own."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mcp_chat.demo.server", "--port", str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()  # returns when it is ready, or gone

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code and all it said after the first line."""
        self.process.send_signal(sig)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out + err


@pytest.fixture
def running() -> Iterator[Demo]:
    server = Demo()
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.process.kill()
        server.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """One server for the tests that leave it as it is."""
    server = Demo()
    yield server.url
    code, said = server.stop()
    assert code == 0
    assert "Traceback" not in said


def text_of(result: CallToolResult) -> str:
    assert all(isinstance(part, TextContent) for part in result.content)
    return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def test_each_connection_has_its_own_todo_list(url: str) -> None:
    async def story() -> None:
        async with Client(url) as ann, Client(url) as bob:
            await ann.call_tool("todo_add", {"item": "buy  milk"})
            await bob.call_tool("todo_add", {"item": "feed the cat"})
            await ann.call_tool("todo_add", {"item": "call mum"})
            await ann.call_tool("todo_done", {"number": 1})
            assert text_of(await ann.call_tool("todo_list")) == "1. [x] buy milk\n2. [ ] call mum"
            assert text_of(await bob.call_tool("todo_list")) == "1. [ ] feed the cat"
            assert text_of(await ann.call_tool("todo_clear")) == "Removed 2 items."
            assert text_of(await ann.call_tool("todo_list")) == "The list is empty."
            assert text_of(await bob.call_tool("todo_list")) == "1. [ ] feed the cat"
        async with Client(url) as ann:
            assert text_of(await ann.call_tool("todo_list")) == "The list is empty."

    asyncio.run(story())


def test_a_client_that_prefers_the_sessionless_revision_falls_back_to_the_handshake(url: str) -> None:
    async def story() -> None:
        async with Client(url, mode="auto") as client:
            assert client.session.protocol_version == "2025-11-25"
            # Who leaves before the server has read this hello's end has the SDK log a traceback.
            assert text_of(await client.call_tool("todo_list")) == "The list is empty."

    asyncio.run(story())


def test_a_client_that_insists_on_the_sessionless_revision_is_told_why_not(url: str) -> None:
    async def story() -> MCPError:
        async with Client(url, mode="2026-07-28") as client:
            try:
                await client.call_tool("todo_list")
            except MCPError as error:
                return error
        raise AssertionError("the call was answered")

    error = asyncio.run(story())
    assert error.message == "This server needs a session"
    assert error.data["requested"] == "2026-07-28"
    assert "2025-11-25" in error.data["supported"]


def test_one_connection_serves_calls_from_several_tasks(url: str) -> None:
    async def story() -> None:
        async with Client(url) as client:
            sums = await asyncio.gather(*(client.call_tool("add", {"a": n, "b": 1}) for n in range(20)))
            assert [text_of(result) for result in sums] == [str(n + 1) for n in range(20)]
            await asyncio.gather(*(client.call_tool("todo_add", {"item": f"item {n}"}) for n in range(20)))
            assert len(text_of(await client.call_tool("todo_list")).splitlines()) == 20

    asyncio.run(story())


def test_slow_count_reports_each_step(url: str) -> None:
    async def story() -> None:
        steps: list[tuple[float, float | None, str | None]] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            steps.append((progress, total, message))

        async with Client(url) as client:
            result = await client.call_tool("slow_count", {"steps": 3, "pause": 0}, progress_callback=note)
        assert text_of(result) == "Counted to 3."
        assert steps == [(1, 3, "Step 1 of 3"), (2, 3, "Step 2 of 3"), (3, 3, "Step 3 of 3")]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            ElicitResult(action="accept", content={"day": "2026-05-03", "people": 4, "outside": True}),
            "A table for 4 outside on 2026-05-03, or it would be if this were no demo.",
        ),
        (ElicitResult(action="decline"), "No table was booked."),
        (ElicitResult(action="cancel"), "No table was booked."),
    ],
)
def test_book_table_asks_for_what_it_needs(url: str, answer: ElicitResult, says: str) -> None:
    forms: list[dict[str, Any]] = []

    async def story() -> None:
        async def respond(context: Any, params: ElicitRequestParams) -> ElicitResult:
            assert isinstance(params, ElicitRequestFormParams)
            forms.append(params.requested_schema)
            return answer

        async with Client(url, elicitation_callback=respond) as client:
            assert text_of(await client.call_tool("book_table")) == says

    asyncio.run(story())
    assert forms[0]["required"] == ["day"]
    assert forms[0]["properties"]["day"] == {"title": "Day", "type": "string", "format": "date"}


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("divide", {"a": 1, "b": 0}, "1 cannot be divided by zero."),
        ("multiply", {"a": 1e300, "b": 1e300}, "The result is too large."),
        ("get_current_time", {"timezone": "Mars/Olympus"}, "'Mars/Olympus' is not a time zone."),
        ("get_current_time", {"timezone": "Europe"}, "'Europe' is not a time zone."),
        ("get_current_time", {"timezone": "../etc/passwd"}, "is not a time zone."),
        ("todo_done", {"number": 1}, "There is no item 1: the list has 0."),
        ("todo_add", {"item": "x" * 201}, "200"),
        ("todo_add", {"item": "  "}, "An item needs some text."),
        ("always_fails", {"reason": "because I say so"}, "because I say so"),
        ("always_fails", {}, "This tool always fails."),
        ("slow_count", {"steps": 1_000}, "60"),
        ("add", {"a": "two", "b": 3}, "number"),
    ],
)
def test_a_failure_is_a_result_that_says_what_is_wrong(
    url: str, tool: str, arguments: dict[str, object], says: str
) -> None:
    async def story() -> None:
        async with Client(url) as client:
            result = await client.call_tool(tool, arguments)
        assert result.is_error
        assert says in text_of(result)

    asyncio.run(story())


def test_tools_answer_as_their_descriptions_say(url: str) -> None:
    async def story() -> None:
        async with Client(url) as client:

            async def call(tool: str, **arguments: object) -> str:
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, result
                return text_of(result)

            assert await call("add", a=0.1, b=0.2) == "0.3"
            assert await call("subtract", a=10, b=3) == "7"
            assert await call("multiply", a=6, b=7) == "42"
            assert await call("divide", a=1, b=4) == "0.25"
            assert await call("echo", text="Grüße\n世界") == "Grüße\n世界"
            assert (await call("get_current_time")).endswith("UTC (UTC+0000)")
            assert "Asia/Tokyo (UTC+0900)" in await call("get_current_time", timezone="Asia/Tokyo")
            assert int(await call("roll_dice")) in range(1, 7)
            rolls, total = (await call("roll_dice", count=3, sides=2)).split(" = ")
            assert sum(map(int, rolls.split(" + "))) == int(total)

    asyncio.run(story())


def test_every_tool_is_described_and_annotated(url: str) -> None:
    async def story() -> None:
        async with Client(url) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {tool.__name__ for tool, _, _ in demo.TOOLS}
        for tool in tools.values():
            assert tool.title
            assert tool.description
            assert tool.annotations is not None
            assert all("description" in schema for schema in tool.input_schema["properties"].values())
        changing = {name for name, t in tools.items() if t.annotations and not t.annotations.read_only_hint}
        assert changing == {"todo_add", "todo_done", "todo_clear"}

    asyncio.run(story())


def test_a_foreign_host_or_origin_is_refused(url: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert httpx.post(url, json=body, headers={"Host": "evil.example:80"}).status_code == 421
    assert httpx.post(url, json=body, headers={"Origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_it_says_one_line_and_stops_clean_with_a_call_in_progress(running: Demo, sig: signal.Signals) -> None:
    assert running.first_line == f"Demo MCP server at {running.url}\n"

    async def story() -> tuple[int, str]:
        counting = asyncio.Event()

        async def note(progress: float, total: float | None, message: str | None) -> None:
            counting.set()

        async def count() -> None:
            with suppress(Exception):
                async with Client(running.url) as client:
                    await client.call_tool("slow_count", {"steps": 60, "pause": 0.1}, progress_callback=note)

        counter = asyncio.create_task(count())
        await asyncio.wait_for(counting.wait(), 20)
        stopped = await asyncio.to_thread(running.stop, sig)
        counter.cancel()
        with suppress(asyncio.CancelledError):
            await counter
        return stopped

    assert asyncio.run(story()) == (0, "")


def test_a_list_has_an_end() -> None:
    todos = TodoList()
    for number in range(MAX_ITEMS):
        todos.add(str(number))
    with pytest.raises(ToolError, match="holds 100 items"):
        todos.add("one more")
