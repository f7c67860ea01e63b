"""Servers that are commands: a process for each user, with little of ours, and nothing left of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp import Client, MCPError

from mcp_chat.command import Commands, TooManyCommands
from mcp_chat.config import ServerConfig
from mcp_chat.dialer import Dialer
from mcp_chat.exceptions import InvalidRequest, ServerUnavailable
from mcp_chat.limits import ServerLimits
from mcp_chat.netguard import Policy
from tests.installation import alive
from tests.person import Person
from tests.running import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

SERVER = Path(__file__).with_name("command_server.py")
LIMITS = ServerLimits(answer_bytes=100_000)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def command(*args: str, **more: Any) -> ServerConfig:
    """An operator's server that is the command of these tests."""
    arguments = (str(SERVER), *args)
    return ServerConfig(
        alias="c", transport="stdio", command=sys.executable, args=arguments, operator=True, **more
    )


@asynccontextmanager
async def opened(server: ServerConfig, commands: Commands | None = None) -> AsyncIterator[Client]:
    dialer = Dialer(Policy(), timeout=20, silence=20, limits=LIMITS, commands=commands)
    with anyio.fail_after(60):
        async with dialer(server) as client:
            yield client


async def told(client: Client, tool: str) -> Any:
    """What the command says of itself."""
    result = await client.call_tool(tool, {})
    (content,) = result.content
    return json.loads(content.text)  # type: ignore[union-attr]


async def until_dead(*processes: int) -> None:
    def living() -> list[int]:
        found = []
        for pid in processes:
            with suppress(psutil.NoSuchProcess):
                if alive(psutil.Process(pid)):
                    found.append(pid)
        return found

    with anyio.fail_after(15):
        while living():  # noqa: ASYNC110 - the dead tell nobody
            await anyio.sleep(0.01)


async def test_a_command_has_little_of_ours_and_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JWT_SECRET_KEY", "OPENAI_API_KEY", "MCP_CHAT_ENCRYPTION_KEY"):
        monkeypatch.setenv(name, "CANARY")
    async with opened(command(env={"KEY": "value"})) as client:
        found = await told(client, "self")
        assert found["env"]["KEY"] == "value"
        assert "CANARY" not in json.dumps(found)
        assert set(found["env"]) - {"KEY", "LC_CTYPE", "__CF_USER_TEXT_ENCODING"} <= {
            *("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
        }
        assert os.listdir(found["cwd"]) == []
        assert Path(found["cwd"]) != Path.cwd()
    assert not Path(found["cwd"]).exists()  # noqa: ASYNC240 - it is a test


async def test_it_runs_where_the_operator_says(tmp_path: Path) -> None:
    async with opened(command(cwd=str(tmp_path))) as client:
        assert (await told(client, "self"))["cwd"] == str(tmp_path)
    assert tmp_path.exists()  # noqa: ASYNC240 - it is a test


@pytest.mark.parametrize("manner", ["ends", "stays", "deaf"])
async def test_it_ends_with_its_connection_and_so_do_its_children(manner: str) -> None:
    async with opened(command("--manner", manner)) as client:
        found = await told(client, "self")
        child = await told(client, "child")
        began = time.monotonic()
    assert time.monotonic() - began < 10
    await until_dead(found["pid"], child["pid"])


async def test_it_ends_when_its_user_is_cut_off() -> None:
    async with anyio.create_task_group() as tasks:
        found: list[int] = []
        ready = anyio.Event()

        async def hold() -> None:
            async with opened(command("--manner", "deaf")) as client:
                found.append((await told(client, "self"))["pid"])
                ready.set()
                await anyio.sleep_forever()

        tasks.start_soon(hold)
        await ready.wait()
        tasks.cancel_scope.cancel()
    await until_dead(*found)


@pytest.mark.parametrize("tool", ["long-line", "endless-line"])
async def test_a_line_without_end_is_not_kept(tool: str) -> None:
    async with opened(command()) as client:
        with pytest.raises(MCPError), anyio.fail_after(10):
            await client.call_tool(tool, {}, read_timeout_seconds=2)


def open_pipes() -> int:
    """Count what this process may hold of a command: pipes, or the sockets that uvloop has instead."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{each}").startswith(("pipe:", "socket:"))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": each}) for each in (False, True)])
async def test_nothing_of_its_pipes_is_left_though_it_said_more_than_was_read() -> None:
    before = open_pipes()
    async with opened(command()) as client:
        with pytest.raises(MCPError), anyio.fail_after(10):
            await client.call_tool("endless-line", {}, read_timeout_seconds=2)
        assert open_pipes() > before
    assert open_pipes() == before


async def test_what_is_no_message_is_passed_over() -> None:
    async with opened(command("--manner", "chatty")) as client:
        assert (await told(client, "self"))["pid"]


async def test_there_is_an_end_to_the_commands_of_a_worker() -> None:
    commands = Commands(2)
    async with opened(command(), commands), opened(command(), commands):
        with pytest.raises(BaseException) as refused:  # noqa: PT011 - in a group or not
            async with opened(command(), commands):
                pass
    assert _inside(refused.value, TooManyCommands)
    async with opened(command(), commands) as client:
        assert await told(client, "self")
    assert commands.running == 0


async def test_what_cannot_be_started_leaves_its_place() -> None:
    commands = Commands(1)
    for _ in range(2):
        nothing = ServerConfig(alias="c", transport="stdio", command="/nowhere/at-all", operator=True)
        with pytest.raises(BaseException) as refused:  # noqa: PT011 - in a group or not
            async with opened(nothing, commands):
                pass
        assert str(_inside(refused.value, ServerUnavailable)) == (
            "The server c cannot be started. Ask the operator."
        )
    assert commands.running == 0


async def test_a_user_starts_no_command() -> None:
    with pytest.raises(BaseException) as refused:  # noqa: PT011 - in a group or not
        async with opened(ServerConfig(alias="c", transport="stdio", command=sys.executable)):
            pass
    assert _inside(refused.value, InvalidRequest)


def _inside(error: BaseException, kind: type[Exception]) -> Exception | None:
    if isinstance(error, kind):
        return error
    inner = getattr(error, "exceptions", ())
    return next((found for each in inner if (found := _inside(each, kind))), None)


def test_each_user_has_a_process_of_their_own(serve: Callable[..., str], tmp_path: Path) -> None:
    servers = tmp_path / "commands.json"
    entry = {
        "command": sys.executable,
        "args": [str(SERVER), "--owner=${user.id}"],
        "env": {"OWNER": "${user.id}"},
    }
    servers.write_text(json.dumps({"mcpServers": {"c": entry}}))
    url = serve(servers_file=servers, connect_timeout=40)

    def started() -> dict[str, psutil.Process]:
        found = {}
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if str(SERVER) in process.cmdline():
                    found[process.environ()["OWNER"]] = process
        return found

    with Person(url, "ann") as ann, Person(url, "bob") as bob:
        for person in (ann, bob):
            person.connect(server={"name": "c"})
        processes = started()
        assert set(processes) == {"ann", "bob"}
        for name, process in processes.items():
            assert f"--owner={name}" in process.cmdline()
        shown = ann.get("config/{me}").text
        assert "owner" not in shown
        assert sys.executable not in shown
        ann.post("disconnect").raise_for_status()
        wait_until(lambda: set(started()) == {"bob"}, "the one has ended")
        bob.post("disconnect").raise_for_status()
        wait_until(lambda: not started(), "the other, too")


@pytest.mark.parametrize("name", ["-rf", "../bob", "a/b", "a\\b"])
def test_a_name_that_would_be_another_argument_or_path_is_refused(
    serve: Callable[..., str], tmp_path: Path, name: str
) -> None:
    servers = tmp_path / "commands.json"
    entry = {"command": sys.executable, "args": [str(SERVER), "/data/${user.id}"]}
    servers.write_text(json.dumps({"mcpServers": {"c": entry}}))
    with Person(serve(servers_file=servers), name) as person:
        answer = person.post("connect", llm={"model": "openai:scripted"}, server={"name": "c"})
    assert answer.status_code == 400
    assert "your name has characters that the server c cannot be given" in answer.json()["detail"]
