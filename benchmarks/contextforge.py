"""ContextForge's chat as it comes from PyPI, in an environment of its own, set up by its own API."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.running import wait_until

PACKAGE = "mcp-contextforge-gateway[llmchat,redis]==1.0.7.*"
ADMIN, PASSWORD = "admin@example.com", "A-bench-of-Oak-and-Iron-2026!"
WAIT = 120.0


@dataclass(slots=True)
class Gateway:
    """A running gateway.

    Attributes:
        token: The administrator's.
        model: The id under which it offers the scripted model.
    """

    url: str
    process: psutil.Process
    token: str = ""
    model: str = ""
    http: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=60))

    def post(self, path: str, **body: object) -> dict[str, object]:
        """Post as the administrator, and return what comes."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        answer = self.http.post(f"{self.url}{path}", json=body, headers=headers)
        assert answer.status_code < 300, f"{path}: {answer.status_code} {answer.text[:300]}"
        found: dict[str, object] = answer.json()
        return found

    def processes(self) -> list[psutil.Process]:
        """Return its workers."""
        return self.process.children(recursive=True)


def environment(folder: Path) -> Path:
    """Return a Python that has the gateway; it is installed once.

    Raises:
        subprocess.CalledProcessError: It cannot be.
    """
    python = folder / "bin" / "python"
    if not (folder / "bin" / "mcpgateway").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PACKAGE], check=True, stdout=sys.stderr)
    return python


@contextmanager
def gateway(
    python: Path, folder: Path, redis: str, model_url: str, *, workers: int, **env: str
) -> Iterator[Gateway]:
    """Run the gateway with gunicorn, as its own scripts do, and let it offer the scripted model.

    Args:
        env: More environment variables.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gunicorn = [str(python.parent / "gunicorn"), "mcpgateway.main:app", "-w", str(workers), "--preload"]
    place = ["-k", "uvicorn.workers.UvicornWorker", "-b", f"127.0.0.1:{port}", "--timeout", "600"]
    values = _env(folder, redis, port) | env
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen([*gunicorn, *place], env=values, cwd=folder, stdout=log, stderr=log)
    running = Gateway(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    try:
        wait_until(lambda: process.poll() is not None or _lives(running), "the gateway answers", seconds=WAIT)
        assert process.poll() is None, (folder / "gateway.log").read_text()[-2000:]
        _set_up(running, model_url)
        yield running
    finally:
        running.http.close()
        process.terminate()
        process.wait(30)


def _env(folder: Path, redis: str, port: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "JWT_SECRET_KEY": secrets.token_urlsafe(48),
        "AUTH_ENCRYPTION_SECRET": secrets.token_urlsafe(48),
        "PLATFORM_ADMIN_EMAIL": ADMIN,
        "PLATFORM_ADMIN_PASSWORD": PASSWORD,
        "DEFAULT_USER_PASSWORD": PASSWORD,
        "BASIC_AUTH_PASSWORD": PASSWORD,
        "ADMIN_REQUIRE_PASSWORD_CHANGE_ON_BOOTSTRAP": "false",
        "PASSWORD_CHANGE_ENFORCEMENT_ENABLED": "false",
        "LLMCHAT_ENABLED": "true",
        "CACHE_TYPE": "redis",
        "REDIS_URL": redis,
        "DATABASE_URL": f"sqlite:///{folder}/gateway.db",
        "SSRF_ALLOW_LOCALHOST": "true",
        "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
        "RATE_LIMITING_ENABLED": "false",
        "LOG_LEVEL": "ERROR",
        "ENVIRONMENT": "development",
    }


def _lives(running: Gateway) -> bool:
    try:
        return running.http.get(f"{running.url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def _set_up(running: Gateway, model_url: str) -> None:
    running.token = str(running.post("/auth/email/login", email=ADMIN, password=PASSWORD)["access_token"])
    made = running.post(
        "/llm/providers",
        name="scripted",
        provider_type="openai_compatible",
        api_base=model_url,
        api_key="none",
    )
    model = running.post(
        "/llm/models",
        provider_id=made["id"],
        model_id="scripted",
        model_name="scripted",
        supports_function_calling=True,
    )
    running.model = str(model["id"])
