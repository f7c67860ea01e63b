"""One connection for all commands of a worker: they go out as they come, and are answered in order.

redis-py lends each command a connection of its own, with a lock, a time-out and a task around it, which costs
several times what the command itself does, and drops the connection when whoever asked is cancelled. Here
answers that nobody waits for any more are passed over, in their places.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

Argument = str | bytes | int | float
Answer = asyncio.Future[Any]

LOOK: Final = 0.5
"""Seconds between two looks whether the oldest command has waited for too long."""


def raise_if_ended(connection: AbstractConnection) -> None:
    """Raise what has ended a connection of which redis-py says that nothing has come.

    It takes the system's time-out, of a connection whose host is lost, for its own: from then on it says so
    at once, and of each command that the answer is None.

    Raises:
        redis.exceptions.ConnectionError: It is at its end.
    """
    reader = connection._reader
    if reader and (error := reader.exception()):
        raise ConnectionLost(str(error)) from error


class Line:
    """A connection, and the commands that wait for their answers.

    Args:
        connection: Is open.
        patience: Seconds for an answer.
    """

    def __init__(self, connection: AbstractConnection, patience: float) -> None:
        self._connection = connection
        self._patience = patience
        self._waiting: deque[tuple[Answer, bool, float]] = deque()
        self._asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reading = self._loop.create_task(self._read())
        self._looking: asyncio.TimerHandle | None = None
        self.open = True

    def ask(self, command: Sequence[Argument], *, raw: bool) -> Answer:
        """Send a command; its answer comes, whatever becomes of whoever waits for it.

        Args:
            raw: The answer is wanted as bytes.
        """
        answer: Answer = self._loop.create_future()
        packed = self._connection.pack_command(*command)
        self._waiting.append((answer, raw, self._loop.time() + self._patience))
        self._asked.set()
        self._looking = self._looking or self._loop.call_later(LOOK, self._look)
        self._write(packed)
        return answer

    def _write(self, packed: Sequence[bytes]) -> None:
        writer = self._connection._writer  # the method that redis-py has for it makes a task of each command
        try:
            if writer is None or writer.transport.is_closing():
                raise ConnectionLost("it is closed")
            writer.writelines(packed)
        except (
            OSError,
            RuntimeError,
            ConnectionLost,
        ) as error:  # uvloop raises the second when closed
            self.break_off(ConnectionLost(str(error)))

    async def drain(self) -> None:
        """Wait until the server takes more, if there is a lot on its way."""
        writer = self._connection._writer
        if writer is not None and writer.transport.get_write_buffer_size():
            with contextlib.suppress(OSError, RuntimeError):  # the answer tells
                await writer.drain()

    async def _read(self) -> None:
        error: RedisError = ConnectionLost("it is closed")
        try:
            while True:
                if not self._waiting:
                    self._asked.clear()
                    await self._asked.wait()
                await self._take()
        except (RedisError, OSError, RuntimeError) as raised:
            error = raised if isinstance(raised, RedisError) else ConnectionLost(str(raised))
        finally:
            self.break_off(error)

    async def _take(self) -> None:
        """Read one answer and give it to the command that was sent first."""
        try:
            found = await self._connection.read_response(self._waiting[0][1], math.inf)
            if found is None:
                raise_if_ended(self._connection)
        except ConnectionLost:
            raise
        except ResponseError as error:
            found = error
        answer, _, _ = self._waiting.popleft()
        if answer.done():
            return
        if isinstance(found, ResponseError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def _look(self) -> None:
        """Break off if the oldest command has waited for too long: those behind it would, too."""
        self._looking = None
        if self._waiting and self.open:
            if self._waiting[0][2] < self._loop.time():
                return self.break_off(TimedOut("Timeout reading from the server"))
            self._looking = self._loop.call_later(LOOK, self._look)
        return None

    def break_off(self, error: RedisError) -> None:
        """Use the connection no more, and tell all who wait."""
        self.open = False
        waiting, self._waiting = self._waiting, deque()
        for answer, _, _ in waiting:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # whoever asked may be gone
        self._reading.cancel()
        if self._looking:
            self._looking.cancel()
        writer = self._connection._writer
        if writer is not None:
            writer.transport.abort()

    async def aclose(self) -> None:
        """Close the connection."""
        self.break_off(ConnectionLost("it is closed"))
        await asyncio.wait([self._reading])
        await self._connection.disconnect(nowait=True)


class Lines:
    """Opens a line when there is none, and another one when that is lost.

    Args:
        make: Makes a connection that is not open yet.
        connecting: Seconds that may take.
        patience: Seconds for an answer.
    """

    def __init__(self, make: Callable[[], AbstractConnection], *, connecting: float, patience: float) -> None:
        self._make = make
        self._connecting = connecting
        self._patience = patience
        self._line: Line | None = None
        self._lock = anyio.Lock()

    async def line(self) -> Line:
        """Return a line that is open.

        Raises:
            RedisError: The server does not answer.
        """
        if self._line and self._line.open:
            return self._line
        async with self._lock:
            if self._line and self._line.open:  # somebody else was faster
                return self._line
            await self.aclose()
            self._line = Line(await self._connected(), self._patience)
            return self._line

    async def _connected(self) -> AbstractConnection:
        connection = self._make()
        try:
            async with asyncio.timeout(self._connecting):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:  # whoever is cancelled leaves no socket either
            with anyio.CancelScope(shield=True):
                await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError) and not isinstance(error, RedisError):
                raise TimedOut("Timeout connecting to the server") from error
            raise
        return connection

    async def aclose(self) -> None:
        """Close it."""
        line, self._line = self._line, None
        if line:
            await line.aclose()
