"""Google's Gemini: what its server sends."""

from __future__ import annotations

from typing import Any

from tests.wires.wire import Scene, events, whole, words

USAGE = {
    "promptTokenCount": 11,
    "candidatesTokenCount": 7,
    "thoughtsTokenCount": 4,
    "cachedContentTokenCount": 5,
    "totalTokenCount": 22,
}


def answer(*parts: dict[str, Any], end: str = "STOP") -> Scene:
    """Return a streamed answer of these parts, one in each chunk."""
    chunks = [_chunk([part]) for part in parts]
    last = {**_chunk([{"text": ""}], end), "usageMetadata": USAGE}
    return events(*chunks, last)


def says(text: str) -> list[dict[str, Any]]:
    """Return the parts of a text."""
    return [{"text": word} for word in words(text)]


def thinks(text: str) -> dict[str, Any]:
    """Return a thought."""
    return {"text": text, "thought": True}


def calls(name: str, args: dict[str, Any]) -> dict[str, Any]:
    """Return a call, signed."""
    return {"functionCall": {"name": name, "args": args}, "thoughtSignature": "U0lHTkVE"}


def refuses(status: int) -> Scene:
    """Return an error."""
    error = {"code": status, "message": "SECRET upstream detail", "status": "RESOURCE_EXHAUSTED"}
    return whole({"error": error}, status=status, headers={"retry-after": "7"})


def _chunk(parts: list[dict[str, Any]], end: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
    return {"candidates": [{**candidate, **({"finishReason": end} if end else {})}], "modelVersion": "g"}
