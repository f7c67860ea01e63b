"""Plugins in processes of their own that are silent, fail, die and come back: the others go on."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml
from structlog.testing import CapturingLogger

from mcp_chat.exceptions import BlockedByPlugin, SettingsError
from mcp_chat.metrics import Metrics
from mcp_chat.plugins.base import Occasion
from mcp_chat.plugins.bridge import Bridge, opened
from mcp_chat.plugins.remote import given
from tests.far_plugin import HOOK, listening
from tests.plugged import need_packages, written
from tests.running import running

pytestmark = pytest.mark.slow

need_packages("cpex")

NATIVE = {"name": "native", "kind": "tests.plugins_bridge.Probe", "hooks": ["agent_pre_invoke"]}
ROOT = str(Path(__file__).parents[1])


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"away.EVERY": 0.05, "remote.GREETING": 20, "remote.STARTING": 60.0}.items():
        monkeypatch.setattr(f"mcp_chat.plugins.{name}", seconds)
    monkeypatch.setattr("mcp.client.stdio.PROCESS_TERMINATION_TIMEOUT", 0.1)


@pytest.fixture
def hasty(_short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who says nothing is waited for no longer than a while."""
    monkeypatch.setattr("mcp_chat.plugins.remote.GREETING", 3)


@pytest.fixture
def port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
    return number


def far(port: int, **more: Any) -> dict[str, Any]:
    """Configure a plugin at a port of this machine."""
    at = {"proto": "STREAMABLEHTTP", "url": f"http://localhost:{port}/mcp"}
    return {"name": "far", "kind": "external", "hooks": [HOOK], "mcp": at, **more}


def command(*words: str, **more: Any) -> dict[str, Any]:
    """Configure a plugin that is a command."""
    return {**far(0, **more), "mcp": {"proto": "STDIO", "cmd": list(words), "env": {"PYTHONPATH": ROOT}}}


@asynccontextmanager
async def taking(port: int, silent: bool = False) -> AsyncIterator[list[int]]:
    """Take connections and close them, or say nothing; gives one element for each."""
    taken: list[int] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(1)
        while silent and await reader.read(999):  # until it is closed from there
            pass
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", port)
    try:
        yield taken
    finally:
        server.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - the far side tells nobody
            await anyio.sleep(0.02)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test that has an end, and leaves nothing running."""

    async def bounded() -> None:
        with anyio.fail_after(100):
            await test()
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    anyio.run(bounded)


def loaded(tmp_path: Path, *plugins: Any) -> Any:
    """Load plugins."""
    return opened(written(tmp_path, *plugins)["plugins_config_file"], Metrics())


def is_away(bridge: Bridge) -> bool:
    """Whether the plugin that is far is not there."""
    return next(each.away for each in bridge.described() if each.name == "far")


async def asked(bridge: Bridge, hook: str = HOOK) -> bool:
    """Ask plugins; return whether they let it through."""
    fields: dict[str, Any] = {"name": "echo", "args": {}}
    if hook == "agent_pre_invoke":
        fields = {"agent_id": "mcp-chat", "messages": []}
    try:
        await bridge.ask(hook, fields, Occasion(request_id="one"))
    except BlockedByPlugin:
        return False
    return True


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("silent", [False, True], ids=["closes", "silent"])
def test_one_that_takes_connections_and_no_more_keeps_no_worker_from_starting(
    tmp_path: Path, port: int, silent: bool
) -> None:
    async def test() -> None:
        async with taking(port, silent), loaded(tmp_path, NATIVE, far(port)) as bridge:
            assert is_away(bridge)
            assert await asked(bridge, "agent_pre_invoke")
            assert not await asked(bridge)

    run(test)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("silent", [False, True], ids=["closes", "silent"])
def test_one_that_takes_connections_and_no_more_takes_no_other_plugin_with_it(
    tmp_path: Path, port: int, silent: bool
) -> None:
    async def test() -> None:
        async with loaded(tmp_path, NATIVE, far(port)) as bridge, taking(port, silent) as taken:
            await until(lambda: len(taken) > 4)  # several attempts: the worker goes on with them
            assert not bridge._keeping.done()
            assert await asked(bridge, "agent_pre_invoke")
            assert not await asked(bridge)

    run(test)


@pytest.mark.parametrize("deaf", [False, True], ids=["waits", "deaf"])
def test_a_command_that_says_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    monkeypatch.setattr("mcp.client.stdio.FORCE_KILL_TIMEOUT", 0.1)
    monkeypatch.setattr("mcp_chat.plugins.remote.STARTING", 0.5)
    told = tmp_path / "pids"

    def pids() -> list[int]:
        return [int(each) for each in told.read_text().split()] if told.exists() else []

    async def test() -> None:
        wait = "while :; do sleep 1; done" if deaf else "exec sleep 60"
        silent = command("sh", "-c", f"{'trap : TERM;' if deaf else ''} echo $$ >> {told}; {wait}")
        async with loaded(tmp_path, NATIVE, silent) as bridge:
            assert is_away(bridge)
            assert await asked(bridge, "agent_pre_invoke")
            await until(lambda: len(pids()) > 2)  # it is tried again, and ended again
        assert not any(map(alive, pids()))

    run(test)


@pytest.mark.parametrize("on_error", ["disable", "fail"])
def test_one_that_comes_is_asked_whatever_it_was_before(tmp_path: Path, port: int, on_error: str) -> None:
    heard: list[str] = []

    async def test() -> None:
        async with loaded(tmp_path, far(port, on_error=on_error)) as bridge:
            assert await asked(bridge) is (on_error == "disable")
            with running(listening(heard).streamable_http_app(), port=port, grace=0):
                await until(lambda: not is_away(bridge))
                assert await asked(bridge)
                assert heard == [HOOK]

    run(test)


def test_one_that_goes_and_comes_back_takes_nothing_with_it(tmp_path: Path, port: int) -> None:
    heard: list[str] = []

    def serving() -> Any:
        return running(listening(heard).streamable_http_app(), port=port, grace=0)

    async def test() -> None:
        async with AsyncExitStack() as stack:
            with serving():
                bridge = await stack.enter_async_context(loaded(tmp_path, NATIVE, far(port)))
                assert await asked(bridge)
            assert not await asked(bridge)
            assert await asked(bridge, "agent_pre_invoke")
            with serving():
                while not await asked(bridge):  # noqa: ASYNC110 - it is reached for meanwhile
                    await anyio.sleep(0.05)
        assert heard == [HOOK] * 2

    run(test)


def test_a_command_that_dies_and_cannot_be_started_is_started_when_it_can(tmp_path: Path) -> None:
    told, server = tmp_path / "pid", tmp_path / "server.py"
    code = (
        "import os, pathlib\n"
        "from tests.far_plugin import listening\n"
        f"pathlib.Path({str(told)!r}).write_text(str(os.getpid()))\n"
        "listening([]).run('stdio')\n"
    )
    server.write_text(code)
    shell = tmp_path / "plugin"
    shell.write_text(f"#!/bin/sh\nexec {sys.executable} {server}\n")
    shell.chmod(0o755)

    async def test() -> None:
        async with loaded(tmp_path, command(str(shell))) as bridge:
            assert await asked(bridge)
            away = shell.rename(tmp_path / "nothing")
            os.kill(int(told.read_text()), signal.SIGKILL)
            assert not await asked(bridge)
            assert is_away(bridge)
            away.rename(shell)
            await until(lambda: not is_away(bridge))
            assert await asked(bridge)
        assert not alive(int(told.read_text()))

    run(test)


def test_a_command_is_given_what_is_its_business() -> None:
    environment = {"PATH": "/bin", "PORT": "1", "CUDA_VISIBLE_DEVICES": "0", "OPENAI_API_KEY": "hush"}
    environment |= {"https_proxy": "http://proxy:1", "HTTP_PROXY": "http://me:hush@proxy:1", "LC_ALL": "C"}
    environment |= {"NODE_EXTRA_CA_CERTS": "/ca", "CURL_CA_BUNDLE": "/ca", "PLUGINS_X_PASSWORD": "hush"}
    assert set(given(environment)) == {
        "PATH",
        "https_proxy",
        "LC_ALL",
        "NODE_EXTRA_CA_CERTS",
        "CURL_CA_BUNDLE",
    }


def test_the_log_says_why_one_is_not_there(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = CapturingLogger()
    monkeypatch.setattr("mcp_chat.plugins.away.log", logged)

    async def test() -> None:
        async with loaded(tmp_path, far(port)):
            pass

    run(test)
    [line] = logged.calls
    assert (line.args, line.kwargs) == (("plugin.away",), {"plugin": "far", "reason": "nobody listens"})


def test_a_transport_that_nothing_is_asked_over_keeps_the_worker_from_starting(
    tmp_path: Path, port: int
) -> None:
    plugin = far(port)
    plugin["mcp"]["proto"] = "SSE"
    path = tmp_path / "plugins.yaml"
    path.write_text(yaml.safe_dump({"plugins": [plugin]}))

    async def test() -> None:
        with pytest.raises(SettingsError):
            async with opened(path, Metrics()):
                pass

    run(test)
