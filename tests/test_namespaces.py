"""Three hosts with a Redis Cluster between them: network namespaces whose cables are pulled.

Each host has gunicorn with two workers, one of the cluster's masters, a replica of another host's, and a
model of its own, so that a host that is cut off goes on with its turns. PostgreSQL and the MCP server are
elsewhere. All processes are real.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import jwt
import psutil
import pytest
from mcp.server.mcpserver import MCPServer

from mcp_chat.events import order
from mcp_chat.heart import BEAT_TTL, STUCK
from mcp_chat.process import die_with_parent
from tests.conftest import missing
from tests.installation import OURS, STOP_SECONDS, alive
from tests.model_server import ModelServer, Reply
from tests.network import Machine, Network, obstacle
from tests.person import Frame, Person
from tests.postgres import private_postgresql, programs
from tests.proxy import Proxy
from tests.redis_cluster import RedisCluster, Server, cluster_node, form_cluster
from tests.running import running, wait_until

pytestmark = pytest.mark.slow

SECRET: Final = "a secret of more than 32 bytes, for tests"
KEY: Final = base64.b64encode(bytes(range(32))).decode()
WORKERS: Final = 2
CHAT, MODEL, VALKEY, REPLICA, BUS = 8000, 9000, 7000, 7100, 10_000
FINALS: Final = frozenset({"turn_finished", "failed"})


class Door(Proxy):
    """The way from the network to a server's Unix socket."""

    def __init__(self, path: str, address: str) -> None:
        super().__init__(path)
        self._address = address

    async def _start(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, self._address, 0)
        self.port = self._server.sockets[0].getsockname()[1]


class Host:
    """`mcp-chat serve` on a machine, in a `with` block.

    Args:
        machine: Where it runs.
        directory: An empty one for its files.
        env: What all hosts have in common.
    """

    def __init__(self, machine: Machine, directory: Path, env: dict[str, str]) -> None:
        self.machine = machine
        self.name = f"host-{machine.number}"
        self.url = f"http://{machine.address}:{CHAT}"
        self._directory = directory
        self._errors = directory / "stderr"
        self._output = directory / "stdout"
        own = {"WORKER_ID": self.name, "MCP_CHAT_HOST": machine.address, "MCP_CHAT_DATA_DIR": str(directory)}
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(OURS)} | env | own

    def __enter__(self) -> Host:
        parent = os.getpid()
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*self.machine.prefix, str(Path(sys.executable).with_name("mcp-chat")), "serve"],
                env=self._env,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),  # noqa: PLW1509 - nothing else forks
            )
        return self

    def stop(self) -> None:
        """Tell it to stop."""
        if self._runs():
            self.process.send_signal(signal.SIGTERM)

    def __exit__(self, *_: object) -> None:
        try:
            if self._runs():
                self.stop()
                assert self.process.wait(STOP_SECONDS) == 0, self.log()
        finally:
            for process in (psutil.Process(self.process.pid), *self._family()) if self._runs() else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait(10)

    def ready(self) -> None:
        """Wait until it serves."""
        wait_until(
            lambda: "is ready" in self._output.read_text() or not self._runs(),
            f"{self.name} is ready",
            seconds=60,
        )
        assert self._runs(), self.log()

    def log(self) -> str:
        """What it has logged."""
        return self._errors.read_text()

    def lines(self, event: str) -> str:
        """What it has logged of an event."""
        return "\n".join(line for line in self.log().splitlines() if f'"{event}"' in line)

    def person(self, name: str) -> Person:
        """Someone on a connection to this host."""
        claims = {"sub": name, "exp": int(time.time()) + 3600}
        return Person(self.url, name, token=jwt.encode(claims, SECRET, "HS256"))

    def workers(self) -> list[psutil.Process]:
        """The workers that live."""
        masters = [child for child in self._family() if "gunicorn" in " ".join(child.cmdline())]
        inner = {child.pid for master in masters for child in master.children()}
        return [child for child in masters if child.pid in inner and alive(child)]

    def asks(self, other: Host) -> bool:
        """Whether a worker has a connection to the other host, and takes it for open."""
        sockets = self.machine.sockets_to(other.machine.address)
        links = (link for worker in self.workers() for link in Path(f"/proc/{worker.pid}/fd").iterdir())
        with contextlib.suppress(FileNotFoundError):  # one was just closed: the next look tells
            return any(os.readlink(link) in sockets for link in links)
        return True

    def _family(self) -> list[psutil.Process]:
        return [child for child in psutil.Process(self.process.pid).children(recursive=True) if alive(child)]

    def _runs(self) -> bool:
        return self.process.poll() is None


@dataclass
class Till:
    """An MCP server that notes its calls."""

    calls: list[str] = field(default_factory=list)

    def server(self) -> MCPServer:
        """Return it with its tool."""
        server = MCPServer("till", log_level="ERROR")
        server.add_tool(self.charge)
        return server

    async def charge(self) -> str:
        """Charge."""
        self.calls.append("charge")
        return "charged"


@dataclass(frozen=True, kw_only=True)
class Site:
    """All hosts and what they share."""

    hosts: list[Host]
    cluster: RedisCluster
    model: ModelServer
    till: Till

    def owner_of(self, user: str) -> Host | None:
        """Where the worker runs that owns a user."""
        return next((host for host in self.hosts if self.worker_of(user).startswith(f"{host.name}:")), None)

    def worker_of(self, user: str) -> str:
        """The worker that owns a user."""
        return self._redis(f"active:session:{{{user}}}", "HGET", "worker") or ""

    def log_of(self, user: str) -> list[tuple[str, str, dict[str, Any]]]:
        """The user's log as the cluster has it: place, command, event."""
        found = self._redis(f"chat:events:{{{user}}}", "XRANGE", "-", "+")
        entries = ((place, fields[1].partition(" ")) for place, fields in found)
        return [(place, command, json.loads(event)) for place, (command, _, event) in entries]

    def beat(self, after: float) -> bool:
        """Whether all workers have sent a beat after a time in seconds since 1970."""
        beats = dict(self._redis("workers", "ZRANGE", "0", "-1", "WITHSCORES"))
        live = [float(score) / 1000 - BEAT_TTL > after for score in beats.values()]
        return len(live) == WORKERS * len(self.hosts) and all(live)

    def user_with_slot_at(self, place: int, name: str) -> str:
        """A user whose keys the host at a place has."""
        names = (f"{name}-{n}" for n in count())
        return next(it for it in names if self.cluster.master_of(f"{{{it}}}") is self.cluster.masters[place])

    def _redis(self, key: str, command: str, *arguments: str) -> Any:
        with self.cluster.master_of(key).client() as client:
            client.response_callbacks.clear()
            return client.execute_command(command, key, *arguments)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Three machines."""
    reason = obstacle()
    if reason:
        pytest.skip(reason)
    with Network(3) as network:
        yield network


@pytest.fixture(scope="module")
def cluster(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A master on each machine, and the replica of the machine before."""
    directory = tmp_path_factory.mktemp("cluster")

    def node(machine: Machine, port: int) -> Server:
        port += machine.number
        return cluster_node(
            directory / str(port), host=machine.address, port=port, bus=port + BUS, prefix=machine.prefix
        )

    first, *others = network.machines
    with ExitStack() as stack:
        masters = [stack.enter_context(node(machine, VALKEY)) for machine in network.machines]
        replicas = [stack.enter_context(node(machine, REPLICA)) for machine in (*others, first)]
        form_cluster(masters, replicas)
        yield RedisCluster(masters, replicas)


@pytest.fixture(scope="module")
def far_site(
    network: Network, cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Everything, started."""
    where = programs() or missing("PostgreSQL")
    directory = tmp_path_factory.mktemp("site")
    model, till = ModelServer(), Till()
    with ExitStack() as stack:
        start = stack.enter_context
        database = urlsplit(start(private_postgresql(where)))
        sockets = re.search(r"host=([^&]+)", database.query)
        assert sockets
        door = start(Door(f"{unquote(sockets[1])}/.s.PGSQL.5432", network.address))
        app = till.server().streamable_http_app(max_sessions=None, host=network.address)
        server = start(running(app, host=network.address))
        for machine in network.machines:
            with machine.inside():
                url = start(running(model.app, port=MODEL))
        models, servers = directory / "models.yaml", directory / "servers.json"
        models.write_text(f"models:\n  - model: openai:scripted\n    base_url: {url}/v1\n")
        servers.write_text(json.dumps({"mcpServers": {"till": {"url": f"{server}/mcp"}}}))
        env = {
            "MCP_CHAT_PORT": str(CHAT),
            "MCP_CHAT_AUTH": "jwt",
            "JWT_SECRET_KEY": SECRET,
            "MCP_CHAT_ENCRYPTION_KEY": KEY,
            "MCP_CHAT_ALLOWED_NETWORKS": f"{network.subnet},127.0.0.0/8",
            "MCP_CHAT_MODELS_FILE": str(models),
            "MCP_CHAT_SERVERS_FILE": str(servers),
            "MCP_CHAT_DEMO_SERVER": "false",
            "MCP_CHAT_APPROVALS": "off",
            "OLLAMA_BASE_URL": "off",
            "REDIS_URL": cluster.url,
            "DATABASE_URL": f"postgresql://chat@{network.address}:{door.port}/postgres",
            "GUNICORN_WORKERS": str(WORKERS),
        }
        hosts = []
        for machine in network.machines:
            (directory / str(machine.number)).mkdir()
            hosts.append(start(Host(machine, directory / str(machine.number), env)))
            stack.callback(hosts[-1].stop)
        for host in hosts:
            host.ready()
        yield Site(hosts=hosts, cluster=cluster, model=model, till=till)


@pytest.fixture
def site(far_site: Site) -> Iterator[Site]:
    """Everything as it was in the beginning."""
    far_site.model.script.clear()
    far_site.model.requests.clear()
    far_site.model.hung_up = 0
    far_site.till.calls.clear()
    yield far_site
    for host in far_site.hosts:
        host.machine.join()
    far_site.cluster.restore()
    for host in far_site.hosts:
        wait_until(lambda host=host: len(host.workers()) == WORKERS, "all workers")  # type: ignore[misc]
        wait_until(lambda host=host: _is_ready(host), f"{host.name} is ready")  # type: ignore[misc]


def _is_ready(host: Host) -> bool:
    with host.person("nobody") as person:
        return person.http.get("/readyz").status_code == 200


@contextlib.contextmanager
def at_each_host(site: Site, name: str) -> Iterator[list[Person]]:
    """One user in front of each host."""
    with ExitStack() as stack:
        yield [stack.enter_context(host.person(name)) for host in site.hosts]


def spoken(frames: Iterator[Frame], text: str) -> None:
    """Read a stream until the model has said this much."""
    said = ""
    while not said.startswith(text):
        event, data = next(frames)
        assert event == "token", data
        said += data["content"]
        assert said.startswith(text) or text.startswith(said), said


def connected(people: list[Person]) -> list[bool]:
    """What the hosts say about one user."""
    return [person.get("status/{me}").json()["connected"] for person in people]


def told(person: Person) -> list[tuple[str, str]]:
    """Who said what."""
    return [(message["role"], message["content"]) for message in person.history()]


def check_log(site: Site, user: str, *turns: str) -> None:
    """Places rise, each epoch begins once, and a turn has one end with nothing behind it."""
    log = site.log_of(user)
    assert all(order(before) < order(after) for (before, *_), (after, *_) in pairwise(log))
    epochs = [order(place)[0] for place, _, event in log if event["type"] == "taken_over"]
    assert epochs == sorted({order(place)[0] for place, *_ in log})
    ended: list[str] = []
    for place, command, event in log:
        assert command not in ended, f"{place} {event} is behind the end"
        if event["type"] in FINALS:
            ended.append(command)
    assert ended == list(turns)


def test_a_user_is_the_same_at_each_host(site: Site, name: str) -> None:
    with at_each_host(site, name) as people:
        assert connected(people) == [False] * 3
        people[0].connect(server={"name": "till"})
        assert connected(people) == [True] * 3
        for number, person in enumerate(people):
            answer = person.say(f"message {number}", message_id=f"turn-{number}")
            assert answer["response"] == f"{2 * number + 1} messages, the last from user: message {number}"
        site.model.will(Reply(text="Charging.", calls=[("till__charge", {})]), Reply(text="Charged."))
        names = [event for event, _ in people[1].stream("pay", message_id="turn-3")]
        assert names == ["token", "tool_start", "tool_end", "token", "final"]
        assert site.till.calls == ["charge"]
        assert site.owner_of(name) is site.hosts[0]
        check_log(site, name, *(f"turn-{number}" for number in range(4)))
        assert {event["worker"] for _, _, event in site.log_of(name) if event["type"] == "taken_over"} == {
            site.worker_of(name)
        }
        first, *others = [told(person) for person in people]
        assert len(first) == 10
        assert others == [first] * 2

        answer = people[2].post("disconnect").json()
        assert answer["status"] == "disconnected"
        assert connected(people) == [False] * 3
        for person in people:
            refused = person.post("chat", message="still there?")
            assert refused.json()["detail"].startswith("No active session found.")
        assert site.owner_of(name) is None


@pytest.mark.parametrize(
    ("at", "slot_at"),
    [(0, 1), (0, 0), (1, 2)],
    ids=["with-the-heartbeats", "with-heartbeats-and-user", "with-neither"],
)
def test_a_host_that_was_cut_off_cannot_write_any_more(site: Site, name: str, at: int, slot_at: int) -> None:
    """The slots of the heartbeats and of the user are at the lost host, or not; its replica takes over."""
    user = site.user_with_slot_at(slot_at, name)
    assert site.cluster.master_of("workers") is site.cluster.masters[0]
    lost, host = site.hosts[at], site.hosts[at - 1]
    before = {each: len(each.lines("worker.silent").splitlines()) for each in site.hosts}
    site.model.will(Reply(text="one two three" + " and more" * 600, pause=0.1))
    with lost.person(user) as owner, host.person(user) as reader:
        owner.connect(server={"name": "till"})
        assert site.owner_of(user) is lost
        with reader.streaming("count", message_id="turn") as frames:
            spoken(frames, "one two")
            with lost.machine.alone():
                answer = given_once_more(frames)
                assert not site.model.hung_up, "the lost host is still at it"
        wait_until(lambda: f'"user": "{user}"' in lost.lines("user.fenced"), "it has noticed")
        wait_until(lambda: site.model.hung_up, "it asks its model no more")
        wait_until(lambda: not lost.machine.unsent(), "nothing is on its way any more")
        wait_until(site.cluster.agrees, "the cluster is whole")
        check_log(site, user, "turn")
        for person in (owner, reader):
            assert told(person) == [("user", "count"), ("assistant", answer)]
        assert owner.say("go on", message_id="next")["response"] == "3 messages, the last from user: go on"
        check_log(site, user, "turn", "next")
        assert told(reader) == told(owner)
    others = [each for each in site.hosts if each is not lost]
    silent = [line for each in others for line in each.lines("worker.silent").splitlines()[before[each] :]]
    assert all(f'"{lost.name}:' in line for line in silent), "nobody else was taken for dead"


def test_connections_to_a_lost_host_end_before_its_workers_count_as_dead(site: Site, name: str) -> None:
    """Whoever takes its users over would ask it first, and wait: in a cluster it has a part of the keys."""
    *others, lost = site.hosts
    for number, host in enumerate(others):
        with host.person(site.user_with_slot_at(2, f"{name}-{number}")) as person:
            person.connect(server={"name": "till"})
        assert host.asks(lost)
    with lost.machine.alone():
        wait_until(lambda: not any(host.asks(lost) for host in others), "both notice", seconds=BEAT_TTL)
    again = time.time()
    wait_until(site.cluster.agrees, "the cluster is whole")
    wait_until(lambda: site.beat(again + STUCK + 1), "no event loop hangs")


def test_a_host_all_of_whose_workers_are_killed_leaves_the_turn_to_another(site: Site, name: str) -> None:
    dead, host, other = site.hosts
    site.model.will(Reply(text="one two three", hang_after=3))
    with dead.person(name) as owner:
        owner.connect(server={"name": "till"})
    with host.person(name) as reader, other.person(name) as witness:
        assert site.owner_of(name) is dead
        with reader.streaming("count", message_id="turn") as frames:
            spoken(frames, "one two")
            for worker in dead.workers():
                worker.kill()
            answer = given_once_more(frames)
        for person in (reader, witness):
            assert told(person) == [("user", "count"), ("assistant", answer)]
        check_log(site, name, "turn")


def given_once_more(frames: Iterator[Frame]) -> str:
    """Read on in a stream whose owner is lost: what it had said is void, and there is one answer."""
    found = list(frames)
    names = [event for event, _ in found]
    first = names.index("discard")
    assert set(names[:first]) <= {"token"}
    assert set(names[first + 1 :]) == {"token", "final"}
    assert names[-1] == "final"
    answer = "".join(data["content"] for event, data in found[first:] if event == "token")
    assert answer == "1 messages, the last from user: count"
    return answer
