"""Opens the plugins, if any are configured; only then is their framework imported."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from mcp_chat.exceptions import SettingsError
from mcp_chat.plugins.base import NONE, Plugins
from mcp_chat.plugins.clock import Counts
from mcp_chat.settings import Settings

log = structlog.get_logger()

NO_EXTRA = "PLUGINS_ENABLED needs ContextForge's plugin framework: pip install 'mcp-chat[plugins]'."


def check_plugins(settings: Settings) -> None:
    """Refuse plugins that are wanted and cannot be had.

    Raises:
        SettingsError: One sentence that says what is missing or wrong.
    """
    if settings.plugins_enabled:
        try:
            from mcp_chat.plugins.bridge import read_config  # noqa: PLC0415 - only where it is wanted
        except ImportError as error:
            if not (error.name or "").startswith(("cpex", "jinja2")):
                raise
            raise SettingsError(NO_EXTRA) from None
        read_config(settings.plugins_config_file)


@asynccontextmanager
async def open_plugins(settings: Settings, counts: Counts) -> AsyncIterator[Plugins]:
    """Load the operator's plugins, and close them at the end.

    Args:
        counts: Where it is counted what they do.

    Raises:
        SettingsError: They cannot be loaded.
    """
    if not settings.plugins_enabled:
        yield NONE
        return
    check_plugins(settings)
    from mcp_chat.plugins.bridge import opened  # noqa: PLC0415 - only where it is wanted

    try:
        async with opened(settings.plugins_config_file, counts) as plugins:
            yield plugins
    except SettingsError as error:
        log.error("plugins.refused", why=str(error))
        raise
