"""Search what the product leaves behind: logs, Valkey, the database, processes, metrics."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, cast

from redis import Redis

from tests.soak.canary import OPERATOR, found, secrets

AT_ONCE: Final = 1 << 20
OVERLAP: Final = 512
"""Bytes that are searched twice: a mark may lie across the border of two pieces."""

_USER: Final = re.compile(rb"\{user-(\d{3})\}")


def in_pieces(path: Path, begin: int = 0) -> Iterator[bytes]:
    """Read a file from a place on."""
    with path.open("rb") as file:
        file.seek(max(0, begin - OVERLAP))
        rest = b""
        while piece := file.read(AT_ONCE):
            yield rest + piece
            rest = piece[-OVERLAP:]


def any_mark(data: bytes) -> Iterator[str]:
    """Say what must not be where no text of a user's, and no secret, belongs."""
    yield from secrets(data)
    for canary in sorted(found(data)):
        if canary.kind not in ("key", "tok"):
            yield f"the text {canary}"


def besides(data: bytes, user: int) -> Iterator[str]:
    """Say what must not be among what is kept for a user: secrets, and the texts of others."""
    yield from secrets(data)
    for canary in sorted(found(data)):
        if canary.user != user and canary.kind not in ("key", "tok"):
            yield f"the text {canary}"


def no_operators(data: bytes) -> Iterator[str]:
    """Say which marks of users there are: the operator's own keys stand in the environment."""
    for canary in sorted(found(data)):
        if canary.user != OPERATOR:
            yield str(canary)


def redis(client: Redis, searched: dict[str, int]) -> Iterator[str]:
    """Search every key, its name and all that it holds, as bytes."""
    for key in cast(Iterable[bytes], client.scan_iter(count=1000)):
        value = b"\n".join(_flat(_value(client, key)))
        searched["Valkey"] += len(key) + len(value)
        owner = _USER.search(key)
        data = key + b"\n" + value
        for violation in besides(data, int(owner[1])) if owner else any_mark(data):
            yield f"{key!r} has {violation}"


def _value(client: Redis, key: bytes) -> Any:
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"hash":
            return client.hgetall(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return client.smembers(key)
        case b"zset":
            return client.zrange(key, 0, -1)
        case b"stream":
            return client.xrange(key)
        case b"none":  # expired since
            return b""
    raise AssertionError(f"{key!r} has an unknown type")


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple | set):
        for part in value:
            yield from _flat(part)
    elif value is not None:
        yield value if isinstance(value, bytes) else str(value).encode()


def database(path: Path, searched: dict[str, int]) -> Iterator[str]:
    """Search every row of every table that says whose it is."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            yield from _table(connection, name.decode(), searched)


def _table(connection: sqlite3.Connection, table: str, searched: dict[str, int]) -> Iterator[str]:
    cursor = connection.execute(f'SELECT * FROM "{table}"')
    columns = [column[0] for column in cursor.description]
    place = columns.index("user_key") if "user_key" in columns else None
    for row in cursor:
        data = b"\n".join(_flat(row))
        searched["database"] += len(data)
        if b"zq7-" not in data and b"eyJ" not in data:
            continue
        if place is None:
            yield from (f"{table} has a secret: {secret}" for secret in secrets(data))
            continue
        owner = row[place].decode()
        user = int(owner.removeprefix("user-")) if owner.startswith("user-") else OPERATOR
        yield from (f"{table} of {owner} has {violation}" for violation in besides(data, user))


def processes(ids: Iterable[int], searched: dict[str, int]) -> Iterator[str]:
    """Search titles and environments of processes."""
    for number in ids:
        for name in ("cmdline", "environ"):
            try:
                data = Path(f"/proc/{number}/{name}").read_bytes()
            except OSError:
                continue
            searched["processes"] += len(data)
            yield from (f"{name} of a process has {mark}" for mark in no_operators(data))
