"""What `mcp-chat serve` and ``config/gunicorn.py`` tell gunicorn; ``GUNICORN_CMD_ARGS`` takes precedence."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

from mcp_chat.exceptions import SettingsError
from mcp_chat.settings import load_settings, read_env_file
from mcp_chat.worker import STOP_LIMIT, worker_name

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


def pre_fork(arbiter: Any, worker: Any) -> None:
    """Name the worker while the master still has it, so that both know the name."""
    worker.name = worker_name(_settings.worker_id or socket.gethostname(), arbiter.pid, worker.age)


def post_fork(arbiter: Any, worker: Any) -> None:
    """Tell the application its worker's name."""
    os.environ["MCP_CHAT_WORKER"] = worker.name
