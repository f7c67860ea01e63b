"""The tab's files: read once and compressed once, at addresses that a browser may keep for good."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from mimetypes import guess_type
from pathlib import Path, PurePosixPath
from posixpath import normpath

import brotli
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

INDEX = "index.html"
PRELOADS = "<!-- preloads -->"
FIRST = "main.js"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2"}
PACKED = re.compile(r"text/|image/svg|application/json")
CODING = re.compile(r"(?<![\w-])(br|gzip)(?![\w-]|\s*;\s*q=0(?:\.0*)?(?!\.?\d))")
VERSION = re.compile(r"(?P<version>[0-9a-f]{16})/(?P<path>.+)")
IMPORT = re.compile(r"""(?:^|;)\s*(?:import|export)\b[^;"'(]*["'](\.{1,2}/[^"']+)["']""", re.MULTILINE)
"""A module that another one cannot begin without; what is imported later, in parentheses, is none."""

COMMENT = re.compile(r"^[ \t]*(?:/\*\*(?:(?!\*/).)*\*/[ \t]*$|//[^\n]*$)", re.MULTILINE | re.DOTALL)
"""Whole lines of comment, as they stand in our own modules: a fifth of them."""

INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
"""Nothing in our own modules depends on it, templates least of all."""

ELEMENT = "element.js"
FOR_ALL = {"access-control-allow-origin": "*", "cross-origin-resource-policy": "cross-origin"}
"""Of the one file that pages of other origins load: a module script is fetched with CORS."""

BEST, QUICK = 11, 5
LARGE = 65_536
"""Bytes of which the best compression would take too long while others wait."""

FOR_GOOD = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"


class Asset:
    """A file as it is sent.

    Args:
        name: Its path, which tells what it is.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        self.kind = KINDS.get(PurePosixPath(name).suffix) or guess_type(name)[0] or "application/octet-stream"
        self.tag = f'W/"{hashlib.sha256(content).hexdigest()[:16]}"'  # weak: its codings have other bytes

    @cached_property
    def packed(self) -> Mapping[str, bytes]:
        """The same by its coding, the smallest first; none if it does not get smaller."""
        if not PACKED.match(self.kind):
            return {}
        quality = BEST if len(self.content) < LARGE else QUICK
        packed = {
            "br": brotli.compress(self.content, quality=quality),
            "gzip": gzip.compress(self.content, mtime=0),
        }
        return {name: each for name, each in packed.items() if len(each) < len(self.content)}

    def answer(self, request: Request, caching: str) -> Response:
        """Return it as an answer, empty if the browser has it."""
        headers = {"cache-control": caching, "etag": self.tag, "vary": "accept-encoding"}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        taken = CODING.findall(request.headers.get("accept-encoding", ""))
        coding = next((each for each in self.packed if each in taken), None)
        if coding is None:
            return Response(self.content, headers=headers, media_type=self.kind)
        headers["content-encoding"] = coding
        return Response(self.packed[coding], headers=headers, media_type=self.kind)


class Assets:
    """All files of a folder, in memory.

    Under `VERSION/` they may be kept for good, as another state of the folder has another version. Each is
    at its bare address, too, and at those of other versions, for pages that were opened before an update.
    """

    def __init__(self, folder: Path) -> None:
        files = {name: _bare(name, content) for name, content in _read(folder)}
        page = files.pop(INDEX).decode()
        self.version = _version(files)
        first = graph(FIRST, files) if FIRST in files else []
        self._files = {name: Asset(name, content) for name, content in files.items()}
        self._index = Asset(INDEX, _page(page, self.version, first))
        for asset in (self._index, *(self._files[name] for name in first)):
            _ = asset.packed  # now, and not when the first visitor comes

    async def index(self, request: Request) -> Response:
        """Answer with the page."""
        return self._index.answer(request, ASK_AGAIN)

    async def element(self, request: Request) -> Response:
        """Answer with the file that pages of other origins load."""
        answer = self._files[ELEMENT].answer(request, ASK_AGAIN)
        answer.headers.update(FOR_ALL)
        return answer

    async def file(self, request: Request) -> Response:
        """Answer with a file."""
        path, caching = request.path_params["path"], ASK_AGAIN
        if path not in self._files and (named := VERSION.fullmatch(path)):
            path = named["path"]
            caching = FOR_GOOD if named["version"] == self.version else ASK_AGAIN
        if path not in self._files:
            raise HTTPException(404)
        return self._files[path].answer(request, caching)


def graph(first: str, files: Mapping[str, bytes]) -> list[str]:
    """Return the modules that one cannot begin without, itself first.

    Args:
        files: The text of each module by its path.
    """
    found = [first]
    for name in found:  # grows meanwhile
        found += [each for each in _imports(name, files[name]) if each in files and each not in found]
    return found


def _imports(name: str, content: bytes) -> Iterator[str]:
    folder = PurePosixPath(name).parent
    for relative in dict.fromkeys(IMPORT.findall(content.decode())):
        yield normpath(str(folder / relative))


def _read(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def _bare(name: str, content: bytes) -> bytes:
    """Return a module of ours without comments and indentation, each line in its place."""
    if not name.endswith(".js") or name.startswith("vendor/"):
        return content
    bare = COMMENT.sub(lambda match: "\n" * match[0].count("\n"), content.decode())
    return INDENT.sub("", bare).encode()


def _version(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _page(page: str, version: str, modules: Iterable[str]) -> bytes:
    """Return the page with the addresses of this version, and all that it begins with named at once."""
    links = [f'<link rel="modulepreload" href="web/{name}">' for name in modules]
    return page.replace(PRELOADS, "\n".join(links)).replace('"web/', f'"web/{version}/').encode()
