"""Log lines: JSON for machines, no secrets, no forged lines."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from mcp_chat import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave structlog as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Begin = Callable[..., io.StringIO]


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Begin to log; gives where the lines go."""

    def begin(level: str = "info", *, terminal: bool = False) -> io.StringIO:
        stream = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        logs.set_up(level)
        return stream

    return begin


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_time_and_level(begin: Begin) -> None:
    stderr = begin()
    structlog.get_logger().info("turn.done", user="ann", elapsed=0.5)
    [line] = lines(stderr)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "turn.done", "level": "info", "user": "ann", "elapsed": 0.5}


def test_what_is_below_the_level_is_not_logged(begin: Begin) -> None:
    stderr = begin("warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [line["event"] for line in lines(stderr)] == ["loud"]


@pytest.mark.parametrize(
    "field",
    [
        "token",
        "auth_token",
        "api_key",
        "API_KEY",
        "password",
        "client_secret",
        "Authorization",
        "set_cookie",
        "headers",
        "sealed",
    ],
)
def test_a_field_whose_name_says_that_it_is_secret_is_masked(begin: Begin, field: str) -> None:
    stderr = begin()
    structlog.get_logger().info("x", **{field: "CANARY"})
    assert lines(stderr)[0][field] == "*****"
    assert "CANARY" not in stderr.getvalue()


def test_a_secret_inside_a_field_is_masked(begin: Begin) -> None:
    stderr = begin()
    structlog.get_logger().info(
        "x", server={"url": "https://e", "auth_token": "CANARY"}, list=[{"token": "CANARY"}]
    )
    assert "CANARY" not in stderr.getvalue()
    assert lines(stderr)[0]["server"]["url"] == "https://e"


def test_a_secret_bound_to_the_context_is_masked(begin: Begin) -> None:
    stderr = begin()
    with structlog.contextvars.bound_contextvars(token="CANARY", user="ann"):
        structlog.get_logger().info("x")
    assert "CANARY" not in stderr.getvalue()
    assert lines(stderr)[0]["user"] == "ann"


@pytest.mark.parametrize(
    "forged", ['a\n{"event": "forged"}', "a\r\nb", "\x1b[2Jgone", "\u2028", "\x00", "\x85"]
)
@pytest.mark.parametrize("terminal", [False, True])
def test_no_text_can_make_a_line_of_its_own_or_command_a_terminal(
    begin: Begin, forged: str, terminal: bool
) -> None:
    stream = begin(terminal=terminal)
    structlog.get_logger().info("before", user=forged)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\r" not in text
    assert "\x1b[2J" not in text
    assert "\x00" not in text


def test_an_exception_is_one_line(begin: Begin) -> None:
    stderr = begin()
    try:
        raise ValueError("a\nb")
    except ValueError:
        structlog.get_logger().exception("crashed")
    [line] = lines(stderr)
    assert "ValueError" in line["exception"]


@pytest.mark.parametrize("terminal", [False, True])
def test_an_exception_does_not_show_the_values_that_its_frames_held(begin: Begin, terminal: bool) -> None:
    stderr = begin(terminal=terminal)

    def fail(key: str) -> None:
        raise ValueError(len(key))

    try:
        fail("CANA" + "RY")
    except ValueError:
        structlog.get_logger().exception("crashed")
    assert "ValueError" in stderr.getvalue()
    assert "CANARY" not in stderr.getvalue()
