"""Kinds of files: what a file is called without a name, and what must be in it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import orjson

MAX_NAME = 128

Check = Callable[[bytes], bool]


def _begins(*beginnings: bytes) -> Check:
    return lambda content: content.startswith(beginnings)


def _is_webp(content: bytes) -> bool:
    return content[:4] == b"RIFF" and content[8:12] == b"WEBP"


def _is_wave(content: bytes) -> bool:
    return content[:4] == b"RIFF" and content[8:12] == b"WAVE"


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _is_json(content: bytes) -> bool:
    try:
        orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    return _is_text(content)


KINDS: dict[str, tuple[str, Check]] = {
    "image/png": ("image.png", _begins(b"\x89PNG\r\n\x1a\n")),
    "image/jpeg": ("image.jpg", _begins(b"\xff\xd8\xff")),
    "image/gif": ("image.gif", _begins(b"GIF87a", b"GIF89a")),
    "image/webp": ("image.webp", _is_webp),
    "application/pdf": ("document.pdf", _begins(b"%PDF-")),
    "text/plain": ("text.txt", _is_text),
    "text/markdown": ("text.md", _is_text),
    "text/csv": ("table.csv", _is_text),
    "application/json": ("data.json", _is_json),
}
"""What can be sent: each type with the name of a file that has none, and what its contents must be."""

SOUNDS: dict[str, tuple[str, Check]] = {
    "audio/wav": ("sound.wav", _is_wave),
    "audio/mpeg": ("sound.mp3", _begins(b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")),
    "audio/ogg": ("sound.ogg", _begins(b"OggS")),
    "audio/flac": ("sound.flac", _begins(b"fLaC")),
    "audio/webm": ("sound.webm", _begins(b"\x1aE\xdf\xa3")),
}
"""What a tool can give besides."""

ANY = "application/octet-stream"
"""The kind of a file that no reader is to guess at: it is only ever saved."""


def kind_of(claimed: str, content: bytes) -> str:
    """Return the kind of a file of which somebody says what it is, which holds only if it looks like it."""
    name = claimed.partition(";")[0].strip().lower()
    name = {"image/jpg": "image/jpeg", "audio/x-wav": "audio/wav", "audio/mp3": "audio/mpeg"}.get(name, name)
    known = KINDS.get(name) or SOUNDS.get(name)
    return name if known and known[1](content) else ANY


def kind_or_text(claimed: str, content: bytes) -> str:
    """Return the kind of a file as `kind_of`, but of any other text that it is one."""
    found = kind_of(claimed, content)
    return "text/plain" if found == ANY and _is_text(content) else found


def name_of(kind: str) -> str:
    """Return what a file of a kind is called that has no name."""
    known = KINDS.get(kind) or SOUNDS.get(kind)
    return known[0] if known else "file.bin"


def clean_name(name: str) -> str:
    """Return the last part of a path without signs that cannot be seen; empty if nothing is left.

    Of a name that is too long the end is kept: it says what kind of file it is.
    """
    base = re.split(r"[/\\]", name)[-1]
    seen = "".join(sign for sign in base if unicodedata.category(sign)[0] != "C")
    return " ".join(seen.split()).strip(". ")[-MAX_NAME:].strip(". ")
