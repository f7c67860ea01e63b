"""Amazon Bedrock's ConverseStream: what its server sends, in AWS's binary frames."""

from __future__ import annotations

import json
import struct
from typing import Any
from zlib import crc32

from tests.wires.wire import Scene, whole, words

_TYPE = "application/vnd.amazon.eventstream"
USAGE = {"inputTokens": 11, "outputTokens": 7, "totalTokens": 18, "cacheReadInputTokens": 5}


def answer(*blocks: list[tuple[str, dict[str, Any]]], end: str = "end_turn") -> Scene:
    """Return an answer of these blocks."""
    told: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    for index, block in enumerate(blocks):
        told += [(name, {**about, "contentBlockIndex": index}) for name, about in block]
        told.append(("contentBlockStop", {"contentBlockIndex": index}))
    told.append(("messageStop", {"stopReason": end}))
    told.append(("metadata", {"usage": USAGE, "metrics": {"latencyMs": 1}}))
    return Scene(chunks=tuple(frame(name, about) for name, about in told), media_type=_TYPE)


def broken(kind: str, *blocks: list[tuple[str, dict[str, Any]]]) -> Scene:
    """Return an answer that an exception ends."""
    told = [("messageStart", {"role": "assistant"}), *(each for block in blocks for each in block)]
    frames = [frame(name, about) for name, about in told]
    frames.append(frame(kind, {"message": "SECRET upstream detail"}, message="exception"))
    return Scene(chunks=tuple(frames), media_type=_TYPE)


def says(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a text."""
    return [("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}}) for word in words(text)]


def thinks(text: str, signature: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a signed thought."""
    deltas = [{"text": text}, {"signature": signature}]
    return [("contentBlockDelta", {"delta": {"reasoningContent": delta}}) for delta in deltas]


def calls(id_: str, name: str, args: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a call, its arguments in pieces."""
    told = json.dumps(args)
    start = ("contentBlockStart", {"start": {"toolUse": {"toolUseId": id_, "name": name}}})
    pieces = [told[n : n + 5] for n in range(0, len(told), 5)]
    return [start, *(("contentBlockDelta", {"delta": {"toolUse": {"input": piece}}}) for piece in pieces)]


def refuses(status: int, kind: str) -> Scene:
    """Return an error."""
    headers = {"x-amzn-errortype": kind, "retry-after": "7"}
    return whole({"message": "SECRET upstream detail"}, status=status, headers=headers)


def frame(name: str, about: dict[str, Any], *, message: str = "event") -> bytes:
    """Return one frame: its lengths, their sum, its headers, what it says, and the sum of it all."""
    named = {
        f":{message}-type": name,
        ":content-type": "application/json",
        ":message-type": message,
    }
    headers = b"".join(_header(key, value) for key, value in named.items())
    payload = json.dumps(about).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack("!I", crc32(prelude)) + headers + payload
    return body + struct.pack("!I", crc32(body))


def _header(key: str, value: str) -> bytes:
    name, text = key.encode(), value.encode()
    return bytes([len(name)]) + name + b"\x07" + struct.pack("!H", len(text)) + text
