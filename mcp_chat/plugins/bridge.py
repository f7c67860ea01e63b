"""The bridge to ContextForge's plugin framework, `cpex`. It is imported only where plugins are configured."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog
import yaml
from cpex.framework import (
    ConfigLoader,
    GlobalContext,
    HookPayloadPolicy,
    PluginError,
    PluginMode,
    TenantPluginManager,
    UserContext,
)
from cpex.framework.manager import PayloadSizeError
from cpex.framework.observability import current_trace_id
from cpex.framework.settings import PluginsSettings
from jinja2 import TemplateError
from pydantic import ValidationError

from mcp_chat.exceptions import BlockedByPlugin, PluginAway, PluginFailed, PluginsLost, SettingsError
from mcp_chat.message import wellformed
from mcp_chat.plugins import hooks, payloads
from mcp_chat.plugins.away import Loader, is_away, tended
from mcp_chat.plugins.base import NO_FIELDS, Described, Occasion
from mcp_chat.plugins.clock import Clock, Counts
from mcp_chat.plugins.news import News, Piece
from mcp_chat.plugins.remote import AWAY, ended

log = structlog.get_logger()

CHANGING = frozenset({PluginMode.SEQUENTIAL, PluginMode.TRANSFORM, PluginMode.CONCURRENT})
"""Modes in which a plugin may change what there is, or block it."""

LAST_SECONDS = 2.0
"""For plugins that still listen when the worker stops."""

CLOSING = 10.0
"""Seconds in which plugins are closed when the worker stops, before they are told again."""

LONGEST_REASON = 500
"""Characters of a plugin's reason that a user is told."""


class Bridge:
    """The plugins of one worker; see `mcp_chat.plugins.base.Plugins`.

    Args:
        manager: The framework's, with its plugins loaded.
        counts: Where it is counted what they block.
        keeping: The task that keeps them.
    """

    def __init__(self, manager: TenantPluginManager, counts: Counts, keeping: asyncio.Task[None]) -> None:
        self._manager = manager
        self._counts = counts
        self._keeping = keeping
        self._news = News()
        self._something = asyncio.Event()
        self._background: set[asyncio.Task[Any]] = set()
        refs = {hook: self._refs(hook) for hook in hooks.HOOKS}
        self.hooks = frozenset(hook for hook, found in refs.items() if found)
        self.changing = frozenset(
            hook for hook, found in refs.items() if any(ref.plugin_ref.mode in CHANGING for ref in found)
        )

    def _refs(self, hook: str) -> Sequence[Any]:
        refs: list[Any] = self._manager._registry.get_hook_refs_for_hook(
            hook
        )  # nothing public has their modes
        return refs

    async def ask(self, hook: str, fields: Mapping[str, Any], occasion: Occasion) -> Mapping[str, Any]:
        """Ask the plugins of a hook; see `mcp_chat.plugins.base.Plugins`."""
        if hook not in self.hooks:
            return NO_FIELDS
        if not self._manager.initialized:  # it has lost its plugins, and would let everything through
            raise _failed(hook, "")
        context, trace = _context(occasion), current_trace_id.set(hook)
        try:
            payload = payloads.made(hook, fields)
            result, contexts = await self._manager.invoke_hook(
                hook, payload, context, local_contexts=occasion.contexts or None
            )
            changed = payloads.changed(hook, payload, result.modified_payload)
        except PluginError as error:
            raise _failed(hook, error.error.plugin_name, away=error.error.code == AWAY) from None
        except PayloadSizeError:
            raise _too_large(hook) from None
        except (ValidationError, ValueError, TypeError, RecursionError):
            log.warning("plugin.unreadable", hook=hook)
            raise _failed(hook, "") from None
        finally:
            current_trace_id.reset(trace)
        self._remember(occasion, context, contexts, result)
        if not result.continue_processing:
            raise self._blocked(hook, result)
        return changed

    def _remember(
        self, occasion: Occasion, context: GlobalContext, contexts: Mapping[str, Any] | None, result: Any
    ) -> None:
        occasion.state = dict(context.state)
        occasion.contexts |= contexts or {}
        for task in result.background_tasks:
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _blocked(self, hook: str, result: Any) -> BlockedByPlugin:
        stopped = next((each for each in reversed(result.executions) if not each.effective_allow), None)
        plugin = stopped.plugin_name if stopped else ""
        if stopped:
            self._counts.plugin_blocked(plugin, hook)
        violation = result.violation
        reason = wellformed(violation.reason) if violation else "The plugin gives no reason."
        code = wellformed(violation.code) if violation else "blocked"
        log.warning("plugin.blocked", hook=hook, plugin=plugin, violation=code[:100])
        return BlockedByPlugin(hook=hook, plugin=plugin, reason=reason[:LONGEST_REASON], violation=code[:100])

    def tell(self, hook: str, fields: Mapping[str, Any], occasion: Occasion) -> None:
        """Let plugins hear of something; see `mcp_chat.plugins.base.Plugins`."""
        if hook in self.hooks:
            self._news.add(Piece(hook, fields, occasion))
            self._something.set()

    async def watch(self) -> None:
        """Fail when the plugins are lost; see `mcp_chat.plugins.base.Plugins`."""
        await asyncio.wait({self._keeping})
        log.error("plugins.lost")
        raise PluginsLost

    async def run(self) -> None:
        """Tell the news, in order, until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            await self.flush()

    async def flush(self) -> None:
        """Tell what there is to be told."""
        while self._news:
            hook, fields, occasion = self._news.take()
            try:
                await self.ask(hook, fields, occasion)
            except BlockedByPlugin as blocked:  # what has happened cannot be blocked
                log.info("plugin.overruled", hook=hook, plugin=blocked.plugin)
            except Exception as error:  # noqa: BLE001 - one piece of news keeps no other from being told
                log.error("plugin.untold", hook=hook, error=type(error).__name__)

    async def aclose(self) -> None:
        """Let plugins that listen hear the rest, for a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await self.flush()
                await asyncio.gather(*self._background, return_exceptions=True)
        for task in self._background:
            task.cancel()

    def described(self) -> Sequence[Described]:
        """Return the plugins; see `mcp_chat.plugins.base.Plugins`."""
        config = self._manager.config
        plugins = config.plugins if config and config.plugins else []
        return [self._described(each) for each in sorted(plugins, key=lambda each: each.priority)]

    def _described(self, config: Any) -> Described:
        found = self._manager._registry.get_plugin(config.name)
        known = found.trusted_config if found else config
        return Described(
            name=config.name,
            kind=config.kind,
            mode=str(known.mode.value),
            priority=known.priority,
            on_error=str(known.on_error.value),
            hooks=tuple(known.hooks),
            version=known.version or "",
            away=found is not None and is_away(found.plugin),
            conditions=tuple(each.model_dump(mode="json", exclude_none=True) for each in known.conditions),
        )


def _context(occasion: Occasion) -> GlobalContext:
    return GlobalContext(
        request_id=occasion.request_id,
        user=occasion.user or None,
        user_context=UserContext(user_id=occasion.user) if occasion.user else None,
        server_id=occasion.server or None,
        state=occasion.state,
        metadata={"chat": {"session_id": occasion.session_id, **occasion.details}},
    )


def _failed(hook: str, plugin: str, *, away: bool = False) -> PluginFailed:
    log.warning("plugin.failed", hook=hook, plugin=plugin)
    return PluginAway(hook=hook, plugin=plugin) if away else PluginFailed(hook=hook, plugin=plugin)


def _too_large(hook: str) -> BlockedByPlugin:
    reason = "This is more than plugins can look through."
    return BlockedByPlugin(hook=hook, plugin="", reason=reason, violation="payload_too_large")


def read_config(path: Path) -> Any:
    """Return the plugins' configuration.

    Raises:
        SettingsError: It cannot be read, or is none.
    """
    try:
        path.read_text(encoding="utf-8")  # the framework takes a file that is missing for an empty one
        return ConfigLoader.load_config(str(path))
    except (OSError, UnicodeDecodeError):
        raise SettingsError(f"PLUGINS_CONFIG_FILE: {path} cannot be read.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the whole file"
        raise SettingsError(f"PLUGINS_CONFIG_FILE: {path}: {place}: {first['msg']}.") from None
    except (yaml.YAMLError, TemplateError, TypeError) as error:
        raise SettingsError(f"PLUGINS_CONFIG_FILE: {path} is not valid: {type(error).__name__}.") from None


@asynccontextmanager
async def opened(path: Path, counts: Counts) -> AsyncIterator[Bridge]:
    """Load the plugins, and close them at the end.

    Raises:
        SettingsError: One that must not fail cannot be loaded.
    """
    manager = _manager(path, counts)
    async with _loaded(manager) as keeping:
        check_loaded(manager, path)
        _quiet()
        bridge = Bridge(manager, counts, keeping)
        _announce(bridge)
        telling = asyncio.create_task(bridge.run())
        try:
            yield bridge
        finally:
            telling.cancel()
            await bridge.aclose()


def _manager(path: Path, counts: Counts) -> TenantPluginManager:
    """Return the framework's manager, with nothing loaded yet."""
    manager = TenantPluginManager(
        read_config(path),
        timeout=PluginsSettings().plugin_timeout,
        observability=Clock(counts),
        hook_policies={hook: HookPayloadPolicy(fields) for hook, fields in hooks.WRITABLE.items()},
    )
    manager._loader = Loader()
    payloads.register()
    if os.getcwd() not in sys.path:  # where the gateway finds `plugins.x.y`, too
        sys.path.append(os.getcwd())
    return manager


@asynccontextmanager
async def _loaded(manager: TenantPluginManager) -> AsyncIterator[asyncio.Task[None]]:
    """Give the task that loads the plugins and closes them.

    It has nothing else to do: connections that plugins open belong to it, and what ends them may end it.

    Raises:
        SettingsError: They cannot be loaded.
    """
    ready = asyncio.Event()
    keeping = asyncio.create_task(_kept(manager, ready))
    try:
        await _first(keeping, ready)
        yield keeping
    finally:
        await ended(keeping, patience=CLOSING)


async def _kept(manager: TenantPluginManager, ready: asyncio.Event) -> None:
    try:
        await manager.initialize()
        ready.set()
        await tended(manager)
    finally:
        await manager.shutdown()
        await manager._registry.shutdown()  # those that were loaded before one that could not be


async def _first(keeping: asyncio.Task[None], ready: asyncio.Event) -> None:
    """Return when the plugins are loaded.

    Raises:
        SettingsError: They cannot be.
    """
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait({keeping, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if keeping.done():
        raise SettingsError("The plugins could not be loaded; the log says why.")


def _announce(bridge: Bridge) -> None:
    """Write down that the plugins are loaded, and what they wait for in vain."""
    found = bridge.described()
    for each in found:
        if unasked := set(each.hooks) - set(hooks.HOOKS):
            log.warning("plugin.not_asked", plugin=each.name, hooks=sorted(unasked))
    log.info("plugins.ready", hooks=sorted(bridge.hooks), plugins=len(found))


def check_loaded(manager: TenantPluginManager, path: Path) -> None:
    """Refuse to go on without a plugin that must not fail: what it protects would not be.

    Raises:
        SettingsError: It names the plugin.
    """
    for config in (manager.config and manager.config.plugins) or []:
        if config.mode == PluginMode.DISABLED or manager.get_plugin(config.name):
            continue
        if str(config.on_error.value) == "fail":
            raise SettingsError(f"The plugin {config.name} of {path} could not be loaded; the log says why.")
        log.warning("plugin.left_out", plugin=config.name)


def _quiet() -> None:
    """Let the framework write no lines any more: they quote what users and plugins say. We write our own."""
    logging.getLogger("cpex").setLevel(logging.CRITICAL + 1)
