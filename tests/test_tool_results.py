"""What tools give besides text is kept once, for its user alone, and never goes through the log."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.server import MCPServer
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from mcp_chat.results import MAX_MEDIA, MAX_RESULT, MAX_STRUCTURED
from tests.conftest import on_one_stage
from tests.faults import Stage, refused, usable
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running

PNG = b"\x89PNG\r\n\x1a\n picture"
WAV = b"RIFF\x10\0\0\0WAVEfmt "
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
QUOTA = 300_000

stage, model, alice = on_one_stage(
    connect_timeout=15, model_timeout=15, turn_timeout=40, upload_quota_bytes=QUOTA, max_result_bytes=500_000
)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def answer(*parts: Any, **more: Any) -> CallToolResult:
    return CallToolResult(content=list(parts), **more)


def image(content: bytes = PNG, kind: str = "image/png") -> ImageContent:
    return ImageContent(type="image", data=encoded(content), mime_type=kind)


def blob(content: bytes, uri: str, kind: str | None = None) -> EmbeddedResource:
    resource = BlobResourceContents(uri=uri, blob=encoded(content), mime_type=kind)
    return EmbeddedResource(type="resource", resource=resource)


ANSWERS: dict[str, CallToolResult] = {
    "picture": answer(TextContent(type="text", text="See:"), image()),
    "sound": answer(AudioContent(type="audio", data=encoded(WAV), mime_type="audio/x-wav")),
    "page": answer(blob(b"<script>alert(1)</script>", "file:///a/b/page.html", "text/html")),
    "drawing": answer(image(SVG, "image/svg+xml")),
    "liar": answer(image(SVG, "image/png")),
    "paper": answer(blob(b"%PDF-1.7 x", "file:///x/\u202epaper.pdf", "application/pdf")),
    "note": answer(
        EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///n", text="a note"))
    ),
    "link": answer(
        ResourceLink(type="resource_link", uri="https://r.example/a?b=c#d\u202e", name="the\nlink"),
    ),
    "many": answer(*(image(PNG + bytes([n])) for n in range(MAX_MEDIA + 3))),
    "large": answer(image(PNG + bytes(QUOTA))),
    "empty": answer(image(b"")),
    "long": answer(TextContent(type="text", text="x" * 50_000)),
    "figures": answer(structured_content={"n": [1, 2.5, None]}),
    "both": answer(TextContent(type="text", text="two"), structured_content={"n": 2}),
    "twice": answer(TextContent(type="text", text="two"), structured_content={"result": "two"}),
    "large figures": answer(structured_content={"n": "x" * (MAX_STRUCTURED + 1)}),
    "failed": answer(TextContent(type="text", text="No."), image(), is_error=True, structured_content=[1]),
}


@pytest.fixture(scope="module")
def gallery() -> Iterator[str]:
    """URL of a server whose one tool gives what it is asked for."""
    server = MCPServer("gallery")

    @server.tool()
    async def give(what: str) -> CallToolResult:
        return ANSWERS[what]

    with running(server.streamable_http_app(), grace=0) as url:
        yield f"{url}/mcp"


@pytest.fixture
def visitor(alice: Person, gallery: str) -> Person:
    alice.connect(server={"url": gallery, "alias": "g"})
    return alice


def given(person: Person, model: ModelServer, what: str) -> dict[str, Any]:
    """Have the model ask for something; return the end of the call."""
    model.will(Reply(calls=[("g__give", {"what": what})]), Reply(text="I see."))
    _, end = person.say("go")["tool_invocations"]
    assert isinstance(end, dict)
    text = end.get("output", end.get("error"))
    assert model.requests[-1]["messages"][-1]["content"] == text
    return end


@pytest.mark.parametrize(
    ("what", "name", "kind", "content", "disposition"),
    [
        ("picture", "image.png", "image/png", PNG, "inline"),
        ("sound", "sound.wav", "audio/wav", WAV, "attachment"),
        ("page", "page.html", "application/octet-stream", b"<script>alert(1)</script>", "attachment"),
        ("drawing", "image-svg+xml.bin", "application/octet-stream", SVG, "attachment"),
        ("liar", "image-png.bin", "application/octet-stream", SVG, "attachment"),
        ("paper", "paper.pdf", "application/pdf", b"%PDF-1.7 x", "attachment"),
    ],
)
def test_a_file_that_a_tool_gives_is_kept_for_its_user(
    visitor: Person,
    model: ModelServer,
    stage: Stage,
    what: str,
    name: str,
    kind: str,
    content: bytes,
    disposition: str,
) -> None:
    end = given(visitor, model, what)
    [file] = end["files"]
    assert (file["name"], file["media_type"], file["size"]) == (name, kind, len(content))
    note = f"[{name}: {kind}, {len(content)} bytes, kept for the user as {file['upload_id']}]"
    assert end["output"].splitlines()[-1] == note
    response = visitor.get(f"uploads/{file['upload_id']}")
    assert response.content == content
    assert response.headers["content-type"] == kind
    assert response.headers["content-disposition"].startswith(disposition)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in response.headers["content-security-policy"]
    with Person(stage.url, f"{visitor.name}-2") as bob:
        refused(bob.get(f"uploads/{file['upload_id']}"), 404)
    shown = visitor.history()[2]
    assert (shown["role"], shown["parts"]) == ("tool", [file])
    usable(visitor, model)


def test_what_is_in_a_file_goes_into_no_event_and_to_no_model(visitor: Person, model: ModelServer) -> None:
    model.will(Reply(calls=[("g__give", {"what": "picture"})]), Reply(text="I see."))
    frames = visitor.stream("go")
    for seen in (json.dumps(frames), json.dumps(model.requests), json.dumps(visitor.history())):
        assert encoded(PNG)[:12] not in seen
    assert [data["files"][0]["name"] for event, data in frames if event == "tool_end"] == ["image.png"]


def test_the_same_file_is_kept_once(visitor: Person, model: ModelServer) -> None:
    ids = {given(visitor, model, "picture")["files"][0]["upload_id"] for _ in range(3)}
    assert len(ids) == 1


def test_files_beyond_the_quota_are_not_kept_and_the_result_holds(
    visitor: Person, model: ModelServer
) -> None:
    end = given(visitor, model, "large")
    assert (end["type"], "files" in end) == ("tool_end", False)
    assert end["output"].endswith(f"{QUOTA + len(PNG)} bytes, not kept, since the user's files are full]")
    assert given(visitor, model, "picture")["files"]


def test_of_very_many_files_some_are_kept(visitor: Person, model: ModelServer) -> None:
    end = given(visitor, model, "many")
    assert len(end["files"]) == MAX_MEDIA
    assert "[3 more files were left out]" in end["output"]


def test_a_long_text_is_kept_as_a_whole(visitor: Person, model: ModelServer) -> None:
    end = given(visitor, model, "long")
    assert len(end["output"]) < MAX_RESULT + 300
    [file] = end["files"]
    assert file["upload_id"] in end["output"]
    assert visitor.get(f"uploads/{file['upload_id']}").text == "x" * 50_000


def test_structured_content_is_there_for_programs_and_as_text_for_the_model(
    visitor: Person, model: ModelServer
) -> None:
    end = given(visitor, model, "figures")
    assert (end["output"], end["structured"]) == ('{"n":[1,2.5,null]}', {"n": [1, 2.5, None]})
    end = given(visitor, model, "both")
    assert (end["output"], end["structured"]) == ("two", {"n": 2})
    assert visitor.history()[-2]["metadata"]["structured"] == {"n": 2}
    assert "structured" not in given(visitor, model, "twice")
    end = given(visitor, model, "large figures")
    assert ("structured" in end, end["output"][:5]) == (False, '{"n":')


def test_a_failure_can_have_files_too(visitor: Person, model: ModelServer) -> None:
    end = given(visitor, model, "failed")
    assert (end["type"], end["error"].splitlines()[0]) == ("tool_error", "No.")
    assert len(end["files"]) == 1
    assert end["structured"] == [1]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("note", "a note"),
        ("link", "[resource the<U+000A>link: https://r.example/a?b=c#d<U+202E>]"),
        ("empty", "[image that cannot be read]"),
    ],
)
def test_what_is_no_file_is_told(visitor: Person, model: ModelServer, what: str, text: str) -> None:
    end = given(visitor, model, what)
    assert (end["output"], "files" in end) == (text, False)


def test_a_file_of_a_tool_can_be_attached_to_a_message(visitor: Person, model: ModelServer) -> None:
    picture = given(visitor, model, "picture")["files"][0]["upload_id"]
    sound = given(visitor, model, "sound")["files"][0]["upload_id"]
    model.will(Reply(text="A picture and a sound."))
    visitor.say("what is it?", attachments=[picture, sound])
    sent = model.requests[-1]["messages"]
    assert encoded(PNG) in json.dumps(sent[-1])
    assert "sound.wav is no text and is not shown" in json.dumps(sent[-1])
    assert encoded(PNG) not in json.dumps(sent[:-1])


def test_without_a_database_it_is_said_that_a_file_is_not_kept(
    serve: Callable[..., str], model: ModelServer, stage: Stage, gallery: str, name: str, tmp_path: Path
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(f"models:\n  - model: openai:scripted\n    base_url: {stage.model_url}\n")
    with Person(serve(database_url="", models_file=models), name) as person:
        person.connect(server={"url": gallery, "alias": "g"})
        end = given(person, model, "picture")
    assert (
        end["output"]
        == f"See:\n[image.png: image/png, {len(PNG)} bytes, not kept, since there is no database]"
    )
    assert "files" not in end


def test_what_a_tool_gave_is_in_an_export(visitor: Person, model: ModelServer) -> None:
    end = given(visitor, model, "both")
    session = visitor.get("config/{me}").json()["session_id"]
    exported = visitor.http.get(f"/llmchat/sessions/{session}/export").json()
    [told] = [message for message in exported["messages"] if message["role"] == "tool"]
    assert told["metadata"]["structured"] == end["structured"]
