"""Those who are compared: each with its users, who ask the same of it in the same words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.contextforge import ADMIN, PASSWORD, Gateway, environment, gateway
from benchmarks.wire import Caller
from tests.installation import Installation
from tests.running import wait_until

USERS = 50
SHOWN = 10
"""Messages of its history that a model is shown, the new one not counted."""


class Rider:
    """A user who asks, again and again, over one connection.

    Args:
        url: Of the contender.
        user: Their id.
        headers: That prove who they are.
        direct: Ask the model itself.
        session_id: Another conversation than the default one.
    """

    def __init__(
        self,
        url: str,
        user: str,
        headers: dict[str, str],
        *,
        direct: bool = False,
        session_id: str | None = None,
    ) -> None:
        self._more = {"session_id": session_id} if session_id else {}
        self._caller = Caller(url, headers)
        self._user = user
        self._direct = direct

    async def ask(self, message: str, *, streaming: bool) -> tuple[float, float]:
        """Return the seconds until the first token and until the end."""
        began, first, ended = time.perf_counter(), 0.0, b""
        status, pieces = await self._caller.open(*self._asked(message, streaming))
        wanted = b'"content":"word' if self._direct else b"event: token"
        async for piece in pieces:
            if not first and wanted in piece.replace(b'": "', b'":"'):
                first = time.perf_counter() - began
            ended = piece
        assert status == 200, (status, ended)
        assert b"[DONE]" in ended or b"word" in ended, ended
        return first, time.perf_counter() - began

    def _asked(self, message: str, streaming: bool) -> tuple[str, dict[str, Any]]:
        if not self._direct:
            body = {"user_id": self._user, "message": message, "streaming": streaming, **self._more}
            return "/llmchat/chat", body
        said = [{"role": "user", "content": "plain"}, {"role": "assistant", "content": "word "}] * (
            SHOWN // 2
        )
        tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
        messages = [*said, {"role": "user", "content": message}]
        return "/v1/chat/completions", {"stream": True, "messages": messages, "tools": tools}

    def close(self) -> None:
        """Hang up."""
        self._caller.close()


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those who are compared.

    Attributes:
        riders: Makes its users' connections, for one event loop.
        processes: All that work for it, without the model and the MCP server.
        workers: Those of them that answer.
    """

    name: str
    riders: Callable[[], list[Rider]]
    processes: Callable[[], Sequence[psutil.Process]]
    workers: Callable[[], Sequence[psutil.Process]]


@contextmanager
def direct(model_url: str) -> Iterator[Contender]:
    """Ask the model itself."""
    url = model_url.removesuffix("/v1")
    yield Contender("direct", lambda: [Rider(url, "", {}, direct=True) for _ in range(USERS)], list, list)


@contextmanager
def floor(model_url: str, mcp_url: str, *, workers: int = 2) -> Iterator[Contender]:
    """Run LangChain's agent behind one route."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "benchmarks.floor:app", "--workers", str(workers)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--log-level", "warning"],
        env={**os.environ, "FLOOR_MODEL": model_url, "FLOOR_MCP": mcp_url},
    )
    try:
        wait_until(lambda: _answers(url), "the agent answers", seconds=60)
        family = psutil.Process(process.pid).children
        yield Contender(
            "bare `create_agent`", lambda: [Rider(url, "", {}) for _ in range(USERS)], family, family
        )
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 404
    except httpx.HTTPError:
        return False


@contextmanager
def ours(model_url: str, mcp_url: str, folder: Path, *, workers: int = 2, **env: str) -> Iterator[Contender]:
    """Run `mcp-chat serve` as it comes, with as many turns at once as there are users."""
    settings = {"LLMCHAT_CHAT_HISTORY_MAX_MESSAGES": str(SHOWN + 1), "MCP_CHAT_APPROVALS": "off", **env}
    servers = {"calculator": {"url": mcp_url}}
    with ExitStack() as stack:
        chat = stack.enter_context(
            Installation(folder, model_url, workers=workers, servers=servers, **settings)
        )
        people = [stack.enter_context(chat.person(f"rider-{n}")) for n in range(USERS)]
        for person in people:
            person.connect(server={"name": "calculator"})

        def riders() -> list[Rider]:
            cookies = ["; ".join(f"{c.name}={c.value}" for c in person.http.cookies.jar) for person in people]
            return [
                Rider(chat.url, person.name, {"cookie": cookie})
                for person, cookie in zip(people, cookies, strict=True)
            ]

        yield Contender("mcp-chat", riders, chat.family, chat.workers)


@contextmanager
def contextforge(
    model_url: str, mcp_url: str, folder: Path, redis: str, *, workers: int = 2
) -> Iterator[Contender]:
    """Run the gateway, if it can be installed.

    Raises:
        subprocess.CalledProcessError: It cannot.
    """
    python = environment(Path(".cache/contextforge").absolute())
    with gateway(python, folder, redis, model_url, workers=workers) as running:
        tokens = {name: _member(running, name, mcp_url) for name in _names()}
        yield Contender(
            "ContextForge 1.0.7",
            lambda: [
                Rider(running.url, name, {"authorization": f"Bearer {token}"})
                for name, token in tokens.items()
            ],
            running.processes,
            running.processes,
        )


def _names() -> list[str]:
    return [ADMIN, *(f"rider-{n}@example.com" for n in range(1, USERS))]


def _member(running: Gateway, name: str, mcp_url: str) -> str:
    """Make a user who may chat, let them log in and connect, and return their token."""
    member = Gateway(url=running.url, process=running.process, model=running.model)
    if name != ADMIN:
        running.post("/auth/email/admin/users", email=name, password=PASSWORD, full_name=name, is_admin=True)
    member.token = str(member.post("/auth/email/login", email=name, password=PASSWORD)["access_token"])
    server = {"url": mcp_url, "transport": "streamable_http", "auth_token": "none"}
    member.post("/llmchat/connect", user_id=name, llm={"model": running.model}, server=server)
    return member.token
