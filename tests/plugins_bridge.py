"""A plugin for tests, as an operator would write one: it does what its configuration says."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, NamedTuple

from cpex.framework import Plugin, PluginResult, PluginViolation, hook
from cpex.framework.hooks.identity import IdentityResult

from mcp_chat.plugins.hooks import HOOKS


class Seen(NamedTuple):
    """What a plugin was asked once.

    Attributes:
        context: The framework's `GlobalContext`.
    """

    plugin: str
    hook: str
    payload: Any
    context: Any
    local: Any


GO = threading.Event()
"""Ends the waiting of those that wait."""

SEEN: list[Seen] = []
"""What all plugins of this process were asked, in order."""


def seen(hook_name: str, plugin: str = "probe") -> list[Seen]:
    """What a plugin was asked at a hook."""
    return [each for each in SEEN if (each.hook, each.plugin) == (hook_name, plugin)]


def violation(text: str) -> PluginViolation:
    """Why a plugin blocks."""
    return PluginViolation(reason=f"No {text} here.", description="as the test wants it", code="TEST_CODE")


def swapped(value: Any, old: str, new: str) -> Any:
    """A value with a word replaced wherever it stands."""
    match value:
        case str():
            return value.replace(old, new)
        case dict():
            return {key: swapped(each, old, new) for key, each in value.items()}
        case list() | tuple():
            return [swapped(each, old, new) for each in value]
        case _ if hasattr(value, "model_dump"):
            return type(value).model_validate(swapped(value.model_dump(), old, new))
    return value


class Probe(Plugin):
    """Does at each hook what `config` says: `{hook: {do, word, to}}`.

    `do` is one of `raise`, `hang`, `wait`, `block` and `change`; without a `word` in what it is shown it does
    nothing, if one is named.
    """

    async def _asked(self, name: str, payload: Any, context: Any) -> PluginResult:
        context.state["asked"] = [*context.state.get("asked", []), name]
        SEEN.append(Seen(self.name, name, payload, context.global_context, context))
        wanted = (self.config.config or {}).get(name) or {}
        word = wanted.get("word", "")
        if word not in str(payload):
            return PluginResult()
        match wanted.get("do"):
            case "raise":
                raise RuntimeError(f"a secret: {word}")
            case "hang":
                await asyncio.sleep(60)
            case "wait":
                await asyncio.to_thread(GO.wait, 20)
            case "block":
                return PluginResult(continue_processing=False, violation=violation(wanted.get("about", word)))
            case "change":
                fields = {
                    field: swapped(getattr(payload, field), word, wanted["to"])
                    for field in type(payload).model_fields
                    if field != "hook"
                }
                return PluginResult(modified_payload=payload.model_copy(update=fields))
            case "identity":
                return PluginResult(modified_payload=IdentityResult.model_validate(wanted["result"]))
        return PluginResult()


def _method(name: str) -> Any:
    async def asked(self: Probe, payload: Any, context: Any) -> PluginResult:
        return await self._asked(name, payload, context)

    return hook(name)(asked)


for each in HOOKS:
    setattr(Probe, "on_" + each.replace(".", "_"), _method(each))


class Telltale(Plugin):
    """Has each argument say what a variable of its name has in this process."""

    async def tool_pre_invoke(self, payload: Any, context: Any) -> PluginResult:
        """Look them up."""
        args = {
            argument: " ".join(os.environ.get(each, "") for each in names.split())
            for argument, names in payload.args.items()
        }
        return PluginResult(modified_payload=payload.model_copy(update={"args": args}))


class Loser(Plugin):
    """Ends the task that keeps all plugins when it is asked, as one in another process can."""

    async def initialize(self) -> None:
        """Remember the task."""
        self._task = asyncio.current_task()

    async def agent_pre_invoke(self, payload: Any, context: Any) -> PluginResult:
        """End it."""
        assert self._task
        self._task.cancel()
        return PluginResult()
