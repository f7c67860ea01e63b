"""Counts what one turn spends, and sees before each step that it may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from mcp_chat.allowance import LEAST, Allowance, left, room, tokens
from mcp_chat.context import estimate, tokens_of
from mcp_chat.exceptions import LimitReached
from mcp_chat.limits import ModelLimits
from mcp_chat.message import Message, ToolCall, Usage
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Piece, Request
from mcp_chat.prices import Bill, Unknown
from mcp_chat.spent import USAGE, Spent, Sum, dollars, noted, spent_on, sum_of, total
from mcp_chat.tools import weight

CAPPED = 4096
"""Tokens that every model may be asked for: with more left there is nothing to tell it."""

CUT = frozenset({"length", "max_tokens", "MAX_TOKENS", "max_output_tokens"})
"""Words of the providers for an answer that was as long as it may be."""

NO_BILL = Bill(model="", tariff=Unknown())


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A model that is being asked.

    Attributes:
        answer: What has come of it so far.
        cap: Tokens that it may say, if they are fewer than it would be asked for.
        limit: The limit that says so.
    """

    request: Request
    answer: Answer
    bill: Bill
    cap: int | None = None
    limit: str = ""

    def counted(self, usage: Usage, *, whole: bool) -> Usage:
        """Return what was used and what it cost; what the provider has not counted is estimated.

        Args:
            whole: The answer has come to its end, so that the provider's counts are its last ones.
        """
        said = self.answer.said()
        if not (whole and usage.input_tokens and (usage.output_tokens or not said)):
            usage = replace(
                usage,
                input_tokens=usage.input_tokens or read_by(self.request),
                output_tokens=max(usage.output_tokens, estimate(said)),
                estimated=True,
            )
        return self.bill.priced(usage)

    def was_cut(self, usage: Usage) -> bool:
        """Tell whether the answer ends where the limit is."""
        return self.cap is not None and (self.answer.end in CUT or usage.output_tokens >= self.cap)


def read_by(request: Request) -> int:
    """Return about how many tokens a model reads when it is asked this."""
    tools = sum(weight(tool.description) + weight(tool.schema) for tool in request.tools)
    return sum(tokens_of(message) for message in request.messages) + tools // 4


class Meter:
    """What a turn spends.

    Args:
        run: What the ids of the turn's messages begin with.
        session_id: Where it is.
        allowance: What its user may use.
        bill: Finds a model's prices by its name; those of the user's model, if there is none.
    """

    def __init__(
        self, run: str, session_id: str, allowance: Allowance, bill: Callable[[str], Awaitable[Bill]]
    ) -> None:
        self._run = run
        self._session_id = session_id
        self._allowance = allowance
        self._bill = bill
        self._used = Sum()
        self._asked: Asked | None = None
        self._waiting: tuple[Spent, ...] = ()
        self._refused: dict[str, str] = {}
        self._cut = ""
        self._own = False

    @property
    def used(self) -> Sum:
        """What the turn has spent so far."""
        return self._used

    @property
    def was_cut(self) -> bool:
        """Whether the last answer was cut off by a limit."""
        return bool(self._cut)

    async def today(self) -> dict[str, float]:
        """Return what the user has used of today: tokens, dollars that the operator pays, and calls."""
        await self._allowance.read()
        used = self._allowance.used()
        return {"tokens": tokens(used), "dollars": dollars(used.billed), "calls": used.calls}

    def used_with(self, steps: Iterable[Spent]) -> Sum:
        """Return what the turn will have spent when steps are counted."""
        return total([self._used, *map(sum_of, steps)])

    async def resume(
        self, written: Iterable[Message], steps: Callable[[str], Awaitable[Iterable[Spent]]]
    ) -> None:
        """Take over what earlier owners have counted; without a database a message may be there that is not.

        Args:
            written: The turn's messages.
            steps: Reads the steps of a turn.
        """
        await self._allowance.read()
        counted = {each.id: each for each in await steps(self._run)}
        self._used = total(map(sum_of, counted.values()))
        said = [each for each in written if each.role == "assistant"]
        missing = (each for each in said if USAGE in each.metadata and each.id not in counted)
        self._waiting = tuple(spent_on(each, self._session_id) for each in missing)
        self._own = any(each.own for each in counted.values())
        limit = "turn_calls" if self._took_all() else "day_calls"
        for message in said:  # what was refused stays refused, whoever goes on
            if known := counted.get(message.id):
                self._refuse(message.tool_calls[known.calls :], limit)

    # Models

    async def allow(self, request: Request, answer: Answer, model: str) -> Request:
        """See that a model may be asked; return what it may be asked.

        Args:
            answer: What will come of it; one that breaks off is counted as far as it came.
            model: `provider:model`.

        Raises:
            LimitReached: Too little is left of a limit, or a tool call was refused for it.
            Unpriced: Money is limited, and the model has no known price.
        """
        await self._allowance.read()
        bill = await self._bill(model)
        self._allowance.check_price(bill)
        if asked := self._asked:
            self._waiting += self._broken(asked, f"{self._run}-b{self._used.steps}.{len(self._waiting)}")
        self._asked, self._own = self._allowed(request, answer, bill), bill.own
        cap = self._asked.cap
        return request if cap is None else replace(request, max_tokens=cap)

    def _allowed(self, request: Request, answer: Answer, bill: Bill) -> Asked:
        limits = self._allowance.limits
        for limit in self._refused.values():
            raise self._allowance.reached(limit)
        if not limits.counted:
            return Asked(request=request, answer=answer, bill=bill)
        left_over = room(limits, self._with_waiting(), self._allowance.used(), own=bill.own)
        said, limit = left_over.said(read_by(request), bill)
        if said is not None and said < LEAST:
            raise self._allowance.reached(limit)
        cap = said if said is not None and said < CAPPED else None
        return Asked(request=request, answer=answer, bill=bill, cap=cap, limit=limit)

    def _with_waiting(self) -> Sum:
        return total([self._used, *map(sum_of, self._waiting)])

    def step(self, message: Message, usage: Usage) -> tuple[Message, tuple[Spent, ...]]:
        """Return a model's message with what it has cost, and what is to be counted along with it."""
        asked = self._asked
        usage = asked.counted(usage, whole=True) if asked else NO_BILL.priced(usage)
        self._cut = asked.limit if asked and asked.was_cut(usage) else ""
        spent = self._spent(message.id, usage, asked, calls=self._let_through(message.tool_calls))
        return noted(message, spent), (*self._waiting, spent)

    def part(self, message: Message) -> tuple[Message, tuple[Spent, ...]]:
        """Return the message with what was said before it was broken off, as `step` does."""
        usage = Usage(output_tokens=estimate(message.content), estimated=True)
        asked = self._asked
        usage = asked.counted(asked.answer.usage, whole=False) if asked else NO_BILL.priced(usage)
        spent = self._spent(message.id, usage, asked)
        return noted(message, spent), (*self._waiting, spent)

    def lost(self, text: str, shown: Sequence[Message], bill: Bill) -> None:
        """Take into account what a dead owner's model had said that is in no message."""
        answer = Answer(ModelLimits(message_bytes=2**62))
        answer.add(Piece(text=text))
        self._asked = Asked(request=Request(messages=shown), answer=answer, bill=bill)

    def rest(self, name: str) -> tuple[Spent, ...]:
        """Return what was paid for and is in no message.

        Args:
            name: Tells it from the turn's other steps.
        """
        broken = self._broken(self._asked, f"{self._run}-{name}") if self._asked else ()
        return (*self._waiting, *broken)

    def _broken(self, asked: Asked, id_: str) -> tuple[Spent, ...]:
        if not asked.answer.heard:
            return ()
        return (self._spent(id_, asked.counted(asked.answer.usage, whole=False), asked),)

    def _spent(self, id_: str, usage: Usage, asked: Asked | None, *, calls: int = 0) -> Spent:
        bill = asked.bill if asked else NO_BILL
        return Spent(
            id=id_,
            day=self._allowance.today,
            session_id=self._session_id,
            model=bill.model,
            usage=usage,
            calls=calls,
            own=bill.own,
        )

    def aside(self, name: str, usage: Usage) -> Spent:
        """Return what an answer has cost that becomes no message, and count it: its caller records it."""
        asked = self._asked
        usage = asked.counted(usage, whole=True) if asked else NO_BILL.priced(usage)
        spent = self._spent(name, usage, asked)
        self.took([spent])
        return spent

    def took(self, steps: Iterable[Spent]) -> None:
        """Count steps that are recorded."""
        self._asked, self._waiting = None, ()
        for each in steps:
            self._used += sum_of(each)
            self._allowance.add(each)

    def check_cut(self) -> None:
        """See that the last answer was not cut off by a limit.

        Raises:
            LimitReached: It was.
        """
        if self._cut:
            raise self._allowance.reached(self._cut)

    # Tools

    def _let_through(self, calls: Sequence[ToolCall]) -> int:
        """Refuse the calls that are too many, and return how many may be made."""
        limits, day = self._allowance.limits, self._allowance.used()
        able = {
            "turn_calls": left(limits.turn_calls, self._used.calls),
            "day_calls": left(limits.day_calls, day.calls),
        }
        most, limit = min(
            ((amount, name) for name, amount in able.items() if amount is not None), default=(len(calls), "")
        )
        self._refuse(calls[most:], limit)
        return min(most, len(calls))

    def _refuse(self, calls: Iterable[ToolCall], limit: str) -> None:
        self._refused |= {call.id: limit for call in calls}

    def _took_all(self) -> bool:
        """Tell whether the turn has made all the calls that it may."""
        return left(self._allowance.limits.turn_calls, self._used.calls) == 0

    def refusal(self, call: ToolCall) -> LimitReached | None:
        """Return why a call may not be made, or None."""
        if limit := self._refused.get(call.id) or self._exhausted():
            return self._allowance.reached(limit)
        return None

    def _exhausted(self) -> str:
        """Nobody would read what the call gives."""
        limits = self._allowance.limits
        if not limits.counted:
            return ""
        return room(limits, self._used, self._allowance.used(), own=self._own).spent()
