"""Makes pictures of screens small: PNG with a palette."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MOST: Final = 256
BYTES: Final = 3  # of a pixel

Colour = tuple[int, int, int]


def reduced(picture: bytes) -> bytes:
    """Return a picture with few colours.

    Args:
        picture: A PNG of 8-bit RGB without interlacing, as browsers make of a page.

    Returns:
        A PNG with a palette; colours that have no place in it are the nearest that have one.
    """
    parts = list(_chunks(picture))
    width, height, depth, kind = struct.unpack(">IIBB", dict(parts)[b"IHDR"][:10])
    assert (depth, kind) == (8, 2), "8-bit RGB"
    packed = b"".join(data for name, data in parts if name == b"IDAT")
    rows = [list(zip(*[iter(row)] * BYTES, strict=True)) for row in _rows(zlib.decompress(packed), width)]
    counted = Counter(colour for row in rows for colour in row)
    palette = _palette([colour for colour, _ in counted.most_common()])
    index = {colour: _nearest(colour, palette) for colour in counted}
    lines = b"".join(b"\0" + bytes(index[colour] for colour in row) for row in rows)
    return SIGNATURE + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", bytes(value for colour in palette for value in colour)),
            _chunk(b"IDAT", zlib.compress(lines, 9)),
            _chunk(b"IEND", b""),
        )
    )


def _palette(colours: list[Colour]) -> list[Colour]:
    """The most frequent colours, each so far from the others that rare ones find a place, too."""
    chosen: list[Colour] = []
    for apart in (0, 24, 48, 96, 192, 384, 768):
        chosen = []
        for colour in colours:
            if not chosen or _distance(colour, chosen[_nearest(colour, chosen)]) > apart:
                chosen.append(colour)
            if len(chosen) > MOST:
                break
        else:
            return chosen
    return chosen[:MOST]


def _nearest(colour: Colour, palette: list[Colour]) -> int:
    return min(range(len(palette)), key=lambda place: _distance(colour, palette[place]))


def _distance(one: Colour, other: Colour) -> int:
    return (one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2 + (one[2] - other[2]) ** 2


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(SIGNATURE)
    while place < len(picture):
        (size,) = struct.unpack_from(">I", picture, place)
        yield picture[place + 4 : place + 8], picture[place + 8 : place + 8 + size]
        place += size + 12


def _rows(raw: bytes, width: int) -> Iterator[bytearray]:
    """Take the filters back that each row was written with."""
    size = width * BYTES
    above = bytearray(size)
    for place in range(0, len(raw), size + 1):
        row = bytearray(raw[place + 1 : place + 1 + size])
        _unfilter(raw[place], row, above)
        yield row
        above = row


def _unfilter(kind: int, row: bytearray, above: bytearray) -> None:
    for n in range(len(row)):
        left, corner = (row[n - BYTES], above[n - BYTES]) if n >= BYTES else (0, 0)
        row[n] = (row[n] + _predicted(kind, left, above[n], corner)) & 255


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    match kind:
        case 0:
            return 0
        case 1:
            return left
        case 2:
            return up
        case 3:
            return (left + up) // 2
    return min((left, up, corner), key=lambda value: abs(left + up - corner - value))
