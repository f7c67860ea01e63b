"""What a model server says bit by bit is handed over in portions: neither first words nor the end wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpcore2
import httpx2
import pytest

from mcp_chat import patient
from mcp_chat.netguard import AddressNotAllowed, Policy, guarded_client2
from mcp_chat.patient import PatientBackend

pytestmark = pytest.mark.anyio

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def served(talk: Talk) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


def client(policy: Policy | None = None, timeout: float = 5) -> httpx2.AsyncClient:
    return guarded_client2(policy, timeout=timeout, network=PatientBackend())


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text)


async def say(writer: asyncio.StreamWriter, words: int, pause: float) -> None:
    writer.write(HEAD)
    for n in range(words):
        writer.write(chunk(b"data: %d\n\n" % n))
        await asyncio.sleep(pause)


async def test_the_first_words_come_at_once_and_the_others_in_portions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patient, "PORTION", 10.0)  # so that all that waits comes with the end
    heard: list[bytes] = []
    first = asyncio.Event()

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, 3, 0)
        await first.wait()
        for n in range(80):
            writer.write(chunk(b"data: %d\n\n" % n))
            await asyncio.sleep(0.002)
        assert len(heard) < 80, "they are held back"
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with served(talk) as url, client() as http, http.stream("GET", url) as response:
        began = time.monotonic()
        async for data in response.aiter_raw():
            heard.append(data)
            if len(heard) == 3:
                first.set()
        assert time.monotonic() - began < 5, "neither the first words nor the end wait"
    assert b"".join(heard).count(b"data: ") == 84


async def test_all_of_a_large_answer_comes() -> None:
    """More than is held back at once: the server waits meanwhile."""
    body = bytes(range(256)) * 8192

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    async with served(talk) as url, client() as http:
        answers = [(await http.get(url)).content for _ in range(3)]
    assert answers == [body] * 3


async def test_a_connection_is_used_again() -> None:
    connections = set()

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        await say(writer, 3, 0)
        writer.write(b"0\r\n\r\n")

    async with served(talk) as url, client() as http:
        for _ in range(3):
            assert (await http.get(url)).text.count("data: ") == 3
    assert len(connections) == 1


async def test_a_server_that_breaks_off_is_told() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, 20, 0.001)
        writer.transport.abort()

    async with served(talk) as url, client() as http:
        with pytest.raises(httpx2.TransportError):
            await http.get(url)


async def test_a_silent_server_is_given_up() -> None:
    never = asyncio.Event()

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, 20, 0.001)
        await never.wait()

    async with served(talk) as url, client(timeout=2.0) as http:
        with pytest.raises(httpx2.ReadTimeout):
            await http.get(url)
        never.set()


async def test_nobody_at_the_other_end_is_told() -> None:
    async with client() as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get("http://127.0.0.1:1/")


async def test_what_may_not_be_dialled_is_not() -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was dialled")

    async with served(talk) as url, client(Policy()) as http:
        with pytest.raises(AddressNotAllowed):
            await http.get(url)


async def test_no_socket_of_the_machine_is_dialled() -> None:
    with pytest.raises(httpcore2.ConnectError):
        await PatientBackend().connect_unix_socket("/run/any.sock")
