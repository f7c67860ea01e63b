"""What can be asked of a server outside of a turn. Each is a value; the user's owner carries it out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from mcp_chat.message import new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPrompts:
    """Which prompts are there?"""

    type: Literal["list_prompts"] = "list_prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetPrompt:
    """What does this prompt say, with these arguments?"""

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    type: Literal["get_prompt"] = "get_prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """How could an argument of a prompt or of a template go on?

    Attributes:
        ref: The name of a prompt, or a template.
        context: Arguments that are known already.
    """

    kind: Literal["prompt", "template"]
    ref: str
    argument: str
    value: str
    context: Mapping[str, str] = field(default_factory=dict)
    type: Literal["complete"] = "complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListResources:
    """Which resources are there?"""

    type: Literal["list_resources"] = "list_resources"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTemplates:
    """Which templates of resources are there?"""

    type: Literal["list_templates"] = "list_templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadResource:
    """What is in this resource?

    Attributes:
        keep: All of it is wanted as files of the user's; otherwise only what is no short text becomes one.
    """

    uri: str
    keep: bool = False
    type: Literal["read_resource"] = "read_resource"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """Tell when this resource changes."""

    uri: str
    type: Literal["subscribe"] = "subscribe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    """Tell it no more."""

    uri: str
    type: Literal["unsubscribe"] = "unsubscribe"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadApp:
    """What is this tool's app? It is kept for a while, for whoever shows it."""

    tool: str
    type: Literal["read_app"] = "read_app"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadForApp:
    """What is in this resource? The app of a tool asks."""

    tool: str
    uri: str
    type: Literal["read_for_app"] = "read_for_app"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallForApp:
    """What does a call give that the app of a tool asks for?

    Attributes:
        tool: Whose app asks.
        name: What the server calls the tool that is to be called.
        key: Names the call: it is made once.
        at: When it was asked for, in seconds since 1970: what has waited too long is not made any more.
    """

    tool: str
    name: str
    arguments: Mapping[str, Any]
    key: str = field(default_factory=new_id)
    at: float = field(default_factory=time.time)
    type: Literal["call_for_app"] = "call_for_app"


AppAsk = ReadApp | ReadForApp | CallForApp

Ask = Annotated[
    ListPrompts
    | GetPrompt
    | Complete
    | ListResources
    | ListTemplates
    | ReadResource
    | Subscribe
    | Unsubscribe
    | AppAsk,
    Field(discriminator="type"),
]
