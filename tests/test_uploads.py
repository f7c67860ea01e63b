"""Files: what is taken, what is refused, and that nobody gets somebody else's."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from starlette.requests import Request

from mcp_chat.api import bodies
from mcp_chat.api.bulk import Bulk, BulkResponse
from mcp_chat.exceptions import InvalidRequest, TooManyRequests
from tests.conftest import on_one_stage
from tests.faults import Stage, refused, within
from tests.model_server import ModelServer
from tests.person import Person
from tests.running import wait_until

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 40
KINDS: dict[str, tuple[bytes, str]] = {
    "image/png": (PNG, "image.png"),
    "image/jpeg": (b"\xff\xd8\xff\xe0 jpeg \0", "image.jpg"),
    "image/gif": (b"GIF89a \0", "image.gif"),
    "image/webp": (b"RIFF\x10\0\0\0WEBPVP8 ", "image.webp"),
    "application/pdf": (b"%PDF-1.7\n\xff\0", "document.pdf"),
    "text/plain": ("täxt 漢\r\n".encode(), "text.txt"),
    "text/markdown": (b"# <script>alert(1)</script>", "text.md"),
    "text/csv": (b"a,b\n=1+1,2", "table.csv"),
    "application/json": (b'{"a": [1, null]}', "data.json"),
}

stage, model, alice = on_one_stage(
    connect_timeout=15, model_timeout=15, turn_timeout=20, max_upload_bytes=50_000, upload_quota_bytes=120_000
)


@pytest.fixture
def bob(stage: Stage, name: str) -> Iterator[Person]:
    """Somebody else."""
    with Person(stage.url, f"{name}-2") as person:
        yield person


def send(person: Person, content: Any, kind: str = "text/plain", **query: Any) -> httpx.Response:
    headers = {"content-type": kind} if kind else {}
    return person.http.post("/llmchat/uploads", content=content, headers=headers, params=query)


def sent(person: Person, content: bytes = b"hello", kind: str = "text/plain", **query: Any) -> str:
    """The id of a file that was taken."""
    response = send(person, content, kind, **query)
    assert response.status_code == 201, response.text
    return str(response.json()["upload_id"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_comes_back_as_it_was_sent(alice: Person, kind: str) -> None:
    content, name = KINDS[kind]
    answer = send(alice, content, kind)
    assert answer.status_code == 201
    upload = answer.json()
    assert upload == {
        "upload_id": upload["upload_id"],
        "name": name,
        "media_type": kind,
        "size": len(content),
    }
    assert re.fullmatch(r"[0-9a-f]{32}", upload["upload_id"])
    for prefix in ("/llmchat", "/v1/llmchat"):
        got = alice.http.get(f"{prefix}/uploads/{upload['upload_id']}")
        assert got.status_code == 200
        assert got.content == content
        assert got.headers["content-type"].partition(";")[0] == kind
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["cache-control"] == "private, max-age=31536000, immutable"
        shown = "inline" if kind.startswith("image/") else "attachment"
        assert got.headers["content-disposition"] == f"{shown}; filename=\"{name}\"; filename*=UTF-8''{name}"


def test_nothing_in_a_file_can_run(alice: Person) -> None:
    got = alice.get(f"uploads/{sent(alice)}")
    assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"


def test_the_same_file_twice_is_one(alice: Person) -> None:
    first = sent(alice, PNG, "image/png", name="a.png")
    assert sent(alice, PNG, "image/png", name="b.png") == first
    assert sent(alice, PNG + b"x", "image/png") != first
    assert sent(alice, b"{}", "application/json") != sent(alice, b"{}", "text/plain")


def test_parameters_and_capitals_of_a_type_are_as_http_allows(alice: Person) -> None:
    assert send(alice, b"x", "Text/Plain; charset=utf-8").json()["media_type"] == "text/plain"


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/html",
        "image/svg+xml",
        "application/octet-stream",
        "application/javascript",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "image/png, text/html",
        "*/*",
    ],
)
def test_another_type_is_refused_with_those_that_are_taken(alice: Person, kind: str) -> None:
    detail = refused(send(alice, b"<svg onload=alert(1)>", kind), 415)
    assert all(known in detail for known in KINDS)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("image/png", b"<script>alert(1)</script>"),
        ("image/png", b"\x89PNG"),
        ("image/png", KINDS["image/jpeg"][0]),
        ("image/jpeg", PNG),
        ("image/gif", b"GIF88a"),
        ("image/webp", b"RIFF\x10\0\0\0WAVE"),
        ("image/webp", b"WEBP"),
        ("application/pdf", b" %PDF-1.7"),
        ("text/plain", b"a\0b"),
        ("text/plain", b"\xff\xfea\0"),
        ("text/markdown", "ä".encode("latin-1")),
        ("text/csv", b"\xed\xa0\x80"),
        ("text/csv", PNG),
        ("application/json", b"{"),
        ("application/json", b"NaN"),
        ("application/json", b"\xef\xbb\xbf{}"),
        ("application/json", b"[" * 40_000),
    ],
)
def test_contents_that_are_of_another_type_are_refused(alice: Person, kind: str, content: bytes) -> None:
    assert refused(send(alice, content, kind), 400) == f"What is in the file is not {kind}."


def test_an_empty_file_is_refused(alice: Person) -> None:
    for kind in KINDS:
        assert refused(send(alice, b"", kind), 400) == "The file is empty."


def test_a_file_that_is_too_large_is_refused_before_it_is_read(alice: Person) -> None:
    assert send(alice, b"x" * 50_000).status_code == 201
    refused(send(alice, b"x" * 50_001), 413)
    pieces = (b"x" * 65_536 for _ in range(10_000))
    with within(30):
        assert "larger than 50000 bytes" in refused(send(alice, pieces), 413)


def test_who_only_says_that_much_will_come_is_refused_at_once(alice: Person, stage: Stage) -> None:
    place = urlsplit(stage.url)
    cookies = "; ".join(f"{name}={value}" for name, value in alice.http.cookies.items())
    head = f"POST /llmchat/uploads HTTP/1.1\r\nHost: {place.netloc}\r\nCookie: {cookies}\r\n"
    head += "Content-Type: text/plain\r\nContent-Length: 99999999\r\n\r\n"
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_file_that_does_not_arrive_ends(
    alice: Person, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)

    def slowly() -> Iterator[bytes]:
        yield b"x"
        time.sleep(4)
        yield b"x"

    detail = refused(send(alice, slowly()), 400)
    assert detail.startswith("The request did not arrive within")


def test_so_many_files_and_conversations_of_a_user_are_on_their_way_at_a_time(
    alice: Person, bob: Person
) -> None:
    session_id = alice.post("sessions", name="a").json()["session_id"]
    export = f"/llmchat/sessions/{session_id}/export"
    for _ in range(3):  # each gives its place back
        sent(alice)
        refused(send(alice, b""), 400)
        assert alice.http.get(export).status_code == 200
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def slowly() -> Iterator[bytes]:
        yield b"x"
        begun.release()
        assert go_on.wait(60)
        yield b"x"

    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(send, alice, slowly()) for _ in range(2)]
        try:
            assert all(begun.acquire(timeout=10) for _ in range(2))
            wait_until(lambda: send(alice, b"x").status_code == 429, "both have their places")
            session = {"schema": "mcp-chat/session/1", "name": "a", "messages": []}
            imported = alice.http.post("/llmchat/sessions/import", json=session)
            for answer in (alice.http.get(export), imported):
                assert "Wait for one of them" in refused(answer, 429)
                assert answer.headers["retry-after"] == "5"
            sent(bob)
        finally:
            go_on.set()
        assert [each.result().status_code for each in slow] == [201, 201]
    sent(alice)


@pytest.mark.anyio
async def test_an_export_has_its_place_until_it_has_gone_or_cannot_go() -> None:
    bulk, pieces = Bulk(), []

    def response() -> BulkResponse:
        with ExitStack() as held:
            held.enter_context(bulk.place("ann"))
            return BulkResponse("x" * 600_000, held.pop_all(), media_type="text/plain", headers={})
        raise AssertionError

    async def receive() -> Any:
        raise AssertionError

    async def broken(_: object) -> None:
        raise OSError("gone")

    async def send(message: Any) -> None:
        pieces.append(message.get("body", b""))
        if len(pieces) == 2:
            with pytest.raises(TooManyRequests), bulk.place("ann"):
                pass

    first, second = response(), response()
    with pytest.raises(OSError, match="gone"):
        await first({}, receive, broken)
    third = response()
    await second({}, receive, send)
    assert b"".join(pieces) == b"x" * 600_000
    assert third.headers["content-length"] == "600000"
    with bulk.place("ann"):
        pass


@pytest.mark.parametrize(
    ("called", "kept"),
    [
        ("cat.png", "cat.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ann\\cat.png", "cat.png"),
        ("/", "image.png"),
        ("", "image.png"),
        ("..", "image.png"),
        (".", "image.png"),
        ("a/..", "image.png"),
        ("\x00\r\n\x1b", "image.png"),
        ("a\r\nSet-Cookie: x=y\x00.png", "aSet-Cookie: x=y.png"),
        ("\u202egnp.exe", "gnp.exe"),
        ("q\"uo;te's.png", "q\"uo;te's.png"),
        ("  K ä t z l e  漢.png ", "K ä t z l e 漢.png"),
        ("x" * 300 + ".png", "x" * 124 + ".png"),
        ("a%2Fb.png", "a%2Fb.png"),
    ],
)
def test_a_name_is_no_path_and_has_nothing_that_cannot_be_seen(alice: Person, called: str, kept: str) -> None:
    upload = send(alice, PNG, "image/png", name=called).json()
    assert upload["name"] == kept
    got = alice.get(f"uploads/{upload['upload_id']}")
    assert re.fullmatch(
        r"inline; filename=\"[ !#$&-~]*\"; filename\*=UTF-8''[\w.%~-]+", got.headers["content-disposition"]
    )
    assert got.headers.get("set-cookie") is None


def test_a_name_that_is_no_text_is_read_as_far_as_it_is_one(alice: Person) -> None:
    path = "/llmchat/uploads?name=%ED%B3%BF.png"
    answer = alice.http.post(path, content=PNG, headers={"content-type": "image/png"})
    assert answer.json()["name"] == "\ufffd\ufffd\ufffd.png"
    assert alice.get(f"uploads/{answer.json()['upload_id']}").status_code == 200


def test_the_quota_is_a_users_own_and_a_file_counts_once(alice: Person, bob: Person) -> None:
    files = [bytes([65 + n]) * 40_000 for n in range(4)]
    ids = [sent(alice, content) for content in files[:3]]
    assert "120000 bytes" in refused(send(alice, files[3]), 413)
    assert sent(alice, files[0]) == ids[0]
    assert sent(bob, files[3])
    refused(alice.get(f"uploads/{sent(bob, files[3])}"), 404)


def test_a_file_of_somebody_else_is_one_that_does_not_exist(alice: Person, bob: Person) -> None:
    theirs = sent(bob, b"secret of bob")
    answers = [alice.get(f"uploads/{id_}") for id_ in (theirs, "0" * 32, "x" * 65, "%00", "a%20b", "..%2fx")]
    assert {refused(answer, 404) for answer in answers[:4]} == {"This file does not exist."}
    for answer in answers:
        assert answer.status_code == 404
        assert "secret" not in answer.text
    assert bob.get(f"uploads/{theirs}").content == b"secret of bob"
    assert sent(alice, b"secret of bob") == theirs, "who has the same file has it, and learns of nobody"
    assert alice.get(f"uploads/{theirs}").status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin"}, 201),
        ({"origin": "{here}"}, 201),
        ({}, 201),
    ],
)
def test_a_form_of_another_site_cannot_upload(
    alice: Person, stage: Stage, headers: dict[str, str], status: int
) -> None:
    """A body of text/plain needs no leave of ours before another site's page sends it with the cookie."""
    headers = {name: value.format(here=stage.url) for name, value in headers.items()}
    answer = alice.http.post(
        "/llmchat/uploads", content=b"evil", headers={"content-type": "text/plain", **headers}
    )
    assert answer.status_code == status


def test_nobody_uploads_or_fetches(stage: Stage, alice: Person) -> None:
    upload = sent(alice)
    with httpx.Client(base_url=stage.url, trust_env=False) as nobody:
        with within(30):
            answer = nobody.post("/llmchat/uploads", content=b"x" * 10_000_000)
        assert answer.status_code == 401
        assert nobody.get(f"/llmchat/uploads/{upload}").status_code == 401
    refused(send(alice, b"x", user_id="bob"), 403)
    refused(alice.get(f"uploads/{upload}?user_id=bob"), 403)
    assert send(alice, b"x", user_id=alice.name).status_code == 201


# Attachments


def attached(person: Person, *ids: str, **body: Any) -> httpx.Response:
    return person.post("chat", **{"message": "look", "attachments": list(ids), **body})


def test_attachments_go_with_the_message(alice: Person, model: ModelServer) -> None:
    alice.connect()
    text = sent(alice, b"the text of the file", name="notes.txt")
    image = sent(alice, PNG, "image/png", name="cat.png")
    assert attached(alice, text, image, text).status_code == 200
    [asked, _] = alice.history()
    ours = {"server": "", "uri": ""}
    assert asked["parts"] == [
        {"upload_id": text, "media_type": "text/plain", "name": "notes.txt", "size": 20, **ours},
        {"upload_id": image, "media_type": "image/png", "name": "cat.png", "size": len(PNG), **ours},
    ]
    assert alice.get(f"uploads/{image}").content == PNG


def test_a_message_may_be_nothing_but_attachments(alice: Person) -> None:
    alice.connect()
    assert attached(alice, sent(alice), message="").status_code == 200
    refused(attached(alice, message=" "), 400)
    assert [len(message["parts"]) for message in alice.history()] == [1, 0]


def test_what_is_not_ones_own_cannot_be_attached(alice: Person, bob: Person, model: ModelServer) -> None:
    alice.connect()
    theirs = sent(bob, b"secret of bob")
    for bad in (theirs, "0" * 32):
        detail = refused(attached(alice, sent(alice), bad), 400)
        assert detail == f"The attachment {bad} does not exist. Upload it again."
    for bodies_ in (["a b"], ["\x00"], ["x" * 65], [7], ["x"] * 9, "x", None):
        refused(alice.post("chat", message="x", attachments=bodies_), 422)
    assert alice.history() == []
    assert model.requests == []


def test_a_file_goes_with_the_last_conversation_that_has_it(alice: Person) -> None:
    alice.connect()
    both, one = sent(alice, b"both"), sent(alice, b"one")
    ids = []
    for files in ((both, one), (both,)):
        session = alice.http.post("/llmchat/sessions", json={"name": "x"}).json()["session_id"]
        assert attached(alice, *files, session_id=session).status_code == 200
        ids.append(session)
    for session, left in zip(ids, ((200, 404), (404, 404)), strict=True):
        assert alice.http.delete(f"/llmchat/sessions/{session}").status_code == 200
        assert tuple(alice.get(f"uploads/{id_}").status_code for id_ in (both, one)) == left


def test_an_imported_message_gives_nobody_a_file(alice: Person, bob: Person) -> None:
    alice.connect()
    theirs = sent(alice, b"private", name="p.txt")
    assert attached(alice, theirs).status_code == 200
    [session] = alice.get("sessions").json()["sessions"]
    exported = alice.get(f"sessions/{session['session_id']}/export")
    new = bob.http.post(
        "/llmchat/sessions/import", content=exported.content, headers={"content-type": "application/json"}
    ).json()
    [asked, _] = bob.get(f"sessions/{new['session_id']}/messages").json()["messages"]
    assert asked["parts"][0]["name"] == "p.txt"
    refused(bob.get(f"uploads/{asked['parts'][0]['upload_id']}"), 404)


def test_a_file_stays_with_an_imported_message_of_its_user(alice: Person) -> None:
    own = sent(alice, b"kept by the import")
    part = {"upload_id": own, "media_type": "text/plain", "name": "a.txt", "size": 18}
    parts = [part, *({**part, "upload_id": f"none-{n}"} for n in range(5_000))]
    messages = [{"role": "user", "content": "look", "parts": parts}]
    document = {"schema": "mcp-chat/session/1", "messages": messages}
    new = alice.http.post("/llmchat/sessions/import", json=document).json()["session_id"]
    assert alice.get(f"uploads/{own}").status_code == 200
    assert alice.http.delete(f"/llmchat/sessions/{new}").status_code == 200
    refused(alice.get(f"uploads/{own}"), 404)


def test_the_limits_are_the_operators(serve: Callable[..., str], name: str) -> None:
    with Person(serve(max_upload_bytes=10, upload_quota_bytes=15), name) as person:
        assert send(person, b"x" * 10).status_code == 201
        assert "larger than 10 bytes" in refused(send(person, b"x" * 11), 413)
        assert "15 bytes together" in refused(send(person, b"y" * 6), 413)


def test_a_file_can_be_deleted_and_messages_go_on_naming_it(alice: Person, model: ModelServer) -> None:
    alice.connect()
    upload_id = sent(alice, PNG, "image/png", name="dot.png")
    alice.say("look", attachments=[upload_id])
    gone = alice.http.delete(f"/llmchat/uploads/{upload_id}")
    assert gone.json() == {"status": "deleted", "upload_id": upload_id}
    assert alice.http.delete(f"/llmchat/uploads/{upload_id}").status_code == 404
    assert alice.get(f"uploads/{upload_id}").status_code == 404
    alice.say("what was it?")
    assert "dot.png cannot be shown" in str(model.requests[-1]["messages"][0])
    assert alice.history()[0]["parts"][0]["name"] == "dot.png"


def test_what_is_sent_again_has_its_newest_name(alice: Person) -> None:
    upload_id = sent(alice, PNG, "image/png", name="one.png")
    assert send(alice, PNG, "image/png", name="two.png").json()["name"] == "two.png"
    assert "two.png" in alice.get(f"uploads/{upload_id}").headers["content-disposition"]


def test_someone_who_hangs_up_in_a_body_is_no_error_of_ours() -> None:
    async def receive() -> dict[str, str]:
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)
    with pytest.raises(InvalidRequest, match="broke off"):
        anyio.run(lambda: bodies.read_bytes(request, limit=10))
