"""What a user may use in a day: read once, counted by its owner, and free again at midnight."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from mcp_chat.allowance import Allowance, Limits, check_day
from mcp_chat.catalogue import CatalogueEntry, Prices
from mcp_chat.config import ModelConfig
from mcp_chat.exceptions import LimitReached
from mcp_chat.limits import ModelLimits
from mcp_chat.message import Message, ToolCall, Usage
from mcp_chat.meter import Meter
from mcp_chat.metrics import Metrics
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Piece, Request
from mcp_chat.prices import Bill, Fixed, PriceList
from mcp_chat.spent import Spent
from mcp_chat.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

EVENING = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)
MORNING = EVENING + timedelta(minutes=1)
QUESTION = Request(messages=[Message(role="user", content="hello")])
FREE = Bill(model="p:m", tariff=Fixed(input=0, output=0, cached=0))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    """Tells what time a test has set it to."""

    def __init__(self) -> None:
        self.now = EVENING

    def __call__(self) -> datetime:
        return self.now


class Owner:
    """A user's owner, with a day of 1,000 tokens."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self._store = store
        limits = Limits(day_tokens=1000)
        self.allowance = Allowance("ann", store.usages, limits, Metrics(), clock)

    async def turn(self, run: str, tokens: int) -> None:
        """Ask once and record the answer."""
        meter = Meter(run, "s", self.allowance, self._bill)
        answer = Answer(ModelLimits())
        await meter.allow(QUESTION, answer, "p:m")
        answer.add(Piece(text="hi"))
        message = Message(role="assistant", content="hi", id=f"{run}-a0")
        _, steps = meter.step(message, Usage(input_tokens=tokens - 1, output_tokens=1))
        await self._store.usages.spend("ann", steps, epoch=2**62)
        meter.took(steps)

    async def _bill(self, _model: str) -> Bill:
        return FREE


async def test_a_day_that_is_used_up_is_free_again_at_midnight() -> None:
    store, clock = MemoryStore(), Clock()
    owner = Owner(store, clock)
    await owner.turn("one", 1000)
    with pytest.raises(LimitReached) as told:
        await owner.turn("two", 1)
    assert (told.value.limit, told.value.retry_after) == ("day_tokens", 30)
    with pytest.raises(LimitReached):
        await check_day(store.usages, Limits(day_tokens=1000), "ann", own=False, clock=clock)
    clock.now = MORNING
    await check_day(store.usages, Limits(day_tokens=1000), "ann", own=False, clock=clock)
    await owner.turn("two", 900)
    days = await store.usages.sums("ann", since=EVENING.date(), until=MORNING.date(), by="day")
    assert [(each.key, each.usage.input_tokens) for each in days] == [
        ("2026-01-31", 999),
        ("2026-02-01", 899),
    ]


async def test_the_next_owner_goes_on_where_the_last_one_was() -> None:
    store, clock = MemoryStore(), Clock()
    await Owner(store, clock).turn("one", 1000)
    with pytest.raises(LimitReached):
        await Owner(store, clock).turn("two", 1)


async def test_what_was_counted_before_the_owner_came_is_read_once() -> None:
    store, clock = MemoryStore(), Clock()
    earlier = Spent(id="r-a0", day=EVENING.date(), session_id="s", model="p:m", usage=Usage(input_tokens=600))
    await store.usages.spend("ann", [earlier, replace(earlier, id="r-a1", day=date(2026, 1, 30))], epoch=1)
    owner = Owner(store, clock)
    await owner.turn("one", 300)
    assert owner.allowance.used().usage.input_tokens == 899


# Prices


def cost(bill: Bill, *, input_tokens: int = 0, output_tokens: int = 0, cached_tokens: int = 0) -> int:
    """What was used costs, in billionths of a dollar."""
    used = Usage(input_tokens=input_tokens, output_tokens=output_tokens, cached_tokens=cached_tokens)
    return bill.priced(used).cost_nanos


def test_a_known_model_costs_what_its_provider_lists() -> None:
    bill = PriceList().bill("openai:gpt-4o-mini")
    assert cost(bill, input_tokens=1_000_000) == 150_000_000
    assert cost(bill, output_tokens=1_000_000) == 600_000_000
    assert cost(bill, input_tokens=1_000_000, cached_tokens=1_000_000) == 75_000_000
    assert not bill.own


@pytest.mark.parametrize(
    "model", ["azure_openai:gpt-4o", "google_genai:gemini-2.5-pro", "anthropic:claude-sonnet-4-5"]
)
def test_providers_are_found_under_the_names_that_models_have_here(model: str) -> None:
    assert PriceList().bill(model).known


def test_a_tier_is_as_the_list_has_it() -> None:
    bill = PriceList().bill("google_genai:gemini-2.5-pro")
    assert cost(bill, input_tokens=300_000) > 3 * cost(bill, input_tokens=100_000)


def test_the_operators_prices_come_before_the_lists() -> None:
    entry = CatalogueEntry(
        model="openai:gpt-4o-mini",
        prices=Prices(input=Decimal(1), output=Decimal(2), cached_input=Decimal("0.1")),
    )
    bill = PriceList([entry]).bill("openai:gpt-4o-mini")
    used = {"input_tokens": 1_000_000, "output_tokens": 1_000_000, "cached_tokens": 500_000}
    assert cost(bill, **used) == 500_000_000 + 50_000_000 + 2_000_000_000


def test_local_models_cost_nothing_and_unknown_ones_nobody_knows_what() -> None:
    prices = PriceList([CatalogueEntry(model="openai:gpt-4o-mini", base_url="http://10.0.0.1/v1")])
    local = prices.bill("ollama:llama3.2").priced(Usage(input_tokens=1000))
    assert (local.cost_nanos, local.unpriced) == (0, False)
    for model in ("openai:none-such", "nobody:none", "openai:gpt-4o-mini"):  # the last is another server's
        unknown = prices.bill(model).priced(Usage(input_tokens=1000))
        assert (unknown.cost_nanos, unknown.unpriced) == (0, True)


def test_a_users_own_key_is_their_own_bill() -> None:
    config = ModelConfig(provider="openai", model="gpt-4o-mini", api_key="k")
    bill = PriceList().bill("openai:gpt-4o-mini", config)
    assert bill.own
    assert bill.known
    assert not PriceList().bill("openai:gpt-4o", config).own  # one that answers instead is the operator's


# The next owner of a turn


def asking(run: str, *ids: str) -> Message:
    calls = tuple(ToolCall(id=each, name="t", args={}) for each in ids)
    return Message(role="assistant", content="", tool_calls=calls, id=f"{run}-a0")


def metered(store: MemoryStore, limits: Limits, bill: Bill = FREE) -> Meter:
    async def known(_model: str) -> Bill:
        return bill

    return Meter("run", "s", Allowance("ann", store.usages, limits, Metrics()), known)


async def asked_for(store: MemoryStore, limits: Limits, *ids: str, bill: Bill = FREE) -> Message:
    """A step whose owner has died behind it."""
    meter = metered(store, limits, bill)
    await meter.allow(QUESTION, Answer(ModelLimits()), "p:m")
    message, steps = meter.step(asking("run", *ids), Usage(input_tokens=1, output_tokens=1, cost_nanos=5))
    await store.usages.spend("ann", steps, epoch=2**62)
    return message


async def steps_in(store: MemoryStore, run: str) -> list[Spent]:
    return await store.usages.steps("ann", run, since=date(2020, 1, 1))


@pytest.mark.parametrize("limits", [Limits(turn_calls=1), Limits(day_calls=1)])
async def test_a_call_that_was_too_many_is_not_made_by_the_next_owner(limits: Limits) -> None:
    store = MemoryStore()
    message = await asked_for(store, limits, "one", "two", "three")
    meter = metered(store, limits)
    await meter.resume([message], lambda run: steps_in(store, run))
    assert [bool(meter.refusal(call)) for call in message.tool_calls] == [False, True, True]
    with pytest.raises(LimitReached):
        await meter.allow(QUESTION, Answer(ModelLimits()), "p:m")


async def test_who_pays_themselves_still_does_at_the_next_owner() -> None:
    store, limits = MemoryStore(), Limits(day_nanos=1)
    own = replace(FREE, own=True)
    today = datetime.now(UTC).date()
    paid = Spent(id="other-a0", day=today, session_id="s", model="p:m", usage=Usage(cost_nanos=5))
    await store.usages.spend("ann", [paid], epoch=2**62)
    message = await asked_for(store, limits, "one", bill=own)
    meter = metered(store, limits, own)
    await meter.resume([message], lambda run: steps_in(store, run))
    assert meter.refusal(message.tool_calls[0]) is None


async def test_what_a_user_says_of_costs_counts_for_nothing() -> None:
    store, limits = MemoryStore(), Limits(day_tokens=10)
    said = Message(role="user", content="hi", id="run-q", metadata={"usage": {"input_tokens": -1000}})
    meter = metered(store, limits)
    await meter.resume([said], lambda run: steps_in(store, run))
    assert meter.rest("e") == ()
