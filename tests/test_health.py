"""May this worker be given work."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from mcp_chat.api.health import Check, Health
from mcp_chat.app import create_app
from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.settings import Settings
from tests.faults import within
from tests.proxy import proxied
from tests.running import running, wait_until


def get(url: str, path: str) -> tuple[int, dict[str, str]]:
    answer = httpx.get(f"{url}{path}", trust_env=False, timeout=10)
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()


def test_a_worker_in_memory_is_alive_and_ready(serve: Callable[..., str]) -> None:
    url = serve(database_url="")
    assert get(url, "/livez") == (200, {"status": "alive"})
    assert get(url, "/readyz") == (200, {"status": "ready", "store": "ok"})


def test_readiness_names_what_it_depends_on(serve: Callable[..., str], valkey_url: str) -> None:
    assert get(serve(redis_url=valkey_url), "/readyz") == (
        200,
        {"status": "ready", "store": "ok", "database": "ok"},
    )


@pytest.mark.parametrize("fault", ["cut", "hang"])
def test_a_worker_without_redis_is_alive_but_not_ready_and_recovers_by_itself(
    serve: Callable[..., str], valkey_url: str, fault: str
) -> None:
    with proxied(valkey_url) as proxy:
        url = serve(redis_url=proxy.url)
        assert get(url, "/readyz")[0] == 200
        getattr(proxy, fault)()
        told = {"status": "not ready", "store": "unreachable", "database": "ok"}
        wait_until(lambda: get(url, "/readyz") == (503, told), "the store alone is away")
        assert get(url, "/livez") == (200, {"status": "alive"})
        proxy.heal()
        wait_until(lambda: get(url, "/readyz")[0] == 200, "it is ready again")


def test_a_worker_whose_database_is_of_another_version_is_not_ready(
    serve: Callable[..., str], tmp_path: Path
) -> None:
    url = serve()
    with sqlite3.connect(tmp_path / "chat.db") as other:
        other.execute("UPDATE mcp_chat_version SET version_num = '0000'")
    other.close()
    assert get(url, "/readyz") == (
        503,
        {"status": "not ready", "store": "ok", "database": "unreachable"},
    )
    assert get(url, "/livez")[0] == 200


def test_a_worker_does_not_start_on_a_database_without_a_schema(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    app = create_app(settings(database_url=f"sqlite:///{tmp_path}/empty.db"))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    with pytest.raises(StoreUnavailable):
        anyio.run(start)


def test_a_worker_that_is_about_to_stop_is_not_ready(settings: Callable[..., Settings]) -> None:
    app = create_app(settings())
    with running(app) as url:
        app.state.drain.start()
        assert get(url, "/readyz") == (
            503,
            {"status": "not ready", "store": "ok", "database": "ok", "worker": "draining"},
        )
        assert httpx.get(f"{url}/readyz").headers["retry-after"] == "1"
        assert get(url, "/livez") == (200, {"status": "alive"})


def checked(**checks: Check) -> Starlette:
    health = Health(checks=checks, draining=lambda: False)
    return Starlette(routes=[Route("/readyz", health.ready)])


def test_checks_run_side_by_side() -> None:
    begun: list[None] = []
    all_there = anyio.Event()

    async def slow() -> None:
        begun.append(None)
        if len(begun) == 3:
            all_there.set()
        await all_there.wait()

    with running(checked(one=slow, two=slow, three=slow)) as url:
        answer = httpx.get(f"{url}/readyz", trust_env=False, timeout=30)
    assert answer.json() == {"status": "ready", "one": "ok", "two": "ok", "three": "ok"}


def test_a_check_that_cannot_be_cancelled_holds_up_neither_the_answer_nor_the_others() -> None:
    released = threading.Event()
    ended: list[str] = []

    async def stuck() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(released.wait)
        ended.append("stuck")

    async def good() -> None:
        pass

    async def bad() -> None:
        raise StoreUnavailable

    with running(checked(stuck=stuck, good=good, bad=bad)) as url:
        with within(30):
            answer = httpx.get(f"{url}/readyz", trust_env=False, timeout=60)
        assert answer.status_code == 503
        assert answer.json() == {
            "status": "not ready",
            "stuck": "unreachable",
            "good": "ok",
            "bad": "unreachable",
        }
        assert ended == []
        released.set()
        wait_until(lambda: ended, "the check that was left behind ends")
