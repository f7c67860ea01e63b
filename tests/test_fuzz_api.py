"""Requests that the document allows, and such that it does not, by one person and then by another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mcp_chat.api.operations import PREFIXES
from tests.matrix import TABLE, Ids, World, populated, token

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDLESS = "GET events"
OURS = [f"{route.split()[0]} {PREFIXES[0]}/{route.split()[1]}" for route in TABLE if route != ENDLESS]
PLAIN = ["GET /livez", "GET /readyz", "GET /metrics", "GET /auth"]
"""There is nothing in a request for these that could be wrong."""
ROUTES = [
    *((route, mode) for route in [*OURS, "POST /auth/demo", "POST /auth/logout"] for mode in GenerationMode),
    *((route, GenerationMode.POSITIVE) for route in PLAIN),
]
KINDS = {
    "session_id": "session",
    "upload_id": "upload",
    "approval_id": "approval",
    "grant_id": "grant",
    "user_id": "user",
    "message_id": "turn",
    "turn_id": "turn",
    "attachments": "upload",
    "pinned": "message",
    "edit": "asked",
    "branch_id": "message",
    "Idempotency-Key": "turn",
    "q": "word",
    "before": "place",
    "after": "recency",
    "alias": "server",
}
"""Names whose values are drawn from the first person's ids half of the time."""

CHOSEN = ("alias",)
"""Names that are ids in a path only: in a body they are for whoever sends it to choose."""

SHARED = ("user", "mcp")
"""Kinds of ids that both may be told: a name is said by who asks, and both use the same server."""

FRUITLESS = ["GET apps/view"]
"""Routes with nothing of one's own: only an operator's servers may have apps, and there is none here."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # of Schemathesis' own doing


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[World]:
    """People who share an application."""
    with populated(tmp_path_factory.mktemp("fuzz"), valkey_url) as world:
        yield world


@pytest.fixture(scope="module")
def before(world: World) -> dict[str, bytes]:
    """What somebody has whom none of this is about."""
    return world.inventory()


@pytest.fixture(scope="module")
def document(world: World) -> Any:
    """The document, as Schemathesis reads it."""
    return schemathesis.openapi.from_dict(world.other.http.get("/openapi.json").json())


def aimed(case: Case[Any], mine: Ids, draw: Any) -> None:
    """Put ids that there are where ids stand, and leave out what only a lucky text would be."""
    for name in ("limit", "before", "after", "format"):
        if name in case.query and draw(st.booleans()):
            del case.query[name]
    for part in (case.path_parameters, case.query, case.headers, case.body):
        for name, kind in KINDS.items():
            if name in CHOSEN and part is not case.path_parameters:
                continue
            if isinstance(part, dict) and name in part and draw(st.booleans()):
                id_ = draw(st.sampled_from(mine[kind]))
                part[name] = [id_] if name in ("attachments", "pinned") else id_


def sent(case: Case[Any], world: World, name: str) -> Response:
    """Send a request as somebody."""
    return case.call(
        base_url=world.url, headers={"authorization": f"Bearer {token(name)}"}, allow_redirects=False
    )


def named(case: Case[Any], name: str) -> None:
    """Leave a request as it is, but for whom it says that it is of, if it is one of the two."""
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict) and str(part.get("user_id")).startswith(("cid-", "ann-")):
            part["user_id"] = name


def unprefixed(route: str) -> str:
    """A route as the table has it."""
    return route.replace(f"{PREFIXES[0]}/", "", 1)


@pytest.mark.parametrize(("route", "mode"), ROUTES)
def test_whatever_is_sent_is_answered_as_documented_and_shows_nobody_anything_of_anothers(
    world: World, before: dict[str, bytes], document: Any, route: str, mode: GenerationMode
) -> None:
    method, path = route.split(" ")
    described, mine = document[path.replace(":path}", "}")][method], world.kept()
    good = False
    secrets = [id_ for kind, ids in mine.items() if kind not in SHARED for id_ in ids if len(id_) > 10]

    @settings(
        max_examples=16 if method == "GET" and mode.is_positive else 8,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described.as_strategy(generation_mode=mode), data=st.data())
    def send(case: Case[Any], data: st.DataObject) -> None:
        aimed(case, mine, data.draw)
        given_ = json.dumps([case.path_parameters, dict(case.query), dict(case.headers), repr(case.body)])
        for owner in (mine["user"][0], world.other.name):  # as it is, and as one's own
            named(case, owner)
            response = sent(case, world, world.other.name)
            case.validate_response(response, checks=CHECKS)
            told = response.text + json.dumps({k: list(v) for k, v in response.headers.items()})
            for secret in (*secrets, world.marker):
                assert secret in given_ or secret not in told, secret
        named(case, mine["user"][0])
        response = sent(case, world, world.keeper.name)
        case.validate_response(response, checks=CHECKS)
        nonlocal good
        good |= response.status_code < 300

    send()
    fruitful = method == "GET" and mode.is_positive and unprefixed(route) not in FRUITLESS
    assert good or not fruitful, "nothing of one's own was found"
    assert world.inventory() == before
