"""The processes and files of one `serve`: a real Valkey, real locks, real signals."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from redis import Redis

from mcp_chat.embedded import Child, DataDir, DemoServer, EmbeddedValkey
from mcp_chat.exceptions import SettingsError

# Other tests may leave a thread behind, which `serve` does not have.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"

TELLING = (
    "import os, signal, time; signal.signal(15, lambda *_: os.kill(os.getppid(), signal.SIGUSR1));"
    " print('up', flush=True); time.sleep(60)"
)
"""Has its parent interrupted when it is to end."""


def wait_for(condition: Callable[[], object], limit: float = 30) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pid_of(child: Child) -> int:
    assert child._process is not None
    return child._process.pid


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def connected(valkey: EmbeddedValkey) -> Iterator[Redis]:
    with contextlib.closing(Redis.from_url(valkey.url, decode_responses=True)) as redis:
        yield redis


# The directory


def test_a_data_directory_is_private(tmp_path: Path) -> None:
    with DataDir(tmp_path / "new") as data:
        assert mode(data.path) == 0o700
        assert mode(data.path / "lock") == 0o600


def test_a_data_directory_has_one_user_at_a_time(tmp_path: Path) -> None:
    with (
        DataDir(tmp_path),
        pytest.raises(SettingsError, match=rf"process {os.getpid()}\) is using {tmp_path}"),
    ):
        DataDir(tmp_path).__enter__()
    with DataDir(tmp_path):
        pass


def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="set MCP_CHAT_DATA_DIR"):
        DataDir(tmp_path / "file").__enter__()


def test_a_key_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "some.new").write_text("left behind by a crash")
    with DataDir(tmp_path) as data:
        key = data.key("some.key")
        assert len(base64.b64decode(key, validate=True)) == 32
        assert mode(tmp_path / "some.key") == 0o600
        assert data.key("some.key") == key
        assert data.key("other.key") != key


@pytest.mark.parametrize("content", [b"", b"not a key", b"\xff" * 32, base64.b64encode(b"short")])
def test_a_damaged_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.key").write_bytes(content)
    with DataDir(tmp_path) as data, pytest.raises(SettingsError, match=r"some\.key does not hold"):
        data.key("some.key")
    assert (tmp_path / "some.key").read_bytes() == content


# Any child


def test_a_child_that_will_not_end_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Child("It", [sys.executable, "-c", STUBBORN], log=log, stop_limit=0.2) as child:
        wait_for(log.read_text)
    assert child.poll() == -signal.SIGKILL


def test_an_interrupted_stop_kills_at_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child("It", [sys.executable, "-c", TELLING], log=log, stop_limit=60)
    child.start()
    wait_for(log.read_text)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGUSR1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        child.stop()
    signal.signal(signal.SIGUSR1, previous)
    assert child.poll() == -signal.SIGKILL


def test_what_a_killed_child_started_is_ended_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Child("It", ["sh", "-c", "sleep 60 & echo $!; wait"], log=log, stop_limit=0.2) as child:
        wait_for(log.read_text)
        os.kill(pid_of(child), signal.SIGKILL)
    wait_for(lambda: ended(int(log.read_text())))


def test_a_child_that_stops_while_it_starts_is_reported(tmp_path: Path) -> None:
    class Never(Child):
        def ready(self) -> bool:
            return False

    with pytest.raises(SettingsError, match=rf"^It stopped while it started: see {tmp_path}/log\.$"):
        Never("It", ["true"], log=tmp_path / "log").__enter__()
    slow = Never("It", ["sleep", "60"], start_limit=0.1)
    with pytest.raises(SettingsError, match=r"^It was not ready within 0\.1 s: see the lines above\.$"):
        slow.__enter__()
    assert slow.poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_child_dies_with_its_killed_parent() -> None:
    program = "from mcp_chat.embedded import Child; import time; c = Child('', ['sleep', '60']); c.start(); "
    program += "print(c._process.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_for(lambda: ended(pid))


# Valkey


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDir]:
    with DataDir(tmp_path / "my data") as data:
        yield data


def test_valkey_is_private_and_keeps_what_it_is_told(data: DataDir) -> None:
    with EmbeddedValkey(data) as valkey, connected(valkey) as redis:
        assert urlsplit(valkey.url).scheme == "unix"
        assert mode(data.path / "valkey.sock") == 0o700
        assert mode(data.path / "valkey") == 0o700
        assert mode(data.path / "valkey.log") == 0o600
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert redis.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert redis.config_get("save") == {"save": ""}
        assert psutil.Process(pid_of(valkey)).net_connections("inet") == []
        redis.set("a", "1")
    assert valkey.poll() == 0
    with EmbeddedValkey(data) as valkey, connected(valkey) as redis:
        assert redis.get("a") == "1"


def test_a_killed_valkey_has_lost_nothing(data: DataDir) -> None:
    with EmbeddedValkey(data) as valkey:
        with connected(valkey) as redis:
            for number in range(100):
                redis.set(f"key{number}", number)
            wait_for(lambda: redis.info("persistence")["aof_buffer_length"] == 0)  # it may put writes off
        os.kill(pid_of(valkey), signal.SIGKILL)
        wait_for(lambda: valkey.poll() is not None)
        valkey.start()
        with connected(valkey) as redis:
            assert redis.dbsize() == 100


def test_a_half_written_command_does_not_keep_valkey_from_starting(data: DataDir) -> None:
    with EmbeddedValkey(data) as valkey, connected(valkey) as redis:
        redis.set("a", "1")
    [log] = (data.path / "valkey" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$5\r\nhal")
    with EmbeddedValkey(data) as valkey, connected(valkey) as redis:
        assert redis.get("a") == "1"
        assert redis.get("b") is None


def test_a_damaged_file_is_reported_with_the_log(data: DataDir) -> None:
    with EmbeddedValkey(data) as valkey, connected(valkey) as redis:
        redis.set("a", "1")
        redis.set("b", "2")
    [log] = (data.path / "valkey" / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"rubbish\r\n" + log.read_bytes())
    with pytest.raises(SettingsError, match=r"embedded Valkey stopped while it started: see .*/valkey\.log"):
        EmbeddedValkey(data).__enter__()
    assert "Bad file format" in (data.path / "valkey.log").read_text()


def test_valkey_is_not_ready_before_it_answers(data: DataDir) -> None:
    valkey = EmbeddedValkey(data)
    assert not valkey.ready()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(data.path / "valkey.sock"))
        listener.listen()

        def load() -> None:
            with listener.accept()[0] as client:
                client.recv(64)
                client.sendall(b"-LOADING Valkey is loading the dataset in memory\r\n")

        loading = threading.Thread(target=load)
        loading.start()
        assert not valkey.ready()
        loading.join()


def test_a_path_too_long_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    with DataDir(tmp_path / ("long" * 25)) as data:
        with EmbeddedValkey(data) as valkey, connected(valkey) as redis:
            socket_path = Path(urlsplit(valkey.url).path)
            assert data.path not in socket_path.parents
            assert mode(socket_path.parent) == 0o700
            assert redis.set("a", "1")
        assert not socket_path.parent.exists()


def test_the_directory_stays_locked_while_an_old_valkey_lives(tmp_path: Path) -> None:
    with DataDir(tmp_path) as data:
        valkey = EmbeddedValkey(data)
        valkey.start()
    try:
        with pytest.raises(SettingsError, match="is using"):
            DataDir(tmp_path).__enter__()
    finally:
        valkey.stop()
    with DataDir(tmp_path):
        pass


# The demo server


def test_the_demo_server_is_waited_for(data: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with DemoServer(data, "toy_demo") as server:
        url = urlsplit(server.url)
        assert (url.hostname, url.path) == ("127.0.0.1", "/mcp")
        socket.create_connection(("127.0.0.1", url.port or 0), timeout=1).close()
    assert not server.ready()
