"""What the chat adds to a turn: the same model server asked directly, and through two real workers."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import percentile, spread
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import running

WORDS = 100
TURNS = 100
PAUSE = 0.002
TEXT = "word " * (WORDS - 1) + "end"


class Storyteller(ModelServer):
    """Says the same, whoever asks."""

    def reply_to(self, sent: dict[str, Any]) -> Reply:
        """Return the story."""
        return Reply(text=TEXT, pause=PAUSE)


def _serve(pipe: Connection) -> None:
    with running(Storyteller().app) as url:
        pipe.send(url)
        pipe.recv()


@contextmanager
def model_server() -> Iterator[str]:
    """Run the scripted model in a process of its own."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,))
    process.start()
    try:
        yield f"{here.recv()}/v1"
    finally:
        here.send("stop")
        process.join(10)


def direct(http: httpx.Client, url: str) -> tuple[float, float]:
    """Return the seconds until the first token and until the end, straight from the model server."""
    body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": "go"}]}
    began, first = time.perf_counter(), 0.0
    with http.stream("POST", f"{url}/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if not first and line.startswith("data: {") and _says(line):
                first = time.perf_counter() - began
    return first, time.perf_counter() - began


def _says(line: str) -> bool:
    choices = json.loads(line[6:])["choices"]
    return bool(choices and choices[0]["delta"].get("content"))


def through(person: Person) -> tuple[float, float]:
    """Return the same through the chat."""
    began, first = time.perf_counter(), 0.0
    with person.streaming("go") as frames:
        for event, _ in frames:
            if not first and event == "token":
                first = time.perf_counter() - began
    return first, time.perf_counter() - began


def report() -> list[str]:
    """Return the lines of a table."""
    with (
        model_server() as url,
        tempfile.TemporaryDirectory() as folder,
        httpx.Client(trust_env=False, timeout=60) as http,
        Installation(Path(folder), url) as chat,
    ):
        person = chat.person("bench")
        person.connect()
        pairs = [(direct(http, url), through(person)) for _ in range(TURNS)]
    plain, chatted = [pair[0] for pair in pairs[5:]], [pair[1] for pair in pairs[5:]]
    rows = []
    for title, part in (("first token", 0), ("whole turn", 1)):
        straight, ours = [t[part] for t in plain], [t[part] for t in chatted]
        added = percentile(ours, 0.5) - percentile(straight, 0.5)
        rows.append(f"| {title} | {spread(straight)} | {spread(ours)} | {added:+.1f} |")
    return [
        f"### A turn of {WORDS} words, one every {PAUSE * 1000:g} ms, {TURNS} turns, two workers",
        "",
        "| ms | direct p50 | p99 | through the chat p50 | p99 | added at p50 |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
