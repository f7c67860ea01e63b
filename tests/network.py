"""Machines on one Ethernet, as network namespaces of this one; the cable of each can be pulled. Needs root.

    this test process --- switch (a bridge in a namespace of its own) === machines 1, 2, 3, ...

A namespace lives as long as a process that sleeps in it, and that one dies with the tests, however they end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import psutil

from mcp_chat.process import die_with_parent
from tests.running import wait_until

SUBNETS: Final = tuple(IPv4Network("198.18.0.0/15").subnets(new_prefix=24))
"""Addresses for tests between networks (RFC 2544), which nobody routes."""
CLONE_NEWNET: Final = 0x40000000


class Unavailable(Exception):
    """This machine does not let us make namespaces; the reason is the message."""


class Namespace:
    """A network of its own, in a `with` block."""

    def __enter__(self) -> Namespace:
        parent = os.getpid()
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),  # noqa: PLW1509 - nothing else forks
        )
        try:
            own = _namespace_of(parent)
            wait_until(lambda: self._over() or _namespace_of(self.pid) not in ("", own), "a namespace")
            self._inode = _namespace_of(self.pid)
            if self._over():
                assert self._holder.stderr
                raise Unavailable(f"unshare --net: {self._holder.stderr.read().decode().strip()}")
            self.ip("link set lo up")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._end()
        assert not left, f"left in a namespace: {left}"

    @property
    def pid(self) -> int:
        """The process that keeps it."""
        return self._holder.pid

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command in it, in place of itself."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", "--")

    def ip(self, words: str) -> None:
        """Run `ip` in it."""
        _run(*self.prefix, "ip", *words.split())

    def processes(self) -> list[psutil.Process]:
        """Those that run in it, except for the one that keeps it."""
        found = []
        for process in psutil.process_iter():
            if process.pid != self.pid and _namespace_of(process.pid) == self._inode:
                found.append(process)
        return found

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread open its sockets here; they stay here."""
        with (
            Path("/proc/thread-self/ns/net").open() as outside,
            Path(f"/proc/{self.pid}/ns/net").open() as inside,
        ):
            _enter(inside.fileno())
            try:
                yield
            finally:
                _enter(outside.fileno())

    def sockets_to(self, address: str) -> set[str]:
        """Its TCP connections to an address that count as open, as a process's descriptors name them."""
        reversed_bytes = IPv4Address(address).packed[::-1].hex().upper()
        found = (line.split() for line in self._tcp())
        return {f"socket:[{each[9]}]" for each in found if each[3] == "01" and each[2][:8] == reversed_bytes}

    def unsent(self) -> int:
        """Bytes that its TCP connections have not got rid of."""
        fields = (line.split() for line in self._tcp())
        return sum(int(each[4].partition(":")[0], 16) for each in fields if each[3] != "0A")

    def _tcp(self) -> list[str]:
        return Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]

    def _over(self) -> bool:
        return self._holder.poll() is not None

    def _end(self) -> None:
        self._holder.kill()
        self._holder.wait(10)
        if self._holder.stderr:
            self._holder.stderr.close()


class Machine(Namespace):
    """A namespace with one network card.

    Args:
        number: From 1.
        address: Its own.
        switch: Where its cable ends.
    """

    def __init__(self, number: int, address: str, switch: Namespace) -> None:
        self.number = number
        self.address = address
        self._switch = switch

    def __enter__(self) -> Machine:
        super().__enter__()
        with ExitStack() as stack:
            stack.push(super().__exit__)
            _run(
                *("ip", "link", "add", self._port, "netns", str(self._switch.pid)),
                *("type", "veth", "peer", "name", "eth0", "netns", str(self.pid)),
            )
            self._switch.ip(f"link set {self._port} master bridge up")
            self.ip(f"address add {self.address}/24 dev eth0")
            self.ip("link set eth0 up")
            stack.pop_all()
        return self

    @property
    def _port(self) -> str:
        return f"port{self.number}"

    def cut(self) -> None:
        """Pull its cable: connections stay open, and no packet arrives any more."""
        self._switch.ip(f"link set {self._port} down")

    def join(self) -> None:
        """Plug it in again."""
        self._switch.ip(f"link set {self._port} up")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Cut it off, until the block ends."""
        self.cut()
        try:
            yield
        finally:
            self.join()


class Network:
    """Machines, and this process at the same switch, in a `with` block.

    Attributes:
        subnet: Whose last address is this process's.
    """

    def __init__(self, machines: int) -> None:
        self._count = machines
        self._link = f"chat{secrets.token_hex(4)}"
        self._stack = ExitStack()
        self.machines: list[Machine] = []

    @property
    def address(self) -> str:
        """Where the machines reach what this process serves."""
        return str(self.subnet[-2])

    def __enter__(self) -> Network:
        with self._stack as stack:
            self.subnet = _free_subnet()
            switch = stack.enter_context(Namespace())
            switch.ip("link add bridge type bridge")
            switch.ip("link set bridge up")
            stack.callback(self._unlink)
            _run(
                *("ip", "link", "add", self._link, "type", "veth"),
                *("peer", "name", "port0", "netns", str(switch.pid)),
            )
            switch.ip("link set port0 master bridge up")
            _run("ip", "address", "add", f"{self.address}/24", "dev", self._link)
            _run("ip", "link", "set", self._link, "up")
            for number in range(1, self._count + 1):
                machine = Machine(number, str(self.subnet[number]), switch)
                self.machines.append(stack.enter_context(machine))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        wait_until(lambda: self._link not in _run("ip", "-o", "link"), "the network is gone")

    def _unlink(self) -> None:
        if self._link in _run("ip", "-o", "link"):
            _run("ip", "link", "del", self._link)


def obstacle() -> str:
    """Return why no network can be made on this machine; nothing if it can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.getuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "unshare", "nsenter"):
        if not shutil.which(program):
            return f"network namespaces need the program {program}"
    try:
        with Network(1) as network:
            (machine,) = network.machines
            with machine.inside():
                listener = socket.create_server((machine.address, 0))
            with listener, socket.create_connection(listener.getsockname(), timeout=10):
                return ""
    except (Unavailable, OSError) as error:
        return f"network namespaces cannot be made here: {error}"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _free_subnet() -> IPv4Network:
    for subnet in random.sample(SUBNETS, len(SUBNETS)):
        if not _run("ip", "-o", "-4", "route", "show", "root", str(subnet)):
            return subnet
    raise Unavailable("all of 198.18.0.0/15 is in use")


def _namespace_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:  # it has ended
        return ""


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
