"""The official conformance suite, revision 2026-07-28; that of 2025-11-25 is a file to run beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.conformance.suite import CLIENT_SECONDS, passes
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running


@pytest.mark.slow
@pytest.mark.timeout(CLIENT_SECONDS + 300)
def test_all_that_the_revision_requires_of_a_client_passes(tmp_path: Path) -> None:
    passes("2026-07-28", 32, tmp_path)


async def silent_on_its_results(request: Request) -> Response:
    """A server of 2026-07-28 that does not say what its results are."""
    asked = await request.json()
    results: dict[str, dict[str, Any]] = {
        "server/discover": {
            "resultType": "complete",
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "silent", "version": "1"},
            "ttlMs": 0,
            "cacheScope": "private",
        },
        "tools/list": {
            "tools": [{"name": "greet", "inputSchema": {"type": "object"}}],
            "ttlMs": 0,
            "cacheScope": "private",
        },
        "tools/call": {"content": [{"type": "text", "text": "hello"}]},
    }
    return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": results[asked["method"]]})


def test_a_result_that_does_not_say_what_it_is_is_complete(alice: Person, model: ModelServer) -> None:
    app = Starlette(routes=[Route("/mcp", silent_on_its_results, methods=["POST"])])
    with running(app) as url:
        connected = alice.connect(server={"url": f"{url}/mcp", "alias": "far"})
        assert connected["tools"] == ["far__greet"]
        model.will(Reply(calls=[("far__greet", {})]), Reply(text="Done."))
        alice.say("greet")
    assert [each["content"] for each in alice.history() if each["role"] == "tool"] == ["hello"]
