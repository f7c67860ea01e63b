"""No request ends a worker, however malformed: raw bytes at real gunicorn."""

from __future__ import annotations

import gzip
import re
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.installation import Installation
from tests.model_server import ModelServer
from tests.person import Person
from tests.running import running

pytestmark = pytest.mark.slow

HOST = b"Host: 127.0.0.1\r\n"
JSON = b"Content-Type: application/json\r\n"
CHAT = b"POST /llmchat/chat HTTP/1.1\r\n" + HOST + JSON + b"Cookie: %(cookie)s\r\n"


def body(content: bytes, *headers: bytes, head: bytes = CHAT) -> bytes:
    """A whole request of somebody who is signed in."""
    length = b"Content-Length: %d\r\n" % len(content)
    return head + b"".join(header + b"\r\n" for header in headers) + length + b"\r\n" + content


def get(path: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"Cookie: %(cookie)s\r\n" + lines + b"\r\n"


HEADS = (
    b"",
    b"\r\n\r\n\r\n",
    b"\x00" * 1_000,
    bytes(range(256)) * 20,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",  # Redis
    b"GET",
    b"GET /livez",
    b"GET /livez HTTP/1.1\r\n",
    b"GET /livez HTTP/1.1\r\nHost",
    b"GET /livez HTTP/9.9\r\n\r\n",
    b"GET /livez HTTP/1.0\r\n\r\n",
    b"GET /livez\r\n\r\n",
    b"GET  /livez  HTTP/1.1\r\n\r\n",
    b"get /livez HTTP/1.1\r\n\r\n",
    b"BREW /livez HTTP/1.1\r\n" + HOST + b"\r\n",
    b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"TRACE /livez HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://169.254.169.254/latest/ HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /livez HTTP/1.1\r\n\r\n",
    *(
        b"GET /llmchat/me HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
        for host in (
            b"",
            b"x/../y?z#a",
            b"[::1",
            b"a b",
            b"\xff\xfe",
            b"x\r\nHost: y",
            b"a" * 5_000,
            b"x:99999",
        )
    ),
    b"GET /livez HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n" + HOST + b"X : a\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n" + HOST + b"X: \x00\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n",
    b"GET /livez HTTP/1.1\n" + HOST.replace(b"\r", b"") + b"\n",
    b"GET /livez HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: a\r\n" % n for n in range(1_000)) + b"\r\n",
    b"GET /livez HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 200_000,
    b"GET /" + b"a" * 60_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n" * 2 + b"GET /livez HTTP/1.1\r\n" * 50,
    (b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n") * 200,
)
PATHS = (
    *(
        b"/%",
        b"/%zz",
        b"/%00",
        b"/llmchat/%00",
        b"/llmchat/%ff%fe",
        b"//",
        b"/./././",
        b"/\xff\xfe",
        b"/llmchat/",
    ),
    *(b"/web/../../../etc/passwd", b"/web/%2e%2e/%2e%2e/settings.py", b"/web/..%5c..%5csettings.py"),
    *(b"/web/style", b"/web/a%00.js", b"/web/" + b"a" * 5_000, b"/web/" + b"a/" * 2_000),
    *(
        b"/llmchat/history/me?session_id=%00",
        b"/llmchat/history/me?limit=%F0%9F",
        b"/llmchat/config/%ed%a0%80",
    ),
    *(b"/llmchat/history/me?" + b"a=b&" * 5_000, b"/llmchat/status/" + b"%25" * 3_000, b"/#?#?", b"/;/;"),
)
HEADERS = (
    *(b"Cookie: " + b"a=b; " * 2_000, b"Cookie: ;;;=;", b'Cookie: a="\\', b"Authorization: Bearer \xff\xfe"),
    *(
        b"Authorization: Bearer " + b"a." * 5_000,
        b"Authorization: Basic %",
        b"Authorization:",
        b"Range: bytes=9-1",
    ),
    *(
        b"Range: bytes=" + b"0-1," * 2_000,
        b"If-Modified-Since: never",
        b'If-None-Match: "',
        b"Accept-Encoding: \xff",
    ),
    *(
        b"Last-Event-ID: 9" + b"9" * 5_000,
        b"Last-Event-ID: \xff-\xff",
        b"Origin: null",
        b"Idempotency-Key: \x01",
    ),
    *(b"X-Forwarded-For: " + b"1.1.1.1," * 1_000, b"X-Forwarded-Proto: gopher", b"Forwarded: for=\xff"),
    *(b"Content-Type: \xff", b"Traceparent: 00-" + b"z" * 100, b"Sec-Fetch-Site: \xff"),
)
BODIES = (
    *(
        body(content)
        for content in (b"", b"null", b"[]", b"{", b'"', b"\xff\xfe{", b"\x00", b"\xef\xbb\xbf{}")
    ),
    *(body(b'{"message": %s}' % value) for value in (b"NaN", b"1e999", b"Infinity", b"-0", b"1" * 5_000)),
    *(body(b'{"message": "%s"}' % text) for text in (b"\\ud800", b"\\u0000", b"\xed\xa0\x80", b"\xc0\x80")),
    body(b"[" * 10_000),
    body(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    body(b'{"message": "x", "message": {}, "user_id": [], "__proto__": {}, "is_admin": true}'),
    body(b"{" + b",".join(b'"k%d": 1' % n for n in range(10_000)) + b"}"),
    body(b"x" * 10_000_000),
    body(gzip.compress(bytes(10_000_000)), b"Content-Encoding: gzip"),
    body(b"{}", b"Transfer-Encoding: chunked"),
    body(b"{}", b"Content-Length: 9"),
    body(b"{}", b"Expect: 100-continue"),
    body(b"{}", b"Expect: a-miracle"),
    *(
        CHAT + b"Content-Length: %s\r\n\r\n{}" % size
        for size in (b"-1", b"+2", b"2, 2", b"0x2", b"9" * 30, b"2.0")
    ),
    CHAT + b"Content-Length: 100000\r\n\r\n{",
    *(
        CHAT + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
        for chunks in (
            b"",
            b"zz\r\n",
            b"-1\r\n",
            b"f" * 20 + b"\r\n",
            b"2\r\n{}",
            b"2\r\n{}\r\n",
            b"2\r\n{}xx0\r\n\r\n",
            b"2;" + b"a" * 10_000 + b"\r\n{}\r\n0\r\n\r\n",
            b"1\r\n{\r\n" * 1_000,
            b"2\r\n{}\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n",
        )
    ),
    CHAT + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    CHAT + b"Transfer-Encoding: identity\r\n\r\n{}",
    *(
        body(b"{}", head=CHAT.replace(JSON, b"Content-Type: " + kind + b"\r\n"))
        for kind in (
            b"text/plain",
            b"application/json; charset=utf-16",
            b"a" * 5_000,
            b"multipart/form-data",
            b"",
        )
    ),
    *(
        body(content, head=b"POST /uploads HTTP/1.1\r\n" + HOST + kind + b"Cookie: %(cookie)s\r\n")
        for kind in (
            b"Content-Type: multipart/form-data; boundary=x\r\n",
            b"Content-Type: multipart/form-data\r\n",
        )
        for content in (
            b"--x",
            b"--x\r\n" * 1_000,
            b"--x\r\nContent-Disposition: form-data; name=\xff\r\n\r\n",
        )
    ),
    *(
        body(b"{}", head=CHAT.replace(b"POST /llmchat/chat", method))
        for method in (b"PUT /", b"PATCH /llmchat/chat")
    ),
)
REQUESTS = (
    *HEADS,
    *(get(path) for path in PATHS),
    *(get(path, header) for header in HEADERS for path in (b"/llmchat/servers", b"/web/main.js")),
    *BODIES,
)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with (
        running(ModelServer().app) as model_url,
        Installation(tmp_path_factory.mktemp("malformed"), f"{model_url}/v1") as installation,
    ):
        yield installation


def sent(address: tuple[str, int], request: bytes, *, reset: bool) -> bytes:
    """Send it and hang up, at once and rudely or after the beginning of an answer; return that."""
    with socket.create_connection(address, timeout=5) as client:
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            client.sendall(request)
            if reset:
                return b""
            client.settimeout(1)
            return client.recv(4_096)
        except OSError:  # it was refused before it was read, or the server waits for the rest
            return b""


def test_no_malformed_request_ends_a_worker(installation: Installation, name: str) -> None:
    workers, url = installation.workers(), urlsplit(installation.url)
    address = (str(url.hostname), int(url.port or 0))
    with Person(installation.url, name) as alice, ThreadPoolExecutor(8) as pool:
        alice.connect()
        cookie = "; ".join(f"{key}={value}" for key, value in alice.http.cookies.items()).encode()
        requests = [request.replace(b"%(cookie)s", cookie) for request in REQUESTS]
        rude = [pool.submit(sent, address, request, reset=True) for request in requests * 2]
        plain = [pool.submit(sent, address, request, reset=False) for request in requests * 2]
        told = [each.result() for each in (*rude, *plain)][len(rude) :]
        for request, answer in zip(requests * 2, told, strict=True):
            status = re.match(rb"HTTP/1\.1 (\d\d\d) ", answer)
            assert not answer or status, (request[:200], answer[:200])
            assert not status or status[1] < b"500", (request[:200], answer[:200])
        assert sum(map(bool, told)) > len(told) / 2  # most are answered
        assert "messages, the last from user: hello" in alice.say("hello")["response"]
    assert installation.workers() == workers
    for worker in workers:  # each of them, and not only the one that is left
        with installation.person(f"{name}-{worker.pid}", worker) as person:
            person.connect()
            assert person.say("hello")["response"]
    errors = installation.errors.read_text()
    found = re.search(r"Traceback|never retrieved|CRITICAL|WORKER TIMEOUT", errors)
    assert not found, errors[max(0, found.start() - 1_000) : found.start() + 3_000]
