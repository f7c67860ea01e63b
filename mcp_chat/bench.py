"""The models that single conversations of a user talk to, beside the one that the user is connected to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio

from mcp_chat.models.base import Model, Piece, Request

REST = 60.0
"""Seconds without a request after which a model is closed; the next request opens it again."""


class BenchModel:
    """A model that is opened when it is asked, and closed when it is not.

    Args:
        name: `provider:model`.
        make: Makes it.
    """

    def __init__(self, name: str, make: Callable[[str], Awaitable[Model]]) -> None:
        self.name = name
        self._make = make
        self._model: Model | None = None
        self._opening = anyio.Lock()
        self._asked = 0
        self._used = time.monotonic()

    async def stream(self, request: Request) -> AsyncGenerator[Piece]:
        """Answer in pieces; see `mcp_chat.models.base.Model`."""
        self._asked += 1
        try:
            async with contextlib.aclosing((await self._open()).stream(request)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._asked -= 1
            self._used = time.monotonic()

    async def _open(self) -> Model:
        async with self._opening:
            if self._model is None:
                self._model = await self._make(self.name)
            return self._model

    async def rest(self, seconds: float) -> None:
        """Close it if it was not asked anything for so long."""
        if self._model and not self._asked and time.monotonic() - self._used >= seconds:
            await self.aclose()

    async def aclose(self) -> None:
        """Close what it holds open."""
        model, self._model = self._model, None
        if model:
            await model.aclose()


class Bench:
    """A user's models by their names.

    Args:
        make: Makes a model of the operator's catalogue.
    """

    def __init__(self, make: Callable[[str], Awaitable[Model]]) -> None:
        self._make = make
        self._models: dict[str, BenchModel] = {}

    def of(self, name: str) -> BenchModel:
        """Return a model, which may not be open."""
        if name not in self._models:
            self._models[name] = BenchModel(name, self._make)
        return self._models[name]

    async def rest(self, seconds: float = REST) -> None:
        """Close the models that nobody has asked anything for a while."""
        for model in list(self._models.values()):
            await model.rest(seconds)

    async def aclose(self) -> None:
        """Close all."""
        for model in list(self._models.values()):
            await model.aclose()
