"""The product as an operator runs it: `mcp-chat serve`, the workers and everything else it starts."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import psutil
from redis import Redis

from tests.person import Person
from tests.running import wait_until

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 45.0  # above what `serve` itself gives the workers to drain
OURS: Final = ("MCP_CHAT_", "GUNICORN_", "REDIS_", "DATABASE_", "JWT_", "LLMCHAT_", "WORKER_", "FORWARDED_")


class Installation:
    """A real `mcp-chat serve` with the scripted model, in a `with` block.

    It has a process group of its own, as a job in a terminal has. At the end it gets what Ctrl-C sends,
    and nothing that it ever started may be left.

    Args:
        directory: Where it runs; its data are in `data` below. A second one there finds them again.
        model_url: The scripted model server.
        workers: gunicorn's workers.
        servers: The operator's MCP servers, as `mcpServers` lists them.
        env: More environment variables.
    """

    def __init__(
        self,
        directory: Path,
        model_url: str,
        *,
        workers: int = 2,
        servers: Mapping[str, Any] | None = None,
        **env: str,
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.output = directory / "stdout"
        self.errors = directory / "stderr"
        self.url = ""
        models, listed = directory / "models.yaml", directory / "servers.json"
        prices = "{input: 2, output: 10, cached_input: 0.5}"
        models.write_text(
            f"models:\n  - model: openai:scripted\n    base_url: {model_url}\n    prices: {prices}\n"
        )
        listed.write_text(json.dumps({"mcpServers": dict(servers or {})}))
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {
            "MCP_CHAT_PORT": "0",
            "MCP_CHAT_DATA_DIR": str(self.data),
            "MCP_CHAT_MODELS_FILE": str(models),
            "MCP_CHAT_SERVERS_FILE": str(listed),
            "OLLAMA_BASE_URL": "off",
            "MCP_CHAT_APPROVALS": "off",  # where nothing else is said, nobody is asked
            "MCP_CHAT_REQUESTS_PER_MINUTE": "1000000",  # counted, and never too many
            "GUNICORN_WORKERS": str(workers),
            **env,
        }
        self._model_port = urlsplit(model_url).port
        self._count = workers
        self._seen: set[psutil.Process] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process.poll() is None:
                assert self.interrupt() == 0, self.errors.read_text()
            wait_until(lambda: not self.left(), f"{self.left()} end", seconds=STOP_SECONDS)
        finally:
            self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """`mcp-chat serve` itself."""
        assert self._process is not None, "it was started"
        return self._process

    def family(self) -> list[psutil.Process]:
        """Everything that runs because of it: itself, and whatever it started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            serve = psutil.Process(self.process.pid)
            self._seen |= {serve, *serve.children(recursive=True)}
        return [process for process in self._seen if alive(process)]

    def left(self) -> list[str]:
        """What is still there of everything that it ever started, and what has its directory open."""
        return [
            f"{process.pid} {' '.join(process.cmdline())}"
            for process in {*self.family(), *_processes_of(self.directory)}
        ]

    def master(self) -> psutil.Process:
        """gunicorn's master."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "gunicorn" in " ".join(child.cmdline()))

    def workers(self) -> list[psutil.Process]:
        """The workers that live, the oldest first."""
        self.family()
        with contextlib.suppress(psutil.NoSuchProcess):  # one may be gone between the two looks
            children = filter(alive, self.master().children())
            return sorted(children, key=lambda child: (child.create_time(), child.pid))
        return self.workers()

    def worker_of(self, person: Person) -> psutil.Process:
        """The worker at the other end of a person's connection."""
        port = self.port_of(person)
        held = [worker for worker in self.workers() if self.has_connection(worker, port)]
        assert len(held) == 1, "one worker has accepted the connection"
        return held[0]

    def port_of(self, person: Person) -> int:
        """The person's end of their connection."""
        stream = person.http.get("/livez").extensions["network_stream"]
        port: int = stream.get_extra_info("client_addr")[1]
        return port

    def has_connection(self, worker: psutil.Process, port: int) -> bool:
        """Whether a worker holds the connection with a person's end."""
        return port in _ends(worker)

    def person(self, name: str, worker: psutil.Process | None = None) -> Person:
        """Someone on a connection of their own, if so wished to this worker."""

        def come() -> Person | None:
            person = Person(self.url, name)
            if worker is None or self.worker_of(person) == worker:
                return person
            person.http.close()
            return None

        found: Person = wait_until(come, "a connection to the worker")
        return found

    def talking_to_the_model(self) -> list[psutil.Process]:
        """The workers that wait for the model's answer: those that run a turn."""
        return [worker for worker in self.workers() if self._model_port in _ends(worker)]

    def redis(self) -> Redis:
        """A client of its embedded Valkey."""
        return Redis(unix_socket_path=str(self.data / "valkey.sock"), decode_responses=True)

    def interrupt(self) -> int:
        """Do what Ctrl-C does; return the exit code."""
        self.family()
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """`kill -9` of every process."""
        if self._process is not None:
            for process in self.family():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait(10)
            wait_until(lambda: not self.family(), "the killed are gone")

    def _start(self) -> None:
        self.output.unlink(missing_ok=True)
        with self.output.open("wb") as output, self.errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).with_name("mcp-chat")), "serve"],
                env=self._env,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        ready = wait_until(
            lambda: self._greeting() or (self._process and self._process.poll() is not None),
            "mcp-chat serve is ready",
            seconds=START_SECONDS,
        )
        assert isinstance(ready, str), self.errors.read_text()
        self.url = ready
        wait_until(lambda: len(self.workers()) == self._count, f"{self._count} workers")

    def _greeting(self) -> str | None:
        found = re.search(r"mcp-chat is ready: (\S+)\n", self.output.read_text())
        return found[1] if found else None


def alive(process: psutil.Process) -> bool:
    """Whether it runs; in a container without an init the dead may stay listed."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ends(process: psutil.Process) -> set[int | None]:
    """The ports at the other ends of a process's connections."""
    found = process.net_connections("tcp")
    return {getattr(c.raddr, "port", None) for c in found if c.status == psutil.CONN_ESTABLISHED}


def _processes_of(directory: Path) -> list[psutil.Process]:
    """Processes that run in a directory or name it: also those whose parents are gone."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.cwd() == str(directory) or str(directory) in " ".join(process.cmdline()):
                found.append(process)
    return [process for process in found if process.pid != os.getpid() and alive(process)]
