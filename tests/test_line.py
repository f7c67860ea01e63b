"""The connection that all commands of a worker share."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing

import pytest
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as ConnectionLost

from mcp_chat.stores.line import Line

pytestmark = pytest.mark.anyio

MORE_THAN_FITS = "x" * 32_000_000


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs TCP_USER_TIMEOUT")
async def test_a_connection_that_the_system_gives_up_answers_no_command() -> None:
    """The server takes nothing any more, as if its host was lost; that is not "there is nothing"."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        host, port = deaf.getsockname()
        watched = {socket.TCP_USER_TIMEOUT: 500}
        connection = Connection(
            host=host, port=port, protocol=2, driver_info=None, socket_keepalive_options=watched
        )
        await connection.connect()  # type: ignore[no-untyped-call]
        async with aclosing(Line(connection, patience=60)) as line:
            asked = [line.ask(command, raw=False) for command in (["SET", "a", MORE_THAN_FITS], ["GET", "a"])]
            async with asyncio.timeout(30):
                answers = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(answer) for answer in answers] == [ConnectionLost] * 2
            assert not line.open
