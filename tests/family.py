"""gunicorn with the toy application of toy_family.py, in processes of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil

from tests.running import wait_until

TESTS = Path(__file__).parent


class Family:
    """A master and its workers, in a `with` block.

    Args:
        directory: Where it runs; its temporary files are in `tmp` below.
        workers: How many.
        options: More of gunicorn's.
        env: More environment variables.
    """

    def __init__(self, directory: Path, *options: str, workers: int = 2, **env: str) -> None:
        self.journal = directory / "journal"
        self.errors = directory / "errors"
        self.tmp = directory / "tmp"
        self.tmp.mkdir()
        self._workers = workers
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        config = str(TESTS.parent / "config" / "gunicorn.py")
        environ = {"PYTHONPATH": str(TESTS), "TOY_JOURNAL": str(self.journal), "TMPDIR": str(self.tmp)}
        environ |= {"MCP_CHAT_PORT": str(port), "GUNICORN_WORKERS": str(workers)}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("gunicorn")),
                    "-c",
                    config,
                    *options,
                    "toy_family:create_app()",
                ],
                env={**os.environ, **environ, **env},
                cwd=directory,
                stderr=errors,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        try:
            wait_until(lambda: len(self.up()) == self._workers, "the workers start")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def lines(self, word: str) -> Iterator[tuple[float, str, list[str]]]:
        """The notes of a kind: when, who, and what."""
        for line in self.journal.read_text().splitlines() if self.journal.exists() else ():
            when, who, what, *more = line.split()
            if what == word:
                yield float(when), who, more

    def up(self) -> dict[str, int]:
        """The workers that ever started, by name: their process ids."""
        return {who: int(more[0]) for _, who, more in self.lines("up")}

    def heard(self) -> dict[str, str]:
        """Of whose end somebody has heard, and who."""
        return {more[0]: who for _, who, more in self.lines("heard")}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it in order; return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def kill(self) -> None:
        """`kill -9` of everything."""
        members: list[Any] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            members = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(10)
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that takes moments on an idle machine."""
    return wait_until(condition, what)
