"""The models that answer when a user's choice does not: made when they are needed, closed with the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cached_property, partial

import anyio

from mcp_chat.breaker import Breaker
from mcp_chat.config import ModelConfig
from mcp_chat.exceptions import InvalidRequest, ModelFailed
from mcp_chat.models.base import Model
from mcp_chat.models.persistent import Persistence, StandIn
from mcp_chat.workshop import Workshop


class StandIns:
    """Those of one user's model.

    Args:
        workshop: Has the catalogue and the breakers.
        user: Whose the model is.
        config: Which model it is.
        make: Makes models.
    """

    def __init__(
        self,
        workshop: Workshop,
        user: str,
        config: ModelConfig,
        make: Callable[[ModelConfig], Awaitable[Model]],
    ) -> None:
        self._shop = workshop
        self._user = user
        self._config = config
        self._make = make
        self._making = anyio.Lock()
        self._open: dict[ModelConfig, Model] = {}

    @cached_property
    def persistence(self) -> Persistence:
        """How hard an answer is tried for, and at which models."""
        return replace(
            self._shop.persistence,
            breaker=self._breaker(self._config),
            stand_ins=tuple(self._stand_in(each) for each in self._shop.providers.fallbacks(self._config)),
        )

    def _stand_in(self, config: ModelConfig) -> StandIn:
        return StandIn(
            f"{config.provider}:{config.model}", partial(self._opened, config), self._breaker(config)
        )

    def _breaker(self, config: ModelConfig) -> Breaker:
        """The operator's models fail for all; a user's own key or server is nobody else's business."""
        whose = "" if config.operator else self._user
        return self._shop.breakers.of((whose, self._shop.providers.whereabouts(config)))

    async def _opened(self, config: ModelConfig) -> Model:
        async with self._making:
            if config not in self._open:
                try:
                    self._open[config] = await self._make(config)
                except InvalidRequest as error:
                    raise ModelFailed(str(error), cause="unknown_model") from error
            return self._open[config]

    async def aclose(self) -> None:
        """Close those that were opened."""
        for model in self._open.values():
            await model.aclose()
        self._open.clear()
