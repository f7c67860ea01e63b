"""`serve`, gunicorn's worker and its drain: real processes, a toy application."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pydantic import SecretStr

from mcp_chat.drain import Drain
from mcp_chat.embedded import DataDir
from mcp_chat.exceptions import SettingsError
from mcp_chat.safety import check_settings
from mcp_chat.serve import demo_values, environment
from mcp_chat.settings import load_settings
from mcp_chat.worker import HEAD_LIMIT, REQUESTS_LIMIT, STOP_LIMIT, Worker, worker_name

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
KEY = base64.b64encode(bytes(range(32))).decode()


def wait_for(condition: Callable[[], object], limit: float = 30) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/livez")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # it was in the queue when the socket closed
        return False
    return False


class Running:
    """A command of the toy application, its output and the processes it has."""

    def __init__(self, directory: Path, *command: str, **env: str) -> None:
        self.journal = directory / "journal"
        self.errors = directory / "errors"
        self.data = directory / "data"
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(
                ("MCP_CHAT_", "GUNICORN_", "REDIS", "DATABASE", "JWT_", "WORKER_", "FORWARDED_")
            )
        }
        environ |= {"PYTHONPATH": str(TESTS), "TOY_JOURNAL": str(self.journal), "HOME": str(directory)}
        environ |= {"MCP_CHAT_PORT": "0", "MCP_CHAT_DATA_DIR": str(self.data)}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *(command or (str(TESTS / "toy_app.py"),))],
                env=environ | env,
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.before = self.lines().count("up")
        self.family: list[psutil.Process] = []
        self.text = ""
        self.url = ""

    def started(self) -> Running:
        """Read what it prints until it is ready."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            if "Ctrl-C stops" in line:
                break
        else:
            raise AssertionError(self.errors.read_text())
        match = re.search(r"http://\S+", self.text)
        assert match
        self.url = match[0]
        wait_for(lambda: self.lines().count("up") - self.before == int(self.env()["GUNICORN_WORKERS"]))
        self.remember()
        return self

    def remember(self) -> list[psutil.Process]:
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        return self.family

    def member(self, word: str) -> psutil.Process:
        """The oldest of the family with a word in its command line."""
        return min((m for m in self.family if word in " ".join(m.cmdline())), key=psutil.Process.create_time)

    def lines(self) -> list[str]:
        return (
            [line.split()[0] for line in self.journal.read_text().splitlines()]
            if self.journal.exists()
            else []
        )

    def env(self) -> dict[str, Any]:
        about: dict[str, Any] = httpx.get(f"{self.url}/about").json()
        return about

    def ends(self, limit: float = 30) -> int:
        """Wait until it and all its family are gone; return its exit code."""
        code = self.process.wait(limit)
        wait_for(lambda: all(ended(member) for member in self.family), limit)
        return code

    def close(self) -> None:
        members = [*self.family]
        with contextlib.suppress(psutil.NoSuchProcess):
            members += psutil.Process(self.process.pid).children(recursive=True)
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.kill()
        self.process.communicate()


@pytest.fixture(autouse=True)
def hangups() -> Iterator[None]:
    """Hear of a closed terminal where the tests were started not to, too: what is ignored is inherited."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with contextlib.ExitStack() as stack:

        def start(*command: str, **env: str) -> Running:
            running = Running(tmp_path, *command, **env)
            stack.callback(running.close)
            return running

        yield start


class Reader(threading.Thread):
    """Reads a response to its end, or to where it breaks."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.began = threading.Event()
        self.text = ""
        self.whole = False
        self.start()
        assert self.began.wait(10)

    def run(self) -> None:
        with contextlib.suppress(httpx.HTTPError), httpx.stream("GET", self._url, timeout=60) as response:
            for text in response.iter_text():
                self.text += text
                self.began.set()
            self.whole = True

    def read(self, limit: float = 30) -> str:
        self.join(limit)
        assert not self.is_alive()
        return self.text


# What serve starts


def test_serve_supplies_what_is_not_set(run: Callable[..., Running]) -> None:
    served = run().started()
    data = served.data
    assert "Demo mode" in served.text
    assert str(data) in served.text

    workers: dict[int, dict[str, Any]] = {}

    def both_seen() -> bool:
        env = served.env()
        workers[env["pid"]] = env
        return len(workers) == 2

    wait_for(both_seen)
    for env in workers.values():
        assert env["REDIS_URL"] == f"unix://{data}/valkey.sock"
        assert env["DATABASE_URL"] == f"sqlite:///{data}/mcp-chat.db"
        assert env["MCP_CHAT_ENCRYPTION_KEY"] == (data / "encryption.key").read_text()
        assert env["JWT_SECRET_KEY"] == (data / "cookie.key").read_text()
        assert env["MCP_CHAT_ALLOWED_NETWORKS"] == "127.0.0.0/8,::1/128"
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/mcp", env["MCP_CHAT_DEMO_URL"])
    names = {env["MCP_CHAT_WORKER"] for env in workers.values()}
    master = served.member("-m gunicorn").pid
    assert all(
        re.fullmatch(rf"{re.escape(socket.gethostname())}:{master}:\d:[0-9a-f]{{8}}", n) for n in names
    )
    assert len(names) == 2

    assert served.journal.read_text().startswith(f"migrate sqlite:///{data}/mcp-chat.db")
    assert served.journal.stat().st_mode & 0o777 == 0o600  # and so is whatever serve and its children write
    assert served.lines().count("made") == 1  # before the fork
    answer = httpx.get(f"{served.url}/about", headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.json()["client"][0] == "127.0.0.1"
    assert "server" not in answer.headers
    assert served.errors.read_text() == ""


def test_serve_keeps_what_is_set(run: Callable[..., Running], valkey_url: str) -> None:
    served = run(
        MCP_CHAT_AUTH="jwt",
        JWT_SECRET_KEY="s" * 32,
        MCP_CHAT_ENCRYPTION_KEY=KEY,
        REDIS_URL=valkey_url,
        DATABASE_URL="sqlite:///elsewhere.db",
        MCP_CHAT_DEMO_SERVER="false",
        GUNICORN_WORKERS="1",
        WORKER_ID="blue",
        FORWARDED_ALLOW_IPS="127.0.0.1",
    ).started()
    env = served.env()
    assert (env["JWT_SECRET_KEY"], env["MCP_CHAT_ENCRYPTION_KEY"]) == ("s" * 32, KEY)
    assert (env["REDIS_URL"], env["DATABASE_URL"]) == (valkey_url, "sqlite:///elsewhere.db")
    assert env["MCP_CHAT_WORKER"].startswith("blue:")
    assert env["MCP_CHAT_ALLOWED_NETWORKS"] == ""
    assert "MCP_CHAT_DEMO_URL" not in env
    assert "Demo mode" not in served.text
    assert {path.name for path in served.data.iterdir()} == {"lock"}
    assert len(served.family) == 2
    answer = httpx.get(f"{served.url}/about", headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.json()["client"][0] == "203.0.113.9"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "redis://127.0.0.1:1/0"),
        ("MCP_CHAT_MODELS_FILE", "bad.yaml"),
        ("MCP_CHAT_SERVERS_FILE", "bad.yaml"),
    ],
)
def test_what_does_not_answer_or_cannot_be_read_is_one_sentence(
    run: Callable[..., Running], tmp_path: Path, name: str, value: str
) -> None:
    (tmp_path / "bad.yaml").write_text("models: [")
    served = run(**{name: str(tmp_path / value) if value == "bad.yaml" else value})
    assert served.ends(20) == 2
    said = served.errors.read_text()
    assert name in said or "bad.yaml" in said
    assert "Traceback" not in said


# How it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_streams_and_finishes_requests(
    run: Callable[..., Running], number: signal.Signals
) -> None:
    served = run().started()
    endless, finite = Reader(f"{served.url}/endless"), Reader(f"{served.url}/finite")
    os.killpg(served.process.pid, number)
    assert endless.read().endswith("event: reconnect\n\n")
    wait_for(lambda: refused(served.url), 5)
    assert finite.read().endswith("19 end")
    assert served.ends() == 0
    assert served.lines().count("down") == 2
    assert served.errors.read_text() == ""


def test_a_second_signal_kills_at_once(run: Callable[..., Running]) -> None:
    served = run().started()
    stuck, endless = Reader(f"{served.url}/stuck"), Reader(f"{served.url}/endless")
    served.process.send_signal(signal.SIGINT)
    endless.read()
    served.process.send_signal(signal.SIGINT)
    assert served.ends(10) == 0  # the stuck one would have had 20 s
    stuck.read()
    assert not stuck.whole


def test_a_signal_during_the_start_leaves_nothing(run: Callable[..., Running]) -> None:
    served = run()
    wait_for((served.data / "valkey.log").exists)
    wait_for(served.remember)
    served.process.send_signal(signal.SIGTERM)
    assert served.ends() == 0
    assert len(served.family) >= 1
    assert served.errors.read_text() == ""


def test_a_killed_serve_leaves_nothing_but_its_data(run: Callable[..., Running]) -> None:
    first = run().started()
    keys = [(first.data / name).read_text() for name in ("encryption.key", "cookie.key")]
    assert httpx.get(f"{first.url}/count").text == "1"
    stuck, endless = Reader(f"{first.url}/stuck"), Reader(f"{first.url}/endless")
    first.process.kill()
    assert endless.read().endswith("event: reconnect\n\n")
    second = run().started()  # at once, while a worker of the first may still be there
    assert httpx.get(f"{second.url}/count").text == "2"
    assert [(first.data / name).read_text() for name in ("encryption.key", "cookie.key")] == keys
    first.ends(15)
    stuck.read()


def test_serve_ends_when_gunicorn_does(run: Callable[..., Running]) -> None:
    served = run().started()
    endless = Reader(f"{served.url}/endless")
    served.member("-m gunicorn").kill()
    assert served.ends() == 1
    assert endless.read().endswith("event: reconnect\n\n")
    assert served.lines().count("down") == 2
    assert "The web server stopped by itself (exit code -9): everything stops." in served.errors.read_text()


def test_a_helper_that_stops_is_started_again_but_not_for_ever(run: Callable[..., Running]) -> None:
    served = run(MCP_CHAT_DEMO_SERVER="false").started()
    for count in range(1, 6):
        assert httpx.get(f"{served.url}/count").text == str(count)
        valkey = served.member("valkey-server unix")
        valkey.kill()
        wait_for(lambda: ended(valkey))  # noqa: B023 - called in this round only
        wait_for(lambda: httpx.get(f"{served.url}/livez").status_code == 200)
        wait_for(lambda: served.errors.read_text().count("starting it again") == count)  # noqa: B023
        wait_for(lambda: (served.data / "valkey.log").read_text().count("Ready to accept") == count + 1)  # noqa: B023
        served.remember()
    served.member("valkey-server unix").kill()
    assert served.ends() == 1
    assert "The embedded Valkey does not stay up: everything stops." in served.errors.read_text()


# What it refuses


def refusal(served: Running) -> str:
    assert served.process.wait(20) == 2
    everything = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    assert not [line for line in everything if str(served.data) in line]
    return served.errors.read_text()


def test_a_directory_has_one_serve(run: Callable[..., Running]) -> None:
    first = run().started()
    second = run()
    assert second.process.wait(20) == 2
    assert f"(process {first.process.pid}) is using {first.data}" in second.errors.read_text()
    assert httpx.get(f"{first.url}/count").text == "1"


def test_a_busy_port_is_refused(run: Callable[..., Running]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        text = refusal(run(MCP_CHAT_PORT=str(port)))
    assert text == (
        f"Port {port} of 127.0.0.1 cannot be used (Address already in use): "
        "stop what uses it, or set MCP_CHAT_PORT.\n"
    )


def test_unsafe_settings_are_refused_before_anything_is_touched(run: Callable[..., Running]) -> None:
    served = run(MCP_CHAT_HOST="0.0.0.0")
    assert refusal(served).startswith("Demo mode lets anyone be anyone")
    assert not served.data.exists()


def test_an_application_that_does_not_load_is_reported(run: Callable[..., Running]) -> None:
    assert "The web server stopped while it started: see the lines above." in refusal(
        run(TOY_APP="toy_app:nothing()")
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": "0.0.0.0"}, "MCP_CHAT_HOST=127.0.0.1 or MCP_CHAT_AUTH=jwt"),
        ({"host": "::"}, "MCP_CHAT_AUTH=jwt"),
        ({"host": "chat.example"}, "MCP_CHAT_AUTH=jwt"),
        ({"auth": "jwt", "encryption_key": KEY}, "JWT_SECRET_KEY must have 32 bytes"),
        (
            {"auth": "jwt", "encryption_key": KEY, "jwt_secret_key": "s" * 31},
            "JWT_SECRET_KEY must have 32 bytes",
        ),
        ({"auth": "jwt", "jwt_secret_key": "s" * 32}, "MCP_CHAT_ENCRYPTION_KEY must be set"),
        ({"encryption_key": base64.b64encode(bytes(31)).decode()}, "exactly 32 bytes"),
        ({"encryption_key": "x"}, "exactly 32 bytes"),
    ],
)
def test_unsafe_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        check_settings(load_settings(**values))


@pytest.mark.parametrize(
    "values",
    [
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "localhost", "encryption_key": KEY},
        {"host": "0.0.0.0", "auth": "jwt", "encryption_key": KEY, "jwt_secret_key": "ß" * 16},
    ],
)
def test_safe_settings_are_not(values: dict[str, object]) -> None:
    check_settings(load_settings(**values))


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(
        host="::1", jwt_secret_key="secret", allowed_networks="10.0.0.0/8,::1/128", demo_server=False
    )
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
    assert environment(settings)["JWT_SECRET_KEY"] == "secret"
    assert settings.jwt_secret_key == SecretStr("secret")


def test_demo_mode_keeps_the_keys_and_networks_that_are_set(tmp_path: Path) -> None:
    given = load_settings(encryption_key=KEY, jwt_secret_key="secret", allowed_networks="10.0.0.0/8")
    with DataDir(tmp_path) as data:
        assert demo_values(given, data) == {}
        assert set(demo_values(load_settings(), data)) == {
            "encryption_key",
            "jwt_secret_key",
            "allowed_networks",
        }


# gunicorn on its own


@pytest.fixture
def gunicorn(run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Running]:
    def start(*options: str, **env: str) -> Running:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        config = str(TESTS.parent / "config" / "gunicorn.py")
        command = ("-m", "gunicorn", "-c", config, *options, "toy_app:create_app()")
        running = run(*command, **{"MCP_CHAT_PORT": str(port), "GUNICORN_WORKERS": "1"} | env)
        running.url = f"http://127.0.0.1:{port}"
        wait_for(lambda: "up" in running.lines())
        running.remember()
        return running

    return start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_gunicorn_on_its_own_drains(gunicorn: Callable[..., Running], number: signal.Signals) -> None:
    master = gunicorn(MCP_CHAT_HOST="127.0.0.1")
    endless = Reader(f"{master.url}/endless")
    master.process.send_signal(number)
    assert endless.read().endswith("event: reconnect\n\n")
    assert master.ends() == 0
    assert master.lines().count("down") == 1
    errors = master.errors.read_text()
    assert "Listening at" in errors
    assert "was sent" not in errors  # the worker left by itself
    assert not (master.data.parent / ".gunicorn").exists()


def test_gunicorn_says_in_a_sentence_what_is_wrong_with_the_settings(run: Callable[..., Running]) -> None:
    command = ("-m", "gunicorn", "-c", str(TESTS.parent / "config" / "gunicorn.py"), "toy_app:create_app()")
    running = run(*command, GUNICORN_WORKERS="none")
    assert running.process.wait(20) == 1
    assert running.errors.read_text().startswith("mcp-chat: GUNICORN_WORKERS: ")


def test_a_recycled_worker_drains_and_gets_a_new_name(gunicorn: Callable[..., Running]) -> None:
    master = gunicorn("--max-requests", "5")
    endless = Reader(f"{master.url}/endless")
    before = master.env()
    for _ in range(4):
        httpx.get(f"{master.url}/livez")
    assert endless.read().endswith("event: reconnect\n\n")
    wait_for(lambda: master.lines().count("up") == 2)
    after = master.env()
    assert before["pid"] != after["pid"]
    assert before["MCP_CHAT_WORKER"] != after["MCP_CHAT_WORKER"]
    assert master.lines().count("down") == 1
    master.remember()
    master.process.terminate()
    master.ends()


def test_a_stream_that_ignores_the_drain_is_cancelled_in_time_for_the_lifespan(
    gunicorn: Callable[..., Running],
) -> None:
    master = gunicorn("--worker-class", "toy_app.HastyWorker")
    stuck = Reader(f"{master.url}/stuck")
    master.process.terminate()
    assert master.ends() == 0
    stuck.read()
    assert master.lines() == ["made", "up", "down"]
    assert Worker.CONFIG_KWARGS["timeout_graceful_shutdown"] == REQUESTS_LIMIT <= STOP_LIMIT - 5


def test_a_blocked_worker_does_not_outlive_its_killed_master(gunicorn: Callable[..., Running]) -> None:
    master = gunicorn()
    with socket.create_connection(("127.0.0.1", int(master.url.rpartition(":")[2]))) as client:
        client.sendall(b"GET /blocking HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: "blocked" in master.lines())
        master.process.kill()
        master.ends()


def test_a_request_without_end_to_its_headers_is_refused(gunicorn: Callable[..., Running]) -> None:
    master = gunicorn()
    host, port = master.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        # No more than it reads before it refuses: what is unread at a close takes the answer with it.
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"a" * HEAD_LIMIT)
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
    big = httpx.get(f"{master.url}/livez", headers={"x": "a" * (HEAD_LIMIT // 4)})
    assert big.status_code == 200
    with httpx.Client() as kept:  # what one connection sends in all is not limited
        assert all(kept.get(f"{master.url}/livez", headers={"x": "a" * 9000}).is_success for _ in range(10))
    for size in (HEAD_LIMIT - 1000, HEAD_LIMIT + 1000, 200_000, 250_000):  # a body in one piece with its head
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(
                f"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode() + b"a" * size
            )
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            told = b""
            while not told.endswith(b"ok") and (more := client.recv(65536)):
                told += more
        assert re.findall(rb"HTTP/1.1 (\d+)", told) == [b"405", b"200"]
    master.process.terminate()
    master.ends()


def test_headers_that_take_their_time_are_given_up(
    gunicorn: Callable[..., Running],
) -> None:
    master = gunicorn("--worker-class", "toy_app.HastyWorker")
    host, port = master.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        told = b""
        while more := client.recv(4096):  # it is closed, too
            told += more
        assert told.startswith(b"HTTP/1.1 400 ")
        assert told.endswith(b"The request's headers took longer than 0.5 seconds.")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"GET /finite HTTP/1.1\r\nHost: x\r\n\r\n")
        told = client.recv(4096)
        client.sendall(b"GET /livez HTTP/1.1\r\n")
        while more := client.recv(4096):
            told += more
        assert re.findall(rb"HTTP/1.1 (\d+)", told) == [b"200", b"400"]
    master.process.terminate()
    master.ends()


def test_names_of_workers_differ() -> None:
    assert len({worker_name("host", 1, 1) for _ in range(100)}) == 100


# Drain


def test_a_drain_made_without_a_loop_wakes_whoever_waits() -> None:
    drain = Drain()

    async def main() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(drain.wait())
            await asyncio.sleep(0)
            threading.Timer(0.1, drain.start).start()
        assert drain.draining
        drain.start()
        await asyncio.wait_for(drain.wait(), 1)

    asyncio.run(main())
    asyncio.run(asyncio.wait_for(drain.wait(), 1))


def test_a_drain_begun_in_a_signal_handler_wakes_an_idle_loop() -> None:
    drain = Drain()
    previous = signal.signal(signal.SIGUSR1, lambda *_: drain.start())

    async def main() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        await asyncio.wait_for(drain.wait(), 5)

    try:
        asyncio.run(main())
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_a_reader_that_left_does_not_hinder_the_drain() -> None:
    drain = Drain()
    troubles: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        task = asyncio.create_task(drain.wait())
        await asyncio.sleep(0)
        task.cancel()
        drain.start()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert troubles == []

    asyncio.run(main())
