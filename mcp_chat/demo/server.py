"""An MCP server with toys: ``python -m mcp_chat.demo.server --port 8010``, then connect to ``http://127.0.0.1:8010/mcp``.

The to-do list belongs to an MCP session, so that two users (or two conversations) can be seen not to
share anything. Revision 2026-07-28 has no sessions: each request is a connection of its own, and the
only place for state would be a handle that the model passes around in its arguments. So this server
speaks the revisions with a handshake only, and says so to a client that asks in the new way. The SDK
has no setting for it; a middleware that refuses is what it offers. ``mcp.Client(mode="auto")`` then
falls back to the handshake by itself.
"""

from __future__ import annotations

import argparse
import logging
import math
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from types import FrameType
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import anyio
import uvicorn
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.elicitation import AcceptedElicitation
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import UNSUPPORTED_PROTOCOL_VERSION, ToolAnnotations, UnsupportedProtocolVersionErrorData
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field
from starlette.applications import Starlette

MAX_SESSIONS: Final = 1_000
SESSION_IDLE_SECONDS: Final = 30 * 60
MAX_ITEMS: Final = 100
MAX_ITEM_LENGTH: Final = 200
MAX_TEXT_LENGTH: Final = 10_000
SHUTDOWN_SECONDS: Final = 3

Number = Annotated[float, Field(description="A number.")]
TimeZone = Annotated[str, Field(description="An IANA name.", examples=["Europe/Berlin"], max_length=100)]
Reason = Annotated[str, Field(description="What to say.", max_length=MAX_TEXT_LENGTH)]


# Arithmetic


def _tidy(value: float) -> float:
    """0.1 + 0.2 as 0.3 and 5.0 as 5, which read better; what no float can hold is an error."""
    if not math.isfinite(value):
        raise ToolError("The result is too large.")
    rounded = float(f"{value:.15g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


async def add(a: Number, b: Number) -> float:
    """Add two numbers."""
    return _tidy(a + b)


async def subtract(a: Number, b: Number) -> float:
    """Subtract the second number from the first."""
    return _tidy(a - b)


async def multiply(a: Number, b: Number) -> float:
    """Multiply two numbers."""
    return _tidy(a * b)


async def divide(a: Number, b: Number) -> float:
    """Divide the first number by the second."""
    if b == 0:
        raise ToolError(f"{_tidy(a)} cannot be divided by zero.")
    return _tidy(a / b)


async def roll_dice(
    count: Annotated[int, Field(ge=1, le=100, description="How many dice.")] = 1,
    sides: Annotated[int, Field(ge=2, le=1_000, description="Sides of each die.")] = 6,
) -> str:
    """Roll some dice and add them up."""
    rolls = [secrets.randbelow(sides) + 1 for _ in range(count)]
    return f"{' + '.join(map(str, rolls))} = {sum(rolls)}" if count > 1 else str(rolls[0])


# Time and text


def _zone(name: str) -> tzinfo:
    if name.upper() == "UTC":  # also where no time zone data is installed
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown; a path; a directory such as "Europe"
        raise ToolError(f"{name!r} is not a time zone. Write it like Europe/Berlin or UTC.") from None


async def get_current_time(timezone: TimeZone = "UTC") -> str:
    """Tell the date and time in a time zone."""
    now = datetime.now(_zone(timezone))
    return f"{now:%A, %d %B %Y, %H:%M:%S} {timezone} (UTC{now:%z})"


async def echo(text: Annotated[str, Field(description="What to repeat.", max_length=MAX_TEXT_LENGTH)]) -> str:
    """Repeat a text."""
    return text


# The to-do list


@dataclass(slots=True)
class TodoList:
    """What there is to do, in the order it was added."""

    items: list[tuple[str, bool]] = field(default_factory=list)

    def add(self, text: str) -> None:
        text = " ".join(text.split())
        if not text:
            raise ToolError("An item needs some text.")
        if len(self.items) >= MAX_ITEMS:
            raise ToolError(f"The list is full: it holds {MAX_ITEMS} items.")
        self.items.append((text, False))

    def finish(self, number: int) -> str:
        if not 1 <= number <= len(self.items):
            raise ToolError(f"There is no item {number}: the list has {len(self.items)}.")
        text, _ = self.items[number - 1]
        self.items[number - 1] = (text, True)
        return text

    def __str__(self) -> str:
        lines = [f"{n}. [{'x' if done else ' '}] {text}" for n, (text, done) in enumerate(self.items, 1)]
        return "\n".join(lines) or "The list is empty."


def _todos(ctx: Context) -> TodoList:
    """The list of the session this call came in.

    It lives in the SDK's own per-session state, which goes when the session does: closed, idle for too
    long, or refused because there are too many. The SDK keeps that object to itself as of 2.3; the
    session id is public, but a table of our own would outlive the sessions it is about.
    """
    state = ctx.session._connection.state
    todos = state.setdefault("todos", TodoList())
    assert isinstance(todos, TodoList)
    return todos


async def todo_add(
    item: Annotated[str, Field(max_length=MAX_ITEM_LENGTH, description="What there is to do.")],
    ctx: Context,
) -> str:
    """Add an item to the to-do list of this connection."""
    todos = _todos(ctx)
    todos.add(item)
    return str(todos)


async def todo_list(ctx: Context) -> str:
    """Show the to-do list of this connection."""
    return str(_todos(ctx))


async def todo_done(
    number: Annotated[int, Field(description="Number of the item, as the list shows it.")], ctx: Context
) -> str:
    """Mark an item of the to-do list as done."""
    todos = _todos(ctx)
    todos.finish(number)
    return str(todos)


async def todo_clear(ctx: Context) -> str:
    """Remove everything from the to-do list of this connection."""
    todos = _todos(ctx)
    count = len(todos.items)
    todos.items.clear()
    return f"Removed {count} item{'' if count == 1 else 's'}."


# Tools that show what a client has to cope with


async def slow_count(
    ctx: Context,
    steps: Annotated[int, Field(ge=1, le=60, description="How far to count.")] = 5,
    pause: Annotated[float, Field(ge=0, le=10, description="Seconds before each step.")] = 1.0,
) -> str:
    """Count slowly and report progress with each step."""
    for step in range(1, steps + 1):
        await anyio.sleep(pause)
        await ctx.report_progress(step, steps, f"Step {step} of {steps}")
    return f"Counted to {steps}."


class Booking(BaseModel):
    """What one is asked who wants a table."""

    day: Annotated[str, Field(title="Day", json_schema_extra={"format": "date"})]
    people: Annotated[int, Field(title="For how many", ge=1, le=12)] = 2
    outside: Annotated[bool, Field(title="Outside")] = False


async def book_table(ctx: Context) -> str:
    """Ask when and for how many, as a server may in the middle of a call. Nothing is really booked."""
    asked = await ctx.elicit("When do you want a table, and for how many?", Booking)
    if not isinstance(asked, AcceptedElicitation):
        return "No table was booked."
    wanted = asked.data
    place = "outside" if wanted.outside else "inside"
    return f"A table for {wanted.people} {place} on {wanted.day}, or it would be if this were no demo."


async def always_fails(reason: Reason = "This tool always fails.") -> str:
    """Fail, so that one can see how the chat shows it."""
    raise ToolError(reason)


READS: Final = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
VARIES: Final = ToolAnnotations(read_only_hint=True, idempotent_hint=False, open_world_hint=False)
ADDS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
MARKS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
REMOVES: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)

TOOLS: Final[tuple[tuple[Callable[..., Awaitable[Any]], str, ToolAnnotations], ...]] = (
    (add, "Add", READS),
    (subtract, "Subtract", READS),
    (multiply, "Multiply", READS),
    (divide, "Divide", READS),
    (get_current_time, "Current time", VARIES),
    (echo, "Echo", READS),
    (todo_add, "Add to the to-do list", ADDS),
    (todo_list, "Show the to-do list", READS),
    (todo_done, "Mark as done", MARKS),
    (todo_clear, "Empty the to-do list", REMOVES),
    (roll_dice, "Roll dice", VARIES),
    (slow_count, "Count slowly", READS),
    (book_table, "Book a table", READS),
    (always_fails, "Always fail", READS),
)


# The server


async def sessions_only(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Refuse the revisions without sessions, in the words that make a client try the handshake."""
    if ctx.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
        refusal = UnsupportedProtocolVersionErrorData(
            supported=list(HANDSHAKE_PROTOCOL_VERSIONS), requested=ctx.protocol_version
        )
        raise MCPError(
            UNSUPPORTED_PROTOCOL_VERSION, "This server needs a session", data=refusal.model_dump(mode="json")
        )
    return await call_next(ctx)


def build() -> MCPServer:
    """The server with its tools, not yet listening anywhere."""
    server = MCPServer(
        "demo",
        title="mcp-chat demo",
        instructions="Toys to try a chat with: arithmetic, time, a list, tools that ask, fail or are slow.",
        log_level="WARNING",
        middleware=[sessions_only],
    )
    for tool, title, hints in TOOLS:
        server.add_tool(tool, title=title, annotations=hints)
    return server


def build_app(host: str = "127.0.0.1") -> Starlette:
    """The server as an ASGI application at ``/mcp``.

    On a loopback host the SDK checks the Host and Origin headers, against DNS rebinding.
    """
    return build().streamable_http_app(
        host=host, max_sessions=MAX_SESSIONS, session_idle_timeout=SESSION_IDLE_SECONDS
    )


class _Server(uvicorn.Server):
    """uvicorn, but it says in one line when it is ready, and nothing about what a stop breaks off."""

    async def startup(self, *args: Any, **kwargs: Any) -> None:
        await super().startup(*args, **kwargs)
        sys.stdout.write(f"Demo MCP server at http://{self.config.host}:{self.config.port}/mcp\n")
        sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        logging.disable(logging.ERROR)
        super().handle_exit(sig, frame)


def main() -> None:
    parser = argparse.ArgumentParser(prog="mcp_chat.demo.server", description="Run the demo MCP server.")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s); Host headers are checked on loopback only",
    )
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    options = parser.parse_args()
    # uvicorn stops in good order and then raises the signal once more, for whoever handled it before.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        build_app(options.host),
        host=options.host,
        port=options.port,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    _Server(config).run()


if __name__ == "__main__":
    main()
