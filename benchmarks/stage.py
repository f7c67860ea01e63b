"""What the measurements of several workers share: a model that keeps time, and ears at Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Self

import psutil
from redis import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.installation import Installation
from tests.person import Frame, Person
from tests.running import running, wait_until


def story(tokens: int, pause: float) -> str:
    """Return the message that makes the model say so many tokens, one every so many seconds."""
    return f"say {tokens} {pause}"


async def _complete(request: Request) -> Response:
    sent = await request.json()
    _, tokens, pause = sent["messages"][-1]["content"].split()
    return StreamingResponse(_stream(int(tokens), float(pause)), media_type="text/event-stream")


async def _stream(tokens: int, pause: float) -> AsyncIterator[bytes]:
    """Say what was asked for by the clock, however long the sending takes."""
    began = time.monotonic()
    yield _chunk({"role": "assistant", "content": ""})
    for n in range(tokens):
        await asyncio.sleep(began + n * pause - time.monotonic())
        yield _WORD
    yield _chunk({}, "stop") + b"data: [DONE]\n\n"


def _chunk(delta: dict[str, str], end: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": end}]
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return f"data: {json.dumps({**chunk, 'choices': choices})}\n\n".encode()


_WORD = _chunk({"content": "word "})


def _serve(pipe: Connection) -> None:
    app = Starlette(routes=[Route("/v1/chat/completions", _complete, methods=["POST"])])
    with running(app) as url:
        pipe.send(url)
        pipe.recv()


@contextmanager
def metronome() -> Iterator[tuple[str, psutil.Process]]:
    """Run the model in a process of its own; give its URL and the process."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(there,))
    process.start()
    there.close()  # so that its end is noticed here
    try:
        yield f"{here.recv()}/v1", psutil.Process(process.pid)
    finally:
        here.send("stop")
        process.join(10)


@dataclass(frozen=True, slots=True)
class Ring:
    """A note that came over a bell."""

    at: float
    bell: str
    note: str

    @property
    def epochs(self) -> set[int]:
        """The epochs of the entries in it, if the bell is a log's."""
        return {int(place.partition("-")[0]) for place in self.note.split("\n")[::2]}


class _Ear:
    """Hears Valkey in a thread until it is closed."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._thread.join(5)

    def close(self) -> None:
        """End the connection."""
        raise NotImplementedError

    def hear(self) -> None:
        """Hear without end."""
        raise NotImplementedError

    def _run(self) -> None:
        with contextlib.suppress(Exception):  # it is closed, or Valkey has stopped before
            self.hear()


class Bells(_Ear):
    """All that workers tell each other: notes of logs with their entries, and of workers that died."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        self.rings: list[Ring] = []
        self._pubsub = redis.pubsub()  # type: ignore[no-untyped-call]
        self._closed = False

    def __enter__(self) -> Self:
        self._pubsub.psubscribe("chat:bell:*", "workers:bell")
        return super().__enter__()

    def close(self) -> None:
        self._closed = True

    def hear(self) -> None:
        while not self._closed:
            message = self._pubsub.get_message(timeout=0.2)
            if message and message["type"] == "pmessage":
                self.rings.append(Ring(time.perf_counter(), message["channel"], message["data"]))

    def of(self, name: str) -> list[Ring]:
        """Return what was rung for a user's log."""
        return [ring for ring in list(self.rings) if ring.bell == f"chat:bell:{{{name}}}"]

    def changed(self, name: str) -> tuple[float, float] | None:
        """Return when a user's last entry came from the first owner and the first one from the next."""
        rings = self.of(name)
        first = min((epoch for ring in rings for epoch in ring.epochs), default=0)
        later = [ring.at for ring in rings if first not in ring.epochs]
        earlier = [ring.at for ring in rings if first in ring.epochs]
        return (earlier[-1], later[0]) if later and earlier else None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What clients other than ours have sent to Valkey, and got."""

    commands: dict[str, int]
    seconds: float
    bytes_in: int
    bytes_out: int

    @property
    def sent(self) -> int:
        """Commands."""
        return sum(self.commands.values())


class Tap(_Ear):
    """Listens to every command with MONITOR, which alone tells a client's commands from a script's."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(installation.redis())
        self._seen: list[tuple[float, str]] = []
        self._monitor = self.redis.monitor()  # type: ignore[no-untyped-call]
        self._counter = installation.redis()
        self._began = 0.0
        self._bytes: dict[str, tuple[int, int]] = {}

    def close(self) -> None:
        self._monitor.connection.disconnect()

    def hear(self) -> None:
        with self._monitor as monitor:
            for each in monitor.listen():
                if each["client_type"] != "lua":
                    self._seen.append((float(each["time"]), str(each["command"])))

    def start(self) -> None:
        """Count from now on."""
        self._bytes, self._began = self._count(), time.time()

    def stop(self) -> Traffic:
        """Return what has come since."""
        ended, now = time.time(), self._count()
        commands: dict[str, int] = {}
        for at, command in list(self._seen):
            name = command.split(" ", 1)[0].upper()
            if self._began <= at <= ended and not command.upper().startswith("CLIENT LIST"):
                commands[name] = commands.get(name, 0) + 1
        grown = [
            (now[id_][0] - was[0], now[id_][1] - was[1]) for id_, was in self._bytes.items() if id_ in now
        ]
        return Traffic(commands, ended - self._began, sum(g[0] for g in grown), sum(g[1] for g in grown))

    def _count(self) -> dict[str, tuple[int, int]]:
        """Return the bytes of each client: but for those who listen, and for this one."""
        ours = str(self._counter.client_id())
        return {
            client["id"]: (int(client["tot-net-in"]), int(client["tot-net-out"]))
            for client in self._counter.client_list()
            if client["id"] != ours and "O" not in client["flags"]
        }


def settled(chat: Installation, workers: int) -> None:
    """Wait until so many workers live and say so."""
    redis = chat.redis()

    def alive() -> bool:
        beating = redis.zcount("workers", time.time() * 1000, "+inf")
        return beating == workers and len(chat.workers()) == workers

    wait_until(alive, f"{workers} workers", seconds=60)


def elsewhere(chat: Installation, name: str, *avoid: psutil.Process) -> Person:
    """Someone in front of any other worker than these."""

    def come() -> Person | None:
        person = Person(chat.url, name)
        if chat.worker_of(person) not in avoid:
            return person
        person.http.close()
        return None

    found: Person = wait_until(come, "a connection to another worker", seconds=30)
    return found


def words(frames: Iterator[Frame], enough: Callable[[int], bool]) -> int:
    """Read a stream until enough tokens have come; return how many."""
    said = 0
    for event, data in frames:
        assert event == "token", (event, data)
        said += str(data["content"]).count(" ")
        if enough(said):
            return said
    raise AssertionError("the stream has ended")


def until(frames: Iterator[Frame], wanted: str) -> None:
    """Read a stream up to a frame; up to its end if that is the last one, so that the connection stays."""
    for event, data in frames:
        if event == wanted:
            assert event != "final" or not list(frames)
            return
        assert event == "token", (event, data)
    raise AssertionError("the stream has ended")
