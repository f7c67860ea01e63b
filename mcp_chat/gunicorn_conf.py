"""What `mcp-chat serve` and ``config/gunicorn.py`` tell gunicorn; ``GUNICORN_CMD_ARGS`` takes precedence."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import shutil
import socket
import sys
import tempfile
from typing import Any

from mcp_chat import logs
from mcp_chat.deaths import deaths_of
from mcp_chat.exceptions import SettingsError
from mcp_chat.settings import load_settings, read_env_file
from mcp_chat.worker import STOP_LIMIT, worker_name

logs.tell_no_messages()  # gunicorn's own lines begin before the application is there
read_env_file()
try:
    _settings = load_settings()
except SettingsError as error:
    sys.exit(f"mcp-chat: {error}")

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host

bind = f"{_host}:{_settings.port}"
workers = _settings.workers
worker_class = "mcp_chat.worker.Worker"
preload_app = True  # one import for all workers, and two thirds less memory

timeout = 60  # a worker silent for so long is killed
graceful_timeout = STOP_LIMIT
keepalive = 75  # longer than a proxy in front keeps an idle connection
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - gunicorn's advice: no disk
control_socket_disable = True  # two instances of a user would share one path

accesslog = None  # the application writes one line per request
errorlog = "-"
loglevel = _settings.log_level

# Set before anything imports `prometheus_client`, which looks for it then. Always a new one: after USR2
# another master's may stand here.
_metrics = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="mcp-chat-metrics-")
_loader = os.getpid()


@atexit.register
def _forget() -> None:
    """Remove the metrics of a master that does not get as far as `on_exit`; a worker's end is none."""
    if os.getpid() == _loader:
        shutil.rmtree(_metrics, ignore_errors=True)


def when_ready(arbiter: Any) -> None:
    """Do for all workers what each would do, and keep the collector of garbage off the memory they share."""
    if arbiter.cfg.preload_app:
        from mcp_chat.models.openai import warm_up  # noqa: PLC0415 - the application is loaded now

        warm_up()
        gc.collect()
        gc.freeze()


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Name the worker while the master still has it, so that both know the name."""
    worker.name = worker_name(_settings.worker_id or socket.gethostname(), arbiter.pid, worker.age)
    worker.deaths = deaths_of(arbiter).receiver
    if worker.cfg.uid != os.geteuid():  # a master that is root, workers that are not
        os.chown(_metrics, worker.cfg.uid, worker.cfg.gid)


def post_fork(arbiter: Any, worker: Any) -> None:
    """Tell the application its worker's name."""
    os.environ["MCP_CHAT_WORKER"] = worker.name


def child_exit(arbiter: Any, worker: Any) -> None:
    """Tell the other workers that this one has ended, and drop what it had in use out of the metrics."""
    deaths_of(arbiter).tell(worker.name)
    from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - see `_metrics`

    with contextlib.suppress(OSError):  # an error here would end the master
        mark_process_dead(worker.pid, _metrics)  # type: ignore[no-untyped-call]


def on_exit(arbiter: Any) -> None:
    """Remove the metrics with the master."""
    shutil.rmtree(_metrics, ignore_errors=True)
