"""The models of one user's turns, each with the user's tools. A turn that needs one makes it."""

from __future__ import annotations

from anyio import to_thread

from mcp_chat.agent import Agent
from mcp_chat.bench import Bench
from mcp_chat.catalogue import CatalogueEntry
from mcp_chat.config import ModelConfig
from mcp_chat.exceptions import InvalidRequest
from mcp_chat.models.base import Model
from mcp_chat.models.window import Window
from mcp_chat.stand_ins import StandIns
from mcp_chat.toolbox import Toolbox
from mcp_chat.workshop import Workshop

UNKNOWN = CatalogueEntry(model="")
"""A model of which nobody knows anything."""


class Agents:
    """One user's, for one connect.

    Args:
        workshop: What models are made with.
        user: Whose they are.
        config: The model that the user is connected to.
        toolbox: The user's tools.
    """

    def __init__(self, workshop: Workshop, user: str, config: ModelConfig, toolbox: Toolbox) -> None:
        self._shop = workshop
        self._user = user
        self._config = config
        self._toolbox = toolbox
        self._bench = Bench(self._benched)
        self._model: Model | None = None
        self._own_known = UNKNOWN
        self._made: dict[str, tuple[tuple[int, ...], Agent]] = {}
        self._stand_ins: dict[str, StandIns] = {}

    async def of(self, name: str) -> Agent:
        """Return the agent of a model with the tools as they are now.

        Args:
            name: Of the operator's catalogue; empty for the model that the user is connected to.

        Raises:
            InvalidRequest: The model is not offered any more.
        """
        edition = self._toolbox.edition
        if name not in self._made or self._made[name][0] != edition:
            self._made[name] = (edition, await self._equip(name))
        return self._made[name][1]

    @property
    def any(self) -> Agent | None:
        """One that was made before, the user's own model's if it was."""
        made = {name: agent for name, (_, agent) in self._made.items()}
        return made.get("") or next(iter(made.values()), None)

    async def _equip(self, name: str) -> Agent:
        shop, config = self._shop, self._config
        if name and name != f"{config.provider}:{config.model}":
            config = await self._offered(name)
            known = await self._known(config)
            model: Model = self._bench.of(name)
        else:
            model = await self._own()
            known = self._own_known
        stand_ins = self._stand_ins.setdefault(name, StandIns(shop, self._user, config, self._open))
        return Agent(
            model,
            () if known.capabilities.tools is False else self._toolbox.tools,
            rounds=shop.tool_rounds,
            silence=shop.model_timeout,
            limits=shop.model_limits,
            window=Window(tokens=known.context_window, answer=config.max_tokens or known.max_output),
            persistence=stand_ins.persistence,
        )

    async def _own(self) -> Model:
        if self._model is None:
            self._own_known = await self._known(self._config)
            self._model = await self._open(self._config)
        return self._model

    async def _offered(self, name: str) -> ModelConfig:
        """Return a model of the operator's catalogue."""
        try:
            return await self._shop.providers.choose(name)
        except InvalidRequest:
            raise InvalidRequest(
                f"The model of this conversation, {name}, is not offered any more. "
                "Choose another one for it, or none."
            ) from None

    async def _benched(self, name: str) -> Model:
        return await self._open(await self._offered(name))

    async def _known(self, config: ModelConfig) -> CatalogueEntry:
        return await self._shop.providers.known(config, self._shop.lookups.of(self._user))

    async def _open(self, config: ModelConfig) -> Model:
        resolver = self._shop.lookups.of(self._user)
        return await to_thread.run_sync(self._shop.providers.open, config, resolver)

    async def rest(self) -> None:
        """Close what single conversations have not used for a while."""
        await self._bench.rest()

    async def aclose(self) -> None:
        """Close the models that were opened."""
        await self._bench.aclose()
        for opened in (self._model, *self._stand_ins.values()):
            if opened:
                await opened.aclose()
