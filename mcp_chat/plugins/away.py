"""Plugins in processes of their own that are not there: something stands in their place until they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog
from cpex.framework import Plugin, PluginConfig, PluginError, TenantPluginManager
from cpex.framework.loader.plugin import PluginLoader
from cpex.framework.models import TransportType

from mcp_chat.plugins.remote import Remote, not_there

log = structlog.get_logger()

EVERY = 5.0
"""Seconds between two attempts to reach the plugins that are not there."""

REACHABLE = frozenset({TransportType.STDIO, TransportType.STREAMABLEHTTP})
"""What the framework can ask a plugin over; with anything else no waiting helps."""


class Away(Plugin):  # type: ignore[misc]
    """Stands where a plugin of another process is not: `on_error` says what becomes of what it is asked."""

    async def invoke_hook(self, hook: str, payload: Any, context: Any) -> Any:
        """Fail."""
        raise not_there(self.name)


class Loader(PluginLoader):  # type: ignore[misc]
    """Loads as the framework does, but for plugins that are asked over MCP."""

    async def load_and_instantiate_plugin(self, config: PluginConfig) -> Plugin | None:
        """Return a plugin, or what stands in its place until it is there.

        Raises:
            PluginError: It is not there, and the configuration does not say where it listens.
        """
        if config.kind != "external" or config.mcp is None:
            return await super().load_and_instantiate_plugin(config)
        try:
            return await reached(config)
        except PluginError as error:
            reason = error.error.message
            log.warning("plugin.away", plugin=config.name, reason=reason)
            if not config.hooks or config.mcp.proto not in REACHABLE:
                raise
            return Away(config.model_copy())


async def reached(config: PluginConfig) -> Plugin:
    """Return a plugin that is asked over MCP.

    Raises:
        PluginError: It is not there; nothing of the attempt is left open.
    """
    plugin = Remote(config.model_copy())
    await plugin.initialize()
    return plugin


def is_away(plugin: Plugin) -> bool:
    """Tell whether a plugin is not there, or not any more."""
    return isinstance(plugin, Away) or (isinstance(plugin, Remote) and plugin.gone)


def away(manager: TenantPluginManager) -> Sequence[PluginConfig]:
    """Return the plugins that are not there."""
    configs = (manager.config and manager.config.plugins) or ()
    found = ((config, manager._registry.get_plugin(config.name)) for config in configs)
    return [config for config, ref in found if ref and is_away(ref.plugin)]


async def tended(manager: TenantPluginManager) -> None:
    """Reach for plugins that are not there now and then, until cancelled."""
    while True:
        await asyncio.sleep(EVERY)
        for config in away(manager):
            with suppress(PluginError):
                await _put(manager, config.name, await reached(config))


async def _put(manager: TenantPluginManager, name: str, plugin: Plugin) -> None:
    """Put a plugin into its place."""
    before = manager._registry.get_plugin(name)
    manager._registry.unregister(name)
    manager._registry.register(plugin, trusted_config=plugin.config.model_copy())
    manager._executor._runtime_disabled.discard(name)  # it was for being away
    log.info("plugin.back", plugin=name)
    if before:
        await before.plugin.shutdown()
