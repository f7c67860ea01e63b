"""What went wrong elsewhere between two users of one system: each is tried here, with a turn that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mcp_chat.api.operations import PREFIXES
from mcp_chat.message import new_id
from tests.matrix import TABLE, World, populated, request_of
from tests.person import Person
from tests.test_matrix import before

__all__ = ["before"]  # the fixture


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[World]:
    """People who share an application."""
    with populated(tmp_path_factory.mktemp("neighbours"), valkey_url) as world:
        yield world


def everything_of(person: Person) -> str:
    """All that somebody can see of their own conversations."""
    sessions = person.get("sessions?limit=200").json()["sessions"]
    return "".join(person.get(f"sessions/{each['session_id']}/export").text for each in sessions)


def test_nobody_subscribes_to_anothers_stream(world: World) -> None:
    """LibreChat, CVE-2026-31950: a stream by its id, and nobody asked whose it was."""
    ids = {kind: world.owned[kind] for kind in ("session", "turn", "event")}
    for session in (*ids["session"], *ids["turn"]):
        with world.other.http.stream("GET", f"/llmchat/events?session_id={session}") as answer:
            assert answer.status_code == 404  # read no further before: a stream has no end
            assert json.loads(answer.read())["code"] == "not_found"
    for headers, query in [
        ({"last-event-id": ids["event"][0]}, {}),
        ({}, {"after": ids["event"][0]}),
        ({}, {"after": "0-1"}),
        ({}, {}),
    ]:
        with world.other.http.stream("GET", "/llmchat/events", headers=headers, params=query) as stream:
            world.other.say("the end", message_id=(end := new_id()))
            heard = ""
            for part in stream.iter_text():
                heard += part
                if end in heard.rpartition("event: final")[2]:
                    break
        assert world.marker not in heard
        assert not any(id_ in heard for some in (ids["session"], ids["turn"]) for id_ in some)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_message_to_anothers_conversation_begins_a_new_one(
    world: World, before: dict[str, bytes], streaming: bool
) -> None:
    """Open WebUI, CVE-2026-45349: a foreign `chat_id` in the body went on with its owner's conversation."""
    for wanted in (*world.owned["session"], "0" * 32):
        answer = world.other.post(
            "chat", message="go on", session_id=wanted, streaming=streaming, if_running="interrupt"
        )
        assert answer.status_code == 200
        assert answer.headers["mcp-chat-resumed"] == "false"
        got = answer.headers["mcp-chat-session"]
        assert got != wanted
        assert "0 before, and now go on" in answer.text.replace('"}\n\n', "") or streaming
        [asked, told] = world.other.history(f"?session_id={got}")
        assert (asked["content"], told["content"]) == ("go on", "0 before, and now go on")
    assert world.inventory() == before


def test_what_stands_below_an_own_thing_must_be_ones_own_too(world: World, before: dict[str, bytes]) -> None:
    """Open WebUI, CVE-2026-54015: the parent was checked, the child was not."""
    session, none = world.own["session"][0], new_id()
    for theirs in world.owned["message"]:
        found, missed = (
            world.other.http.patch(f"/llmchat/sessions/{session}", json={"pinned": [id_]})
            for id_ in (theirs, none)
        )
        assert (found.status_code, found.text.replace(theirs, none)) == (400, missed.text)
    for theirs in world.owned["upload"]:
        bodies: list[dict[str, Any]] = [
            {},
            {"session_id": session},
            {"session_id": world.owned["session"][0]},
        ]
        for body in bodies:
            mine = [*world.own["upload"], theirs]
            answer = world.other.post("chat", message="look", attachments=mine, **body)
            assert answer.json()["detail"] == f"The attachment {theirs} does not exist. Upload it again."
    for theirs in world.owned["session"]:
        cancelled = world.other.post("cancel", session_id=theirs)
        assert cancelled.json()["status"] == "no_running_turn"
    for theirs in world.owned["turn"]:
        told = world.other.post("chat", message="mine", message_id=theirs).json()["response"]
        assert told.endswith("and now mine"), "the same id of somebody else's is another turn"
    assert world.marker not in everything_of(world.other)
    assert world.inventory() == before


def test_an_import_brings_nothing_of_anothers_along(world: World, before: dict[str, bytes]) -> None:
    part = {"media_type": "text/plain", "name": "a", "size": 1, "upload_id": world.owned["upload"][0]}
    document = {
        "schema": "mcp-chat/session/1",
        "id": world.owned["session"][0],
        "user": world.owner.name,
        "user_id": world.owner.name,
        "messages": [
            {"role": "user", "content": "mine", "id": id_, "parts": [part]} for id_ in world.owned["message"]
        ],
        "context": {"pinned": [*world.owned["message"], *world.owned["session"]], "summary": "x"},
    }
    brought = world.other.http.post("/llmchat/sessions/import", json=document).json()["session_id"]
    assert brought not in world.owned["session"]
    for path in ("", "/messages", "/context", "/export"):
        assert world.marker not in world.other.get(f"sessions/{brought}{path}").text
    assert world.other.get(f"uploads/{part['upload_id']}").status_code == 404
    assert world.inventory() == before


def objects(schema: dict[str, Any], document: dict[str, Any], *way: str) -> Iterator[tuple[str, ...]]:
    """The ways to all objects with declared fields in a body."""
    if reference := schema.get("$ref"):
        yield from objects(document["components"]["schemas"][reference.rpartition("/")[2]], document, *way)
    if "properties" in schema:
        yield way
        for name, inner in schema["properties"].items():
            yield from objects(inner, document, *way, name)
    for inner in schema.get("anyOf", ()):
        yield from objects(inner, document, *way)
    if "items" in schema:
        yield from objects(schema["items"], document, *way, "0")


RIGHTS = ("role", "is_admin", "owner", "user", "id", "tenant", "scopes", "epoch", "sealed", "tool_ids", "run")


def test_a_field_that_nobody_declared_is_refused_in_every_object_of_every_body(world: World) -> None:
    """LiteLLM, CVE-2026-47102: who changed their own record could set their own role in it."""
    document = world.other.http.get("/openapi.json").json()
    tried = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {})
            for way in objects(content.get("application/json", {}).get("schema", {}), document):
                answer = _with_rights(world, method, path, way)
                assert answer.status_code == (404 if path.startswith("/auth/") else 422), (path, way)
                if answer.status_code == 422:
                    refused = {each["loc"][-1] for each in answer.json()["errors"]}
                    assert set(RIGHTS) <= refused, (path, way)
                tried += 1
    assert tried >= 2 * 10, "nothing was tried"


def _with_rights(world: World, method: str, path: str, way: tuple[str, ...]) -> httpx.Response:
    """Send an otherwise good body that has more fields in one of its objects."""
    more: Any = dict.fromkeys(RIGHTS, "admin")
    for step in reversed(way):
        more = [more] if step == "0" else {step: more}
    route = f"{method.upper()} {path.rsplit('llmchat/', maxsplit=1)[-1]}"
    good = TABLE[route].good(world.own) if route in TABLE else {}
    sent = {**good, "body": {**good.get("body", {}), **more}}
    if route not in TABLE:
        return world.other.http.request(method, path, json=sent["body"])
    prefix = next(each for each in PREFIXES if path.startswith(f"{each}/"))
    return world.other.http.send(request_of(world.other.http, prefix, route, sent))


def test_an_id_that_was_deleted_is_nobodys_and_gives_nothing_back(world: World) -> None:
    keeper, other, mine = world.keeper, world.other, world.kept()
    session, upload, turn = mine["session"][0], mine["upload"][0], mine["turn"][0]
    file = keeper.get(f"uploads/{upload}").content
    keeper.http.delete(f"/llmchat/sessions/{session}").raise_for_status()
    keeper.http.delete(f"/llmchat/uploads/{upload}").raise_for_status()
    for person in (keeper, other):
        for path in (f"sessions/{session}", f"sessions/{session}/export", f"uploads/{upload}"):
            assert person.get(path).status_code == 404
        assert person.post("chat", message="look", attachments=[upload]).status_code == 400
    again = other.post("chat", message="anew", session_id=session, message_id=turn).json()
    assert (again["resumed"], again["response"]) == (False, "0 before, and now anew")
    kind = {"content-type": "text/plain"}
    same = other.http.post("/llmchat/uploads", content=file, headers=kind).json()["upload_id"]
    assert other.get(f"uploads/{same}").content == file
    assert keeper.get(f"uploads/{same}").status_code == 404, "the same file of somebody else's is theirs"


def test_two_who_send_at_the_same_moment_under_the_same_ids_get_their_own(world: World) -> None:
    turn = new_id()
    world.keeper.connect()
    for n in range(3):
        for person, word in ((world.keeper, "one"), (world.other, "two")):
            answer = person.post("chat", message=word, message_id=f"{turn}{n}").json()
            assert answer["response"].endswith(word)
            assert answer["turn_id"] == f"{turn}{n}"
