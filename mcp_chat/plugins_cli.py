"""`mcp-chat plugins`: which plugins are loaded, when they are asked, and what they take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from mcp_chat.exceptions import InvalidRequest
from mcp_chat.sessions_cli import printable
from mcp_chat.settings import Settings, load_settings

if TYPE_CHECKING:
    from mcp_chat.plugins.base import Described

PATIENCE = 3.0
"""Seconds in which the running installation must say what its plugins took."""

SAMPLES = {
    "mcp_chat_plugin_seconds_count": "asked",
    "mcp_chat_plugin_seconds_sum": "seconds",
    "mcp_chat_plugin_errors_total": "errors",
    "mcp_chat_plugin_blocks_total": "blocks",
}
"""What is measured, by its name at `/metrics`."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """What one plugin did at one hook, in all workers together.

    Attributes:
        asked: Times.
        seconds: Altogether.
        errors: Times it failed.
        blocks: Times it blocked.
    """

    asked: int = 0
    seconds: float = 0.0
    errors: int = 0
    blocks: int = 0


Times = Mapping[tuple[str, str], Measured]
"""By the names of a plugin and a hook."""


def plugins(
    url: Annotated[
        str, typer.Option(help="Where the chat runs, for what plugins took; this machine's if not given.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
) -> None:
    """Load the plugins as a worker does and show them, those asked first in front, with what they took."""
    from mcp_chat import logs  # noqa: PLC0415 - as all the imports below: slow

    logs.set_up("error")
    settings = load_settings()
    if not settings.plugins_enabled:
        typer.echo("No plugins are loaded: PLUGINS_ENABLED is not set.", err=True)
        return
    found = anyio.run(_loaded, settings)
    times = measured(scraped(url or address(settings), asked_for=bool(url)))
    for each in found:
        if as_json:
            typer.echo(json.dumps(shown(each, times), ensure_ascii=False))
        else:
            typer.echo("\n".join(lines(each, times)))


async def _loaded(settings: Settings) -> Sequence[Described]:
    from mcp_chat.metrics import Metrics  # noqa: PLC0415
    from mcp_chat.plugins.opening import open_plugins  # noqa: PLC0415

    async with open_plugins(settings, Metrics()) as loaded:
        return loaded.described()


def address(settings: Settings) -> str:
    """Return where the chat of these settings is reached from its own machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - only dialled
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def scraped(url: str, *, asked_for: bool) -> str:
    """Return what a running chat tells Prometheus; nothing if none answers where nobody said one would.

    Raises:
        InvalidRequest: None answers at an address that was given.
    """
    import httpx  # noqa: PLC0415

    try:
        answer = httpx.get(f"{url.rstrip('/')}/metrics", timeout=PATIENCE)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL):
        if asked_for:
            raise InvalidRequest(f"No chat answers at {printable(url)}.") from None
        return ""
    return answer.text


def measured(text: str) -> Times:
    """Return what plugins did, as a chat tells Prometheus."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415

    found: dict[tuple[str, str], Measured] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if name := SAMPLES.get(sample.name):
                key = (sample.labels["plugin"], sample.labels["hook"])
                one = found.setdefault(key, Measured())
                setattr(one, name, type(getattr(one, name))(sample.value))
    return found


def of(plugin: Described, hook: str, times: Times) -> Measured:
    """Return what was measured of a plugin at a hook; zeros if nothing was."""
    from mcp_chat.metrics import LONGEST_NAME  # noqa: PLC0415

    return times.get((plugin.name[:LONGEST_NAME], hook), Measured())


def shown(plugin: Described, times: Times) -> dict[str, Any]:
    """Return a plugin as JSON."""
    return {**asdict(plugin), "hooks": {hook: asdict(of(plugin, hook, times)) for hook in plugin.hooks}}


def lines(plugin: Described, times: Times) -> Iterator[str]:
    """Return a plugin as lines for people."""
    kind = f"{plugin.kind} {plugin.version}".strip()
    yield printable(
        f"{plugin.name}: {plugin.mode}, priority {plugin.priority}, on_error {plugin.on_error} ({kind})"
    )
    if plugin.away:
        yield "  not there: what it is asked is dealt with as on_error says"
    for condition in plugin.conditions:
        yield printable(f"  only for {json.dumps(condition, ensure_ascii=False)}")
    for hook in plugin.hooks:
        yield printable(f"  {hook}{_told(of(plugin, hook, times))}")


def _told(one: Measured) -> str:
    if not one.asked:
        return ""
    said = f": asked {one.asked:,} times, {one.seconds:.3f} s, {one.seconds / one.asked * 1000:.2f} ms each"
    return said + "".join(
        f", {count:,} {what}" for count, what in ((one.blocks, "blocked"), (one.errors, "failed")) if count
    )
