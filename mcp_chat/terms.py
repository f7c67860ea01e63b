"""What a turn is run with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mcp_chat.agent import Agent, Emit
from mcp_chat.consent import Consent
from mcp_chat.context import Budget
from mcp_chat.events import Final
from mcp_chat.meter import Meter
from mcp_chat.metrics import Metrics
from mcp_chat.plugins.doors import Doors, open_doors
from mcp_chat.prices import Bill
from mcp_chat.recording import Tape
from mcp_chat.scribe import Scribe
from mcp_chat.steering import Steering
from mcp_chat.talk import Talks
from mcp_chat.toolbox import Toolbox
from mcp_chat.trail import Trail


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a turn is run with.

    Attributes:
        emit: Takes the turn's events; they are in the log after `flush`.
        flush: Waits until they are.
        end: Tells the final event, and records it unless that is done.
        prepare: Gives the agent and the tools, with a model by its name; may take a while, may fail.
        held: Returns when this worker may call a tool, or raises `StoreUnavailable`.
        trail: Takes down the tool calls.
        limit: Seconds the turn may take.
        parallel_calls: Tool calls that are made at a time.
        server_calls: Of these, those at one server.
        talks: Lets tool calls ask the user.
        consent: Gives leave to tool calls.
        meter: Counts what it spends.
        bill: Finds a model's prices by its name, the user's model's without one.
        budget: How much of the conversation the model is shown.
        steering: Has what the user says while the turn runs.
        doors: Where plugins look at what goes to the model and the tools, and comes from them.
        system_prompt: What the model is told first where the conversation says nothing else.
        tape: Takes it down, if it is recorded.
    """

    scribe: Scribe
    emit: Emit
    flush: Callable[[], Awaitable[None]]
    end: Callable[[Final, bool], Awaitable[None]]
    prepare: Callable[[str], Awaitable[tuple[Agent, Toolbox]]]
    held: Callable[[], Awaitable[None]]
    trail: Trail
    metrics: Metrics
    limit: float
    parallel_calls: int
    server_calls: int
    talks: Talks
    consent: Consent
    meter: Meter
    bill: Callable[[str], Awaitable[Bill]]
    budget: Budget
    steering: Steering
    doors: Doors = field(default_factory=open_doors)
    system_prompt: str = ""
    tape: Tape | None = None
