"""A plugin that changes nothing: what is measured is what it costs to ask it."""

from __future__ import annotations

from typing import Any

from cpex.framework import Plugin, PluginContext, PluginPayload, PluginResult


class AtTurns(Plugin):
    """Is asked before a turn and behind it."""

    async def agent_pre_invoke(self, payload: PluginPayload, context: PluginContext) -> PluginResult[Any]:
        """Let it go on."""
        return PluginResult()

    async def agent_post_invoke(self, payload: PluginPayload, context: PluginContext) -> PluginResult[Any]:
        """Let it go on."""
        return PluginResult()
