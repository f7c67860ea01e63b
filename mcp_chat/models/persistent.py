"""Gets an answer out of a model that may fail: asks again, asks another one, and repeats nothing.

It is no model itself: a wrapper around a stream could hold no time limit across what it hands on, and would
cost something at each word. It has one attempt made after the other until one has told something of its
answer; from then on that attempt's end is the end.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

import anyio
import structlog

from mcp_chat.breaker import Breaker, Resting
from mcp_chat.context import tokens_of
from mcp_chat.events import Event, Noticed
from mcp_chat.exceptions import Cause, ModelFailed
from mcp_chat.limits import ModelLimits
from mcp_chat.message import Message, Usage
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Model, Request
from mcp_chat.models.ending import ended

log = structlog.get_logger()

FIRST_WAIT = 0.5
"""Seconds before the second attempt; twice as many before each further one."""

QUIET_WAIT = 1.0
"""Seconds that a user is not told of."""

HALVINGS = 3
"""Times that a conversation is shown shorter, if it is too long for the model."""

_PASSING: frozenset[Cause] = frozenset(
    {"limited", "overloaded", "failed", "unreachable", "broken_off", "empty"}
)
"""What may be over in a moment. A timeout has taken too long already, to be had twice."""

_ITS_OWN: frozenset[Cause] = _PASSING | {
    *("timeout", "resting", "unreadable", "spent", "refused_key", "unknown_model")
}
"""What another model may not suffer from."""

_BLAMED: frozenset[Cause] = frozenset({"overloaded", "failed", "unreachable", "broken_off", "timeout"})
"""What shows that a provider does not work, whoever asks."""


class Asker(Protocol):
    """Who wants the answer."""

    def tell(self, event: Event) -> None:
        """Say what is going on."""
        ...

    def fewer(self, tokens: int) -> Sequence[Message]:
        """Return what the model is shown within so many tokens; nothing if it cannot be less."""
        ...

    def left(self) -> float:
        """Return the seconds that there are still."""
        ...

    async def ask(self, model: Model, request: Request, answer: Answer) -> None:
        """Make one attempt: put what the model says into the answer, and tell it as it comes."""
        ...


@dataclass(frozen=True, slots=True)
class StandIn:
    """A model that answers when the ones before it do not.

    Attributes:
        name: `provider:model`.
        open: Gives the model, which is made when it is first needed.
        breaker: Of its provider.
    """

    name: str
    open: Callable[[], Awaitable[Model]]
    breaker: Breaker


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """How hard an answer is tried for.

    Attributes:
        retries: Further attempts at one model.
        patience: Seconds that are waited for one of them at most.
        breaker: Of the model's own provider.
        stand_ins: Who answers instead, in order.
    """

    retries: int = 0
    patience: float = 30.0
    breaker: Breaker = field(default_factory=Breaker)
    stand_ins: tuple[StandIn, ...] = ()
    random: Random = field(default_factory=Random)

    async def answer(self, model: Model, request: Request, limits: ModelLimits, asker: Asker) -> Answer:
        """Ask until there is an answer.

        Returns:
            The answer, which is empty if the model has nothing to say, however often it is asked.

        Raises:
            ModelFailed: There is none, or it broke off in the middle.
        """

        async def own() -> Model:
            return model

        first = StandIn(model.name, own, self.breaker)
        candidates = (first, *self.stand_ins)
        for n, candidate in enumerate(candidates):
            last = candidate is candidates[-1]
            trial = _Trial(self, candidate, limits, asker, last=last, instead_of=model.name if n else "")
            try:
                return await trial.run(request)
            except ModelFailed as error:
                log.warning("model.gave_up", model=candidate.name, why=error.cause)
                if trial.answer.begun or error.cause not in _ITS_OWN or last:
                    raise
                asker.tell(_turned_to(candidates[n + 1].name))
        raise ModelFailed  # unreachable: the last one returns or raises

    def wait(self, error: ModelFailed, retry: int) -> float:
        """Return the seconds before the next attempt: the provider's own, else ever more, and by chance."""
        wanted: float = FIRST_WAIT * 2**retry * self.random.uniform(0.5, 1.0)
        return wanted if error.retry_after is None else max(error.retry_after, wanted * 0.1)


class _Trial:
    """The attempts at one model for one answer.

    Args:
        last: Nobody answers instead: what is empty then is the answer.
        instead_of: The model that was to answer, if it is another one.

    Attributes:
        answer: The last one, as far as it has come.
    """

    def __init__(
        self,
        plan: Persistence,
        candidate: StandIn,
        limits: ModelLimits,
        asker: Asker,
        *,
        last: bool,
        instead_of: str,
    ) -> None:
        self._last = last
        self._instead_of = instead_of
        self._plan = plan
        self._candidate = candidate
        self._limits = limits
        self._asker = asker
        self._spent = Usage()
        self.answer = Answer(limits, model=candidate.name, instead_of=instead_of)

    async def run(self, request: Request) -> Answer:
        """Try as often as the plan wants, and as there is time for."""
        retries = halvings = 0
        while True:
            try:
                return await self._once(request, again=retries == 0 < self._plan.retries)
            except ModelFailed as error:
                if self.answer.begun:
                    raise
                if error.cause == "too_long" and halvings < HALVINGS:
                    request, halvings = self._shorter(request, error), halvings + 1
                    continue
                wait = self._plan.wait(error, retries)
                most = min(1, self._plan.retries) if error.cause == "empty" else self._plan.retries
                if error.cause not in _PASSING or retries >= most or not self._in_time(wait):
                    raise
                retries += 1
                await self._pause(wait, error)

    async def _once(self, request: Request, *, again: bool) -> Answer:
        """Make one attempt.

        Args:
            again: This model is asked once more if it says nothing.
        """
        self.answer = Answer(self._limits, model=self._candidate.name, instead_of=self._instead_of)
        self.answer.usage = self._spent
        try:
            with self._candidate.breaker.attempt(_is_blamed):
                model = await self._candidate.open()
                await self._asker.ask(model, request, self.answer)
        except Resting as resting:
            raise _rests(resting.seconds) from None
        said = self.answer.begun or ended(self.answer.end)  # else it does not even say why it says nothing
        if not said and (again or not self._last):
            self._spent = self.answer.usage
            raise ModelFailed("The model gave an empty answer. Please try again.", cause="empty")
        return self.answer

    def _shorter(self, request: Request, error: ModelFailed) -> Request:
        """Return the request with half of what it shows.

        Raises:
            ModelFailed: There is nothing to leave out.
        """
        half = sum(tokens_of(message) for message in request.messages) // 2
        messages = self._asker.fewer(half)
        if not messages or list(messages) == list(request.messages):
            raise error
        self._asker.tell(SHORTENED)
        return replace(request, messages=messages)

    def _in_time(self, wait: float) -> bool:
        """Tell whether to wait is worth it: neither is it too long, nor is the turn over before."""
        return wait <= self._plan.patience and wait < self._asker.left()

    async def _pause(self, wait: float, error: ModelFailed) -> None:
        log.info("model.retry", model=self._candidate.name, why=error.cause, seconds=round(wait, 2))
        if wait > QUIET_WAIT:
            self._asker.tell(_waiting(wait, error.cause))
        await anyio.sleep(wait)


def _is_blamed(error: BaseException) -> bool | None:
    """A limit of the user's own, say, is reached before the provider is asked."""
    return error.cause in _BLAMED if isinstance(error, ModelFailed) else None


_WHY: dict[Cause, str] = {
    "limited": "The model's provider is limiting requests.",
    "overloaded": "The model's provider is overloaded.",
    "empty": "The model gave an empty answer.",
}

SHORTENED = Noticed(
    code="context_shortened",
    text="The conversation is too long for the model, so older messages were left out.",
)


def _waiting(seconds: float, cause: Cause) -> Noticed:
    whole = math.ceil(seconds)
    why = _WHY.get(cause, "The model's provider does not answer.")
    return Noticed(code="model_retry", text=f"{why} Trying again in {whole} s.", seconds=whole)


def _turned_to(name: str) -> Noticed:
    text = f"The model does not answer, so {name} answers instead."
    return Noticed(code="model_fallback", text=text, model=name)


def _rests(seconds: float) -> ModelFailed:
    whole = math.ceil(seconds)
    return ModelFailed(
        "The model's provider has failed several times in a row, so it is left alone for a moment. "
        f"Please try again in {whole} s, or choose another model.",
        cause="resting",
        retry_after=float(whole),
    )
