"""The tab's files: what a browser is sent, what it may keep, and what the page begins with."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import brotli
import httpx
import pytest
from starlette.applications import Starlette

from mcp_chat.api import assets, web
from tests.running import running

WEB = Path(assets.__file__).parents[1] / "web"
VENDOR = WEB / "vendor"
CODINGS = [
    ("gzip, br", "br", brotli.decompress),
    ("br;q=0, gzip;q=0.5", "gzip", gzip.decompress),
    ("gzip;q=0.0, brr", None, bytes),
    ("", None, bytes),
]
MOST = 80_000
"""Bytes, compressed even by the weaker coding, of a page with an empty conversation."""

NAMES = re.compile(r"^import\s*\{([^}]*)\}\s*from\s*\"(\.{1,2}/[^\"]+)\"", re.MULTILINE)
LATER = re.compile(r'import\("(\./[^"]+)"\)\.then\(\((\w+)\) => \2\.(\w+)\)')
EXPORTED = (
    r"export (?:async )?(?:function\*?|const|let|class) {}\b|export (?:const )?\{{[^}}]*\b{}\b[^}}]*\}}"
)


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    app = web.SecurityHeaders(Starlette(routes=web.routes()))
    with running(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def version(page: str) -> str:
    """The version in the addresses of a page."""
    (found,) = {match[1] for match in re.finditer(r'"web/([0-9a-f]{16})/', page)}
    return found


def test_what_the_page_names_is_there_compressed_and_may_be_kept_for_good(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["cache-control"] == "no-cache"
    addresses = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(addresses) > 30
    for address in addresses:
        answer = http.get(address)
        assert answer.status_code == 200, address
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("language", [path.stem for path in sorted((WEB / "languages").glob("*.js"))])
@pytest.mark.parametrize(
    ("takes", "coding"), [("gzip, deflate", "gzip"), ("gzip, deflate, br, zstd", "br")], ids=["gzip", "br"]
)
def test_the_first_page_is_small(http: httpx.Client, takes: str, coding: str, language: str) -> None:
    page = http.get("/")
    addresses = {*re.findall(r'(?:href|src)="([^"]+)"', page.text)}
    addresses.add(f"web/{version(page.text)}/languages/{language}.js")
    answers = [http.get(each, headers={"accept-encoding": takes}) for each in ("/", *sorted(addresses))]
    assert {each.headers.get("content-encoding") for each in answers if len(each.content) > 400} == {coding}
    assert sum(each.num_bytes_downloaded for each in answers) < MOST


def test_an_address_of_another_version_gives_this_one_but_not_for_good(http: httpx.Client) -> None:
    for address in ("/web/main.js", "/web/0123456789abcdef/main.js"):
        answer = http.get(address)
        assert answer.headers["cache-control"] == "no-cache"
        again = http.get(address, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_the_version_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<!-- preloads --><script src="web/main.js">')
    (tmp_path / "main.js").write_text("1;\n")
    first = assets.Assets(tmp_path).version
    assert assets.Assets(tmp_path).version == first
    (tmp_path / "main.js").write_text("2;\n")
    assert assets.Assets(tmp_path).version != first


def test_who_takes_no_gzip_gets_the_same_bytes(http: httpx.Client) -> None:
    plain = http.get("/web/main.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == http.get("/web/main.js").text
    assert "import " in plain.text
    assert "/**" not in plain.text


@pytest.mark.parametrize("path", ["nothing.js", "style", "", "../settings.py", "%2e%2e/settings.py"])
def test_there_is_nothing_else(http: httpx.Client, path: str) -> None:
    assert http.get(f"/web/{path}").status_code == 404


def test_a_module_is_the_same_program_without_its_comments(tmp_path: Path) -> None:
    text = '/** One. */\nconst a = "/** not */"; // kept\n  // gone\n/**\n * Two\n */\n  b(`\n  x`);\n'
    (tmp_path / "index.html").write_text("<!-- preloads -->")
    (tmp_path / "main.js").write_text(text)
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "other.js").write_text(text)
    held = assets.Assets(tmp_path)._files
    assert held["main.js"].content.decode() == '\nconst a = "/** not */"; // kept\n\n\n\n\nb(`\nx`);\n'
    assert held["vendor/other.js"].content.decode() == text


def test_the_graph_has_what_a_module_begins_with_and_not_what_it_may_want_later() -> None:
    files = {
        "main.js": (
            b'import { a } from "./view/a.js";\nimport {\n b,\n} from "./b.js";\nimport("./later.js");'
        ),
        "view/a.js": b'import{c}from"../b.js";export{d}from"./d.js";',
        "b.js": b'const x = "./later.js"',
        "view/d.js": b"",
        "later.js": b"",
    }
    assert assets.graph("main.js", files) == ["main.js", "view/a.js", "b.js", "view/d.js"]


def test_every_name_that_a_module_imports_is_there() -> None:
    """A browser finds that out only where the module is wanted."""
    for module in (path for path in WEB.rglob("*.js") if VENDOR not in path.parents):
        text = module.read_text()
        wanted = [(names, place) for names, place in NAMES.findall(text) if "vendor/" not in place]
        wanted += [(name, place) for place, _, name in LATER.findall(text)]
        for names, place in wanted:
            exporting = (module.parent / place).read_text()
            for name in (each.split(" as ")[0].strip() for each in names.split(",") if each.strip()):
                assert re.search(EXPORTED.format(name, name), exporting), f"{module.name}: {name} of {place}"


def test_the_manifest_tells_all_that_is_vendored_and_what_it_is() -> None:
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    told = {"manifest.json", "refresh.py"}
    for library in manifest["libraries"]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", library["version"])
        assert library["licence"]
        assert (VENDOR / library["licence_file"]).stat().st_size > 500
        told.add(library["licence_file"])
        for entry in library["files"]:
            content = (VENDOR / entry["file"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == entry["sha256"], entry["file"]
            told.add(entry["file"])
    there = {path.relative_to(VENDOR).as_posix() for path in VENDOR.rglob("*") if path.is_file()}
    assert {path for path in there if "__pycache__" not in path} == told


def test_what_is_packed_is_what_is_sent(http: httpx.Client) -> None:
    for taken, coding, unpack in CODINGS:
        with http.stream("GET", "/web/vendor/preact.js", headers={"accept-encoding": taken}) as answer:
            raw = b"".join(answer.iter_raw())
        assert answer.headers.get("content-encoding") == coding
        assert unpack(raw) == (VENDOR / "preact.js").read_bytes()
