"""The way between the workers and Redis: it can be slow, cut, or a black hole, for all or for some.

``python -m tests.chaos.network --port 7000 --to 7001 --control 7002``; a line to the control port says what
it does from now on: ``delay 0.05``, ``cut``, ``hang``, each with the ids of processes if it is not for
all, and ``heal``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import psutil

HEALTHY: Final = "heal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What the network does, and to whom: nobody named means everybody."""

    what: str = HEALTHY
    delay: float = 0
    pids: frozenset[int] = frozenset()

    @classmethod
    def read(cls, line: str) -> Weather:
        """Read a line of the control port."""
        what, *words = line.split()
        delay = float(words.pop(0)) if what == "delay" else 0
        return cls(what=what, delay=delay, pids=frozenset(map(int, words)))


class Side(asyncio.Protocol):
    """One end of a link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        self._waiting: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._link.made(self)

    def data_received(self, data: bytes) -> None:
        self._waiting.append(data)
        self._link.moved(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost()

    def hand_on(self) -> None:
        """Give the other end what has arrived."""
        while self._waiting and self.other and self.other.transport:
            self.other.transport.write(self._waiting.popleft())


class Link:
    """A client's connection and the one to the server, without back pressure: what they say is small."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.weather = Weather()
        self._closing = False
        self.near = Side(self)
        self.far = Side(self)
        self.near.other, self.far.other = self.far, self.near

    @property
    def client_port(self) -> int:
        """The client's end."""
        assert self.near.transport
        port: int = self.near.transport.get_extra_info("peername")[1]
        return port

    def made(self, side: Side) -> None:
        """Take a new end into use."""
        if side is self.near:
            self._network.joined(self)
        else:
            self.moved(self.near)

    def moved(self, side: Side) -> None:
        """Hand on what has arrived, as the weather allows."""
        if self.weather.what == "delay":
            asyncio.get_running_loop().call_later(self.weather.delay, side.hand_on)
        elif self.weather.what != "hang":
            side.hand_on()

    def lost(self) -> None:
        """Close the other end, but first hand on what is on its way: a dead sender's packets arrive, too."""
        self._closing = True
        if self.weather.what != "hang":
            self.break_off()

    def change(self, weather: Weather) -> None:
        """Live with another weather."""
        self.weather = weather
        if weather.what == "cut":
            return self.abort()
        if weather.what != "hang":
            self.near.hand_on()
            self.far.hand_on()
            if self._closing:
                self.break_off()
        return None

    def break_off(self) -> None:
        """Close both ends in good order."""
        self._network.links.discard(self)
        for side in (self.near, self.far):
            side.hand_on()
            if side.transport:
                side.transport.close()

    def abort(self) -> None:
        """Reset both ends."""
        self._network.links.discard(self)
        for side in (self.near, self.far):
            if side.transport:
                side.transport.abort()


class Network:
    """All links.

    Args:
        port: Of the server behind it.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._weather = Weather()
        self.links: set[Link] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def joined(self, link: Link) -> None:
        """Connect a new client on."""
        self.links.add(link)
        if self._concerns(link):
            link.change(self._weather)
        opening = asyncio.create_task(self._open(link))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    def change(self, weather: Weather) -> None:
        """Let the weather change."""
        self._weather = weather
        hit = ports_of(weather.pids)
        for link in list(self.links):
            concerned = not weather.pids or link.client_port in hit
            link.change(weather if concerned else Weather())

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Obey the lines of a control connection, one answer for each."""
        while line := await reader.readline():
            self.change(Weather.read(line.decode()))
            writer.write(b"done\n")
        writer.close()

    def _concerns(self, link: Link) -> bool:
        pids = self._weather.pids
        return self._weather.what != HEALTHY and (not pids or link.client_port in ports_of(pids))

    async def _open(self, link: Link) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: link.far, "127.0.0.1", self._port)
        except OSError:
            link.abort()


def ports_of(pids: Collection[int]) -> set[int]:
    """Return the local ports of some processes' connections."""
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections: list[Any] = psutil.Process(pid).net_connections("tcp")
            found |= {connection.laddr.port for connection in connections}
    return found


async def serve(port: int, to: int, control: int) -> None:
    """Carry bytes until killed."""
    network = Network(to)
    loop = asyncio.get_running_loop()
    carrying = await loop.create_server(lambda: Link(network).near, "127.0.0.1", port)
    controlling = await asyncio.start_server(network.control, "127.0.0.1", control)
    async with carrying, controlling:
        await asyncio.gather(carrying.serve_forever(), controlling.serve_forever())


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="tests.chaos.network")
    for name in ("--port", "--to", "--control"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.to, options.control))


if __name__ == "__main__":
    main()
