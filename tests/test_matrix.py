"""What is somebody else's is as if it did not exist: each route, each place for an id, each who asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from mcp_chat.api.operations import PREFIXES
from tests.matrix import NO_IDS, TABLE, Answer, World, asked, nothing_like, populated, token
from tests.test_identity import is_public, routes

ROUTES = pytest.mark.parametrize("route", TABLE)
BOTH = pytest.mark.parametrize("prefix", PREFIXES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[World]:
    """People who share an application."""
    with populated(tmp_path_factory.mktemp("matrix"), valkey_url) as world:
        yield world


@pytest.fixture(scope="module")
def before(world: World) -> dict[str, bytes]:
    """What the owner has at first, and is to have after everything."""
    return world.inventory()


# The table is whole


def unprefixed(path: str) -> str:
    """A path without its prefix."""
    return next((path.removeprefix(f"{p}/") for p in PREFIXES if path.startswith(f"{p}/")), path)


def fields(schema: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """The names of all fields that a body can have, at any depth."""
    if reference := schema.get("$ref"):
        yield from fields(document["components"]["schemas"][reference.rpartition("/")[2]], document)
    for name, inner in schema.get("properties", {}).items():
        yield name
        yield from fields(inner, document)
    parts = [*schema.get("anyOf", ()), *schema.get("allOf", ())]
    for inner in [*parts, schema["items"]] if "items" in schema else parts:
        yield from fields(inner, document)


def places(operation: dict[str, Any], document: dict[str, Any]) -> set[str]:
    """Every place in which an operation takes something."""
    found = {f"{each['in']}.{each['name']}" for each in operation["parameters"]}
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return found | {f"body.{name}" for name in fields(schema, document)}


def test_every_route_has_a_row_and_every_parameter_a_place(world: World) -> None:
    document = world.other.http.get("/openapi.json").json()
    missing = []
    for method, path in routes(world.app):
        if is_public(method, path):
            continue
        route = f"{method} {unprefixed(path)}"
        if route not in TABLE:
            missing.append(f"Add a row for {route} to TABLE in tests/matrix.py: where can an id stand in it?")
            continue
        operation = document["paths"][path.replace(":path}", "}")][method.lower()]
        for place in places(operation, document) - set(TABLE[route].places):
            if place.rpartition(".")[2] not in NO_IDS:
                missing.append(
                    f"Say in TABLE of tests/matrix.py which kind of id {route} takes in {place}, "
                    "or name it in NO_IDS if it takes none."
                )
    assert not missing, "\n".join(missing)
    served = {f"{method} {unprefixed(path)}" for method, path in routes(world.app)}
    assert set(TABLE) <= served, "a row for a route that is not served any more"
    assert {f"{prefix}/chat" for prefix in PREFIXES} <= {path for _, path in routes(world.app)}


def test_a_place_that_nobody_declared_is_found(world: World) -> None:
    """The test above notices a new route and a new field, at any depth of a body."""
    document = world.other.http.get("/openapi.json").json()
    connect = places(document["paths"]["/llmchat/connect"]["post"], document)
    assert {"body.user_id", "body.alias", "body.api_key", "header.Idempotency-Key"} <= connect
    assert "query.after" in places(document["paths"]["/llmchat/events"]["get"], document)
    assert "path.upload_id" in places(document["paths"]["/llmchat/uploads/{upload_id}"]["get"], document)


# The matrix


def tried(world: World, prefix: str, route: str, place: str, id_: str) -> Answer:
    """What the other one is answered, who is connected again if that was the last thing they did."""
    if route == "POST disconnect":
        world.other.connect(servers=[{"url": world.mcp, "alias": world.own["server"][0]}])
    return asked(world.other.http, prefix, route, world.own, place, id_)


@BOTH
@ROUTES
def test_what_is_anothers_is_as_if_it_did_not_exist(
    world: World, before: dict[str, bytes], route: str, prefix: str
) -> None:
    missing = nothing_like(world.owned)
    for place, kind in TABLE[route].places.items():
        for theirs, none in zip(world.owned[kind], missing[kind], strict=True):
            found = tried(world, prefix, route, place, theirs)
            not_found = tried(world, prefix, route, place, none)
            assert found.without(theirs) == not_found.without(none), (place, theirs)
            assert found.status < 500, (place, found)
            world.has_nothing_of_the_owners(found, theirs)
    assert world.inventory() == before


@BOTH
@ROUTES
def test_who_is_not_signed_in_learns_nothing(world: World, route: str, prefix: str) -> None:
    """Nor who once was, nor who is somewhere else: an old token, and one for another audience."""
    name, missing = world.owner.name, nothing_like(world.owned)
    tokens = ["", token(name, exp=int(time.time()) - 60), token(name, aud="another")]
    for bearer in tokens:
        with world.anonymous(bearer) as nobody:
            for place, kind in {**TABLE[route].places, "query.none": "session"}.items():
                answers = {
                    id_: asked(nobody, prefix, route, world.owned, place, id_).without(id_)
                    for id_ in (*world.owned[kind], *missing[kind])
                }
                assert {answer.status for answer in answers.values()} == {401}, place
                assert len({answer.text for answer in answers.values()}) == 1, place
                for id_, answer in answers.items():
                    world.has_nothing_of_the_owners(answer, id_)


@pytest.mark.parametrize("prefix", [PREFIXES[0], pytest.param(PREFIXES[1], marks=pytest.mark.slow)])
def test_the_owner_is_answered(world: World, prefix: str) -> None:
    """Each place is one that is read: an own id is answered well there, and unlike one of nothing."""
    mine = world.kept()
    for route, row in TABLE.items():
        for place, kind in {"": "", **row.places}.items():
            if route.startswith(("DELETE", "POST disconnect")):  # what they end is there again
                mine = world.kept()
            none = nothing_like(mine)[kind][0] if kind else ""
            missed = asked(world.keeper.http, prefix, route, mine, place, none) if kind else None
            if route == "POST disconnect":
                world.connected(world.keeper)
            theirs = mine[kind][-1] if kind else ""
            found = asked(world.keeper.http, prefix, route, mine, place, theirs)
            assert found.status == row.status, (route, place, found)
            if missed and place not in row.silent:
                assert found.without(theirs) != missed.without(none), (route, place)


# Ids that are none


def odd(id_: str, *, longest: int) -> Iterator[str]:
    """What somebody tries who has seen an id."""
    yield from (f"{id_}*", f"{id_[:-1]}?", f"*{id_}", f"{id_}:", f":{id_}", f"x:{id_}", f"{{{id_}}}")
    yield from (f"{id_}%00", f"{id_}\x00", f"../{id_}", f"{id_}/", f"{id_}\n", f" {id_}", f"{id_}'--")
    yield from (f"{id_}%", id_[:-1], id_.upper() + "_", id_ * (longest // len(id_)))


ODD = ("*", "**", ":", "{}", "%", "_", "%00", "\x00", "?", "[a-z]*", ".", "..", "'", '"', "\\", "0", "-1", "")


@pytest.mark.slow
@ROUTES
def test_no_form_of_an_id_leads_to_what_is_anothers(
    world: World, before: dict[str, bytes], route: str
) -> None:
    for place, kind in TABLE[route].places.items():
        theirs = world.owned[kind][0]
        none = nothing_like(world.owned)[kind][0]
        longest = 2**20 if place.startswith("body.") else 2**14  # httpx sends no longer address
        forms = zip(odd(theirs, longest=longest), odd(none, longest=longest), strict=True)
        for one, other in [*forms, *((each, each) for each in ODD)]:
            if place.startswith("header.") and (not one.isprintable() or one != one.strip()):
                continue  # no client can send it
            if route == "GET events" and not one:
                continue  # none is given, and nothing happens
            if (place.startswith("path.") and one in ("", ".", "..")) or (place, one) == ("body.user_id", ""):
                continue  # another path, and whoever is signed in
            found = tried(world, PREFIXES[0], route, place, one)
            assert found.status < 500, (place, one[:99], found)
            world.has_nothing_of_the_owners(found, one)
            if one != other:
                not_found = tried(world, PREFIXES[0], route, place, other)
                assert found.without(one, theirs) == not_found.without(other, none), (place, one[:99])
    assert world.inventory() == before
