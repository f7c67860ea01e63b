"""Errors in the log: what went wrong and where, and nothing of what a library quotes in its message."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mcp_chat import logs
from mcp_chat.drain import Drain
from mcp_chat.exceptions import ModelFailed, StoreUnavailable
from mcp_chat.providers import Providers
from mcp_chat.stores.database import migrate
from mcp_chat.stores.sql import open_sql
from mcp_chat.trace import ERRORS
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until

Serve = Callable[..., str]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave structlog and `logging` as they were."""
    before, factory = structlog.get_config(), logging.getLogRecordFactory()
    yield
    structlog.configure(**before)
    logging.setLogRecordFactory(factory)


@pytest.fixture
def library() -> Iterator[io.StringIO]:
    """What the standard library's loggers write with its own formatter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    yield stream
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def ours(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What our own logger has written."""
    logs.set_up("info")
    return lambda: capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_group() -> ExceptionGroup[Exception]:
    """An error with CANARY wherever an error can have a text."""
    try:
        try:
            try:
                raise KeyError("CANARY 1")
            except KeyError as error:
                error.add_note("CANARY 2")
                raise ConnectionRefusedError(111, "CANARY 3") from error
        except OSError:
            raise ModelFailed("The model\nis gone.")  # noqa: B904 - its context is wanted
    except ModelFailed as error:
        group = ExceptionGroup("CANARY 4", [error, ValueError("CANARY 5")])
    try:
        raise group
    except ExceptionGroup as raised:
        return raised


KINDS = ["ExceptionGroup", "ModelFailed: The model", "ConnectionRefusedError [ECONNREFUSED]", "KeyError"]


@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_is_told_by_kinds_and_places_and_only_our_own_messages(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.set_up("info")
    structlog.get_logger().error("crashed", exc_info=a_group(), error=ValueError("CANARY 6"))
    text = stream.getvalue() if terminal else json.loads(stream.getvalue())["exception"]
    for kind in [*KINDS, "ValueError", f"{__file__}:", " a_group", "caused by", "while handling"]:
        assert kind in text
    assert r"The model\nis gone." in text
    assert "CANARY" not in stream.getvalue()


def deep(left: int) -> None:
    if left:
        deep(left - 1)
    raise ValueError("CANARY")


def nested(left: int) -> None:
    try:
        deep(0) if left == 0 else nested(left - 1)
    except ValueError as error:
        raise ValueError("CANARY") from error


@pytest.mark.parametrize(("fail", "errors"), [(deep, 1), (nested, ERRORS)])
def test_an_error_without_end_is_told_in_some_lines(
    ours: Callable[[], str], fail: Callable[[int], None], errors: int
) -> None:
    try:
        fail(200)
    except ValueError:
        structlog.get_logger().exception("crashed")
    text = json.loads(ours())["exception"]
    assert text.count("ValueError") == errors
    assert len(text.splitlines()) < 100
    assert "CANARY" not in text


def test_errors_in_a_ring_are_told_once(ours: Callable[[], str]) -> None:
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    structlog.get_logger().error("crashed", exc_info=first)
    first.__cause__ = None
    assert json.loads(ours())["exception"] == "ValueError\ncaused by\nValueError"


def test_what_libraries_log_has_no_message_of_an_error_either(library: io.StringIO) -> None:
    logs.set_up("info")
    for name in ("uvicorn.error", "gunicorn.error", "sqlalchemy.pool"):
        logging.getLogger(name).error("Exception in ASGI application\n", exc_info=a_group())
        logging.getLogger(name).error("It failed: %s", ValueError("CANARY"))
        logging.getLogger(name).error(ValueError("CANARY"))
    text = library.getvalue()
    for kind in KINDS:
        assert text.count(kind) >= 3
    assert text.count("It failed: ValueError\n") == 3
    assert "CANARY" not in text


def test_a_task_that_nobody_has_waited_for_shows_nothing_of_its_error(library: io.StringIO) -> None:
    logs.set_up("info")

    async def fail() -> None:
        raise ValueError("CANARY")

    async def main() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task

    asyncio.run(main())
    assert "Task exception was never retrieved" in library.getvalue()
    assert " test_a_task_that_nobody_has_waited_for" in library.getvalue()
    assert "CANARY" not in library.getvalue()


def test_a_start_that_fails_is_told_without_its_message(library: io.StringIO) -> None:
    logs.set_up("info")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if not hasattr(app.state, "ready"):
            raise ValueError("CANARY")
        yield

    config = uvicorn.Config(Starlette(lifespan=lifespan), log_config=None, lifespan="on")
    config.load()
    asyncio.run(config.lifespan_class(config).startup())
    assert "ValueError" in library.getvalue()
    assert "CANARY" not in library.getvalue()


@pytest.mark.parametrize("kind", ["token", "x-api-key", "private_key"])
def test_a_secret_is_masked_in_whatever_holds_it(ours: Callable[[], str], kind: str) -> None:
    structlog.get_logger().info("x", a=({kind: "CANARY"},), b={"key": "CANARY", "in": [({kind: "CANARY"},)]})
    structlog.get_logger().info("x", key="a place")
    text = ours()
    assert "a place" in text
    assert "CANARY" not in text


WRONG = {"message": "Incorrect API key provided: sk-CANARY", "type": "x", "code": "invalid_api_key"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (f"data: {json.dumps({'error': WRONG})}\n\n", "model.gave_up"),
        ('data: {"choices": [{"index": 0, "delta": "CANARY", "finish_reason": 7}]}\n\n', "model.failed"),
    ],
    ids=["refused", "unreadable"],
)
def test_what_a_provider_says_in_an_error_is_not_in_the_log(
    serve: Serve, model: ModelServer, name: str, body: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Person(serve(log_level="info"), name) as person:
        person.connect()
        model.will(*[Reply(body=body.encode())] * 3)
        assert person.post("chat", message="CANARY in a chat").status_code == 503
    err = capsys.readouterr().err
    assert f'"{told}"' in err
    assert "CANARY" not in err


def test_a_bug_in_a_request_is_told_twice_and_never_with_its_message(
    serve: Serve,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    library: io.StringIO,
) -> None:
    async def fail(_self: Providers) -> list[Any]:
        raise RuntimeError("CANARY")

    monkeypatch.setattr(Providers, "catalogue", fail)
    with Person(serve(), name) as person:
        assert person.get("gateway/models").status_code == 500
    assert '"request.crashed"' in capsys.readouterr().err
    wait_until(lambda: "RuntimeError" in library.getvalue(), "the server writes it, after its answer")
    assert "Exception in ASGI application" in library.getvalue()
    assert "CANARY" not in library.getvalue()


@pytest.mark.anyio
async def test_an_error_of_the_database_has_no_values(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    migrate(url)
    async with open_sql(url) as archive:
        with sqlite3.connect(tmp_path / "chat.db") as connection:
            connection.execute("ALTER TABLE chat_user RENAME COLUMN config TO gone")
        with pytest.raises(StoreUnavailable) as raised:
            await archive.put("ann", "CANARY", epoch=1)
    error: BaseException | None = raised.value
    while error:
        assert "CANARY" not in str(error)
        error = error.__cause__


def test_a_url_that_is_refused_before_it_is_dialled_is_in_the_log_without_itself(
    serve: Serve, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Person(serve(log_level="info"), name) as person:
        for url in ("https://example.org:25/CANARY?CANARY=1", "https://u:CANARY@example.org/"):
            answer = person.post("connect", llm={"model": "openai:scripted"}, server={"url": url})
            assert answer.status_code == 400
    err = capsys.readouterr().err
    lines = [json.loads(line) for line in err.splitlines() if '"refused"' in line]
    assert [(line["code"], line["action"]) for line in lines] == [("invalid_request", "connect")] * 2
    assert all("Invalid server URL" in line["reason"] and line["user"] for line in lines)
    assert "CANARY" not in err


def crashing() -> Starlette:
    """An application for a real worker, which has said nothing of how it logs."""

    async def crash(_request: Request) -> Response:
        raise ValueError("CANARY")

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/crash", crash), Route("/livez", livez)])
    app.state.drain = Drain()
    return app


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.slow
def test_a_real_workers_own_lines_have_no_message_of_an_error(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "-c", "python:mcp_chat.gunicorn_conf", "--workers", "1"),
                *("--bind", url.removeprefix("http://"), "tests.test_traces:crashing()"),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stderr=errors,
        )
    try:
        wait_until(lambda: answers(url), "the worker answers")
        assert httpx.get(f"{url}/crash", timeout=30).status_code == 500
    finally:
        process.terminate()
        process.wait(30)
    text = (tmp_path / "errors").read_text()
    assert "Exception in ASGI application" in text
    assert "ValueError\n  at " in text
    assert "CANARY" not in text
