"""What the chat knows of plugins. Nothing here imports their framework: without plugins it costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

NO_FIELDS: Final[Mapping[str, Any]] = {}


@dataclass(slots=True, kw_only=True)
class Occasion:
    """What plugins are told of when they are asked, and where they keep what they want to know later.

    One for each turn, call or other request, so that no plugin sees another user's; it goes with its request.

    Attributes:
        request_id: The turn's, or the command's; hooks of one request have the same.
        user: Whose request it is, by their key in the store: the same at every hook.
        session_id: The conversation; empty if it is in none.
        server: The MCP server by the gateway's id if it is one of the gateway's, else by its alias.
        details: What else there is to know, for plugins' `metadata["chat"]`.
        state: What plugins tell each other.
        contexts: What each plugin keeps for itself, as the framework has it.
    """

    request_id: str
    user: str = ""
    session_id: str = ""
    server: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict, repr=False)
    contexts: dict[str, Any] = field(default_factory=dict, repr=False)

    def part(self, at: str = "", /, **details: Any) -> Occasion:
        """Return one for a part of the same request that goes on beside others, as a tool call does.

        Args:
            at: The server.
        """
        return Occasion(
            request_id=self.request_id,
            user=self.user,
            session_id=self.session_id,
            server=at,
            details={**self.details, **details},
            state=dict(self.state),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A plugin that is loaded.

    Attributes:
        kind: Its class, or `external`.
        mode: One of `sequential`, `transform`, `audit`, `concurrent`, `fire_and_forget`, `disabled`.
        priority: Lower ones are asked first.
        on_error: `fail`, `ignore` or `disable`.
        away: It runs in a process of its own, and is not there.
        conditions: When it is asked; always, if there are none.
    """

    name: str
    kind: str
    mode: str
    priority: int
    on_error: str
    hooks: tuple[str, ...]
    version: str = ""
    away: bool = False
    conditions: tuple[Mapping[str, Any], ...] = ()


class Plugins(Protocol):
    """The operator's plugins, in the order that their configuration says.

    Attributes:
        hooks: Those at which anybody listens; nothing needs to be made ready for others.
        changing: Those at which somebody may change what there is, or block it.
    """

    @property
    def hooks(self) -> frozenset[str]:
        """The hooks at which a plugin listens."""
        ...

    @property
    def changing(self) -> frozenset[str]:
        """The hooks at which a plugin may change or block."""
        ...

    async def ask(self, hook: str, fields: Mapping[str, Any], occasion: Occasion) -> Mapping[str, Any]:
        """Ask all plugins of a hook, one after the other or as their modes say.

        Args:
            hook: Of `mcp_chat.plugins.hooks`.
            fields: Those of the hook's payload, in the framework's own names.

        Returns:
            The fields that were changed, with their new values; nothing if none were.

        Raises:
            Blocked: A plugin does not want it to go on, or one has failed that must not.
        """
        ...

    def tell(self, hook: str, fields: Mapping[str, Any], occasion: Occasion) -> None:
        """Let plugins hear of something that has happened: nobody waits for them, and no answer counts."""
        ...

    async def watch(self) -> None:
        """Return if there is nothing that could be lost; else fail as soon as it is.

        Raises:
            PluginsLost: From now on everything is blocked.
        """
        ...

    def described(self) -> Sequence[Described]:
        """Return the plugins, those asked first in front."""
        ...


class NoPlugins:
    """What there is when nothing is configured."""

    hooks: frozenset[str] = frozenset()
    changing: frozenset[str] = frozenset()

    async def ask(self, hook: str, fields: Mapping[str, Any], occasion: Occasion) -> Mapping[str, Any]:
        """Change nothing."""
        return NO_FIELDS

    def tell(self, hook: str, fields: Mapping[str, Any], occasion: Occasion) -> None:
        """Tell nobody."""

    async def watch(self) -> None:
        """Return: there is nothing to lose."""

    def described(self) -> Sequence[Described]:
        """Return nothing."""
        return ()


NONE: Final[Plugins] = NoPlugins()
