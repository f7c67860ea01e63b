"""An MCP server that is a command of the operator's: a process for each user, and nothing left of it.

The SDK's own transport keeps a line in memory however long it is, and leaves children of a command alone
whose parent has ended in time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Final, cast

import anyio
import mcp_types as mcp
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage

from mcp_chat.answers import AnswerTooLarge
from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import InvalidRequest, ServerUnavailable

INHERITED: Final = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
"""Variables that a command gets of ours: none of them is a secret."""

END_SECONDS, KILL_SECONDS = 1.0, 0.5
"""What a command gets to end when it hears no more, and when it is told to."""

_POLL = 0.01


class TooManyCommands(ServerUnavailable):
    """Too many servers of this kind run here. Try again later, or ask the operator for more."""

    code = "too_many_commands"


@dataclass(slots=True)
class Commands:
    """The places of a worker for commands: each is a process with memory of its own.

    Args:
        most: Processes at a time.
        environ: What they may have variables of.
    """

    most: int
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    running: int = 0

    @asynccontextmanager
    async def run(self, server: ServerConfig, *, max_line: int) -> AsyncIterator[TransportStreams]:
        """Run a server's command; it ends with the block, and so do its children.

        Args:
            server: The operator's.
            max_line: Bytes of one message.

        Raises:
            InvalidRequest: The server is not the operator's.
            TooManyCommands: There is no place.
            ServerUnavailable: The command cannot be started.
        """
        if not (server.operator and server.command):
            raise InvalidRequest(
                "Invalid configuration: only the operator can define a server that is a command."
            )
        if self.running >= self.most:
            raise TooManyCommands
        self.running += 1
        try:
            with TemporaryDirectory(prefix="mcp-chat-", ignore_cleanup_errors=True) as folder:
                process = await _started(server, self._environment(server), folder)
                async with _conversing(process, max_line) as streams:
                    yield streams
        finally:
            self.running -= 1

    def _environment(self, server: ServerConfig) -> dict[str, str]:
        """What it gets: little of ours, and what its entry says."""
        ours = {name: self.environ[name] for name in INHERITED if name in self.environ}
        return {**ours, **server.env}


async def _started(server: ServerConfig, env: dict[str, str], folder: str) -> Process:
    """Start it, without a shell, in a process group of its own; what it says of itself may be of anybody."""
    try:
        return await anyio.open_process(
            [cast(str, server.command), *server.args],
            env=env,
            cwd=server.cwd or folder,
            stderr=DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise ServerUnavailable(f"The server {server.alias} cannot be started. Ask the operator.") from error


@asynccontextmanager
async def _conversing(process: Process, max_line: int) -> AsyncIterator[TransportStreams]:
    """Carry messages until the end of the block."""
    heard, hearing = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    saying, said = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as tasks, hearing, saying:
            tasks.start_soon(_hear, cast(ByteReceiveStream, process.stdout), heard, max_line)
            tasks.start_soon(_say, cast(ByteSendStream, process.stdin), said, heard)
            try:
                yield hearing, saying
            finally:
                tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):  # every wait in it has an end
            await _end(process)


async def _hear(
    stdout: ByteReceiveStream, heard: MemoryObjectSendStream[SessionMessage | Exception], max_line: int
) -> None:
    """Hand on each line until the command says nothing more, or too much at once."""
    rest = bytearray()
    gone = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError)
    async with heard:
        with suppress(*gone):
            while True:
                chunk = await stdout.receive()
                *lines, last = chunk.split(b"\n")
                for line in lines:
                    rest += line
                    await heard.send(_message(rest, max_line))
                    rest.clear()
                rest += last
                if len(rest) > max_line:
                    await heard.send(AnswerTooLarge())
                    return


def _message(line: bytearray, max_line: int) -> SessionMessage | Exception:
    if len(line) > max_line:
        return AnswerTooLarge()
    try:
        return SessionMessage(mcp.jsonrpc_message_adapter.validate_json(bytes(line), by_name=False))
    except ValueError as error:
        return error


async def _say(
    stdin: ByteSendStream,
    said: MemoryObjectReceiveStream[SessionMessage],
    heard: MemoryObjectSendStream[SessionMessage | Exception],
) -> None:
    """Hand each message over; where nobody listens any more the connection is at its end."""
    try:
        async with said:
            async for each in said:
                text = each.message.model_dump_json(by_alias=True, exclude_unset=True)
                await stdin.send(text.encode("utf-8", "surrogatepass") + b"\n")
    except (anyio.ClosedResourceError, anyio.BrokenResourceError, OSError):
        await heard.aclose()


async def _end(process: Process) -> None:
    """Let it end by itself, then tell it to, then kill it with whatever it has started."""
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await cast(ByteSendStream, process.stdin).aclose()
    if not await _gone(process, END_SECONDS) and _signalled(process, signal.SIGTERM):
        await _gone(process, KILL_SECONDS)
    _signalled(process, signal.SIGKILL)
    if await _gone(process, KILL_SECONDS):
        await _closed(process)


async def _closed(process: Process) -> None:
    """Close a dead process's pipes: no end is heard of what is not read, or what its children hold."""
    with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.aclose()
    await anyio.sleep(_POLL)  # the loop closes them in its next turns


async def _gone(process: Process, seconds: float) -> bool:
    """Wait for the end of the process; `wait` would wait for the end of its pipes, which children hold."""
    with anyio.move_on_after(seconds):
        while process.returncode is None:  # noqa: ASYNC110 - see above
            await anyio.sleep(_POLL)
    return process.returncode is not None


def _signalled(process: Process, number: signal.Signals) -> bool:
    """Signal its group, which may have members when the process itself is gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
        return True
    return False
