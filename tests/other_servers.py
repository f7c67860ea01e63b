"""MCP servers of other people, as an operator defines them and as a user reaches them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import need
from tests.packages import node, script
from tests.running import wait_until


@contextlib.contextmanager
def running_everything(transport: str, log: Path) -> Iterator[int]:
    """Run `server-everything`; give its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(node()), str(script("server-everything")), transport],
            env={**os.environ, "PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:

        def accepts() -> bool:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        wait_until(accepts, "server-everything listens", seconds=40)
        yield port
    finally:
        process.kill()
        process.wait(10)


def commands(place: Path) -> dict[str, Any]:
    """Return servers that are commands, and what they work on below a folder.

    Args:
        place: Gets a folder of files, a repository and a memory.
    """
    files, repository = place / "files", place / "repository"
    files.mkdir()
    (files / "hello.txt").write_text("Hello from a file.\n")
    git = [need("git"), "-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    subprocess.run([*git, "init", "--quiet", str(repository)], check=True)
    commit = ["commit", "--quiet", "--allow-empty", "--message", "Begin at the beginning"]
    subprocess.run([*git, "-C", str(repository), *commit], check=True)
    return {
        "time": {"command": sys.executable, "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"]},
        "git": {"command": sys.executable, "args": ["-m", "mcp_server_git", "-r", str(repository)]},
        "files": _node("server-filesystem", str(files)),
        "memory": _node("server-memory") | {"env": {"MEMORY_FILE_PATH": str(place / "memory.jsonl")}},
        "all": _node("server-everything", "stdio"),
    }


def _node(name: str, *args: str) -> dict[str, Any]:
    return {"command": str(node()), "args": [str(script(name)), *args]}
