"""The world outside this machine, as far as sockets and names can tell; no packet leaves."""

from __future__ import annotations

import asyncio
import datetime
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.vectors import answers_of

Route = tuple[str, int]

ELSEWHERE = "10.99.99.99"
"""What every name means that has no script: an address that nobody may dial."""


class Outside:
    """Scripted names, and a log of every address that a socket was told to connect to.

    What is below is real: `getaddrinfo` for numbers, and sockets that lead to servers on loopback, whose
    far end then has the address that was dialled.

    Attributes:
        dialled: The addresses, in order; loopback too.
        routes: The servers behind addresses, or behind an address and a port; all else refuses.
    """

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self.asked: list[str] = []
        self.routes: dict[str | Route, int] = {}
        self._names: dict[str, list[str]] = {}
        self._peers: dict[Any, Any] = {}

    def name(self, host: str, *lookups: str) -> None:
        """Script a name: what each lookup finds, the last one for ever."""
        self._names[host] = list(lookups)

    def clear(self) -> None:
        """Forget what was, and what was to be."""
        self.dialled.clear()
        self.asked.clear()
        self.routes.clear()
        self._names.clear()

    @contextmanager
    def on_stage(self) -> Iterator[Outside]:
        """Be the outside for all event loops of asyncio's own kind."""
        connect, ask, peer = (
            asyncio.SelectorEventLoop.sock_connect,
            socket.getaddrinfo,
            TransportSocket.getpeername,
        )

        async def sock_connect(loop: Any, sock: socket.socket, address: Any) -> None:
            await connect(loop, sock, self._target(sock, address))
            self._peers[sock.getsockname()] = address

        def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            return self._found(ask, host, port, *args, **kwargs)

        def getpeername(sock: TransportSocket) -> Any:
            return self._peers.get(sock.getsockname()) or peer(sock)

        with (
            mock.patch.object(asyncio.SelectorEventLoop, "sock_connect", sock_connect),
            mock.patch.object(socket, "getaddrinfo", getaddrinfo),
            mock.patch.object(TransportSocket, "getpeername", getpeername),
        ):
            yield self

    def _target(self, sock: socket.socket, address: Sequence[Any]) -> Any:
        dialled = str(ip_address(address[0]))
        self.dialled.append(dialled)
        port = self.routes.get((dialled, address[1])) or self.routes.get(dialled)
        if port is None:
            raise ConnectionRefusedError
        loopback = "::ffff:127.0.0.1" if sock.family == socket.AF_INET6 else "127.0.0.1"
        return (loopback, port)

    def _found(self, ask: Any, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer from the script; only what is a number already is left to the system."""
        text = host.decode() if isinstance(host, bytes) else host
        if text in self._names:
            self.asked.append(text)
            lookups = self._names[text]
            lookup = lookups.pop(0) if len(lookups) > 1 else lookups[0]
            if lookup == "?":
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            if lookup == "!":
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [_answer(address, port) for address in answers_of(lookup)]
        try:
            how = dict(zip(("family", "type", "proto", "flags"), args, strict=False)) | kwargs
            return ask(host, port, **{**how, "flags": how.get("flags", 0) | socket.AI_NUMERICHOST})
        except socket.gaierror:
            return [_answer(ELSEWHERE, port)]


def _answer(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))


def certificate(folder: Path, host: str) -> Path:
    """Make a certificate for a host that nobody has signed; return the file with it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path
