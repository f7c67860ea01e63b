"""One turn: a user's message until its answer is complete. Recorded first, announced second."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

import anyio
import structlog

from mcp_chat.agent import Agent
from mcp_chat.beginning import Beginning
from mcp_chat.calls import Calls, MakeCalls
from mcp_chat.commands import Send
from mcp_chat.context import Budget, last_in, may_be_cut, prompted, shown
from mcp_chat.deed import of_block
from mcp_chat.ends import ended_with, failed, finished_with
from mcp_chat.events import (
    Final,
    HandedOver,
    MessageAdded,
    TurnFinished,
    TurnStarted,
)
from mcp_chat.exceptions import (
    BlockedByPlugin,
    ChatError,
    Interrupted,
    ModelTimeout,
    StoreUnavailable,
    Unexpected,
)
from mcp_chat.manner import Manner, manner_of
from mcp_chat.message import Message, Usage, new_id
from mcp_chat.metrics import Resumption
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Piece, Request
from mcp_chat.models.ending import ENDED
from mcp_chat.outcomes import partial
from mcp_chat.pause import Pause
from mcp_chat.plugins.blocks import BLOCKED, let_through, noted, told_of
from mcp_chat.recovery import Past, Told, answered, retold, unanswered
from mcp_chat.seat import Seat
from mcp_chat.spent import Spent, usage_in
from mcp_chat.story import Story
from mcp_chat.terms import Terms
from mcp_chat.together import together
from mcp_chat.upload import Upload

log = structlog.get_logger()

END_LIMIT = 8.0
"""Seconds for each of the last writes of a turn."""
RETRY_EVERY = 0.5
"""Seconds between two attempts at such a write."""


class Turn:
    """Runs one message to its end, whatever happens.

    Args:
        command: The user's message.
        terms: What it is run with.
        past: What an earlier owner has left of it.
        give_up: Whether that was too often: it is only brought to an end.
        make_calls: Makes what makes its tool calls.

    Attributes:
        steering: What the user says while it runs.
        calls: Its tool calls.
    """

    def __init__(
        self,
        command: Send,
        terms: Terms,
        *,
        past: Past | None = None,
        give_up: bool = False,
        make_calls: MakeCalls = Calls,
    ) -> None:
        self._run = command.run
        self._id = command.id
        self._own_manner = Manner(model=command.model, temperature=command.temperature)
        self._terms = terms
        self.steering = terms.steering
        self.tape = terms.tape
        self._scribe, self._emit = terms.scribe, terms.emit
        self._meter = terms.meter
        self._past = past
        self._give_up = give_up
        self._story = Story(command, terms.emit, terms.metrics, past.told if past else Told())
        self._beginning = Beginning(command, terms.scribe, terms.emit, self._story)
        self.calls = make_calls(command, terms, self._story, resumed=past is not None)
        self.tell, self.run_call = self._story.tell, self.calls.run
        self._files: dict[str, Upload] = {}
        self._looked_back = self._caught_up = past is None
        self._over = False
        self._declined = False
        self._blocked: BlockedByPlugin | None = None
        self._closed: TurnFinished | None = None
        self._began = time.monotonic()

    async def steered(self, *, last: bool = False) -> list[Message]:
        """Return what the user has said meanwhile; see `mcp_chat.agent.Loop`."""
        if self.steering.waits:
            await self._story.early.over()  # the question comes first
        known, write = self._story.ids, self._story.writings.finish
        found = await self.steering.come_in(known, self._scribe.write, self.tell, write, last=last)
        self._files |= await self._scribe.files(found)
        return await self._terms.doors.agent.joined(found)

    async def run(self, *, why_cancelled: Callable[[], Final | None], seat: Seat) -> None:
        """Run to the end; when this returns or raises, the end is told or the turn is handed over.

        Args:
            why_cancelled: Asked for the final event if the turn is cancelled; None hands it over.
            seat: Is given back while somebody is waited for.
        """
        self.calls.begin(seat, lambda: why_cancelled() is not None)
        outcome: Final | None = None
        try:
            outcome = await self._attempt()
        finally:
            with anyio.CancelScope(shield=True):
                await self._finish(why_cancelled() if outcome is None else outcome)

    async def decline(self, outcome: Final) -> None:
        """End it before it has begun: the message stays in the history if no other one goes for it."""
        self._declined = True
        await self._end(outcome, patience=RETRY_EVERY)  # others wait behind it

    def retell(self) -> None:
        """Tell all anew: the log has lost what it had."""
        if self._over:
            return
        self._emit(TurnStarted(session_id=self._story.session.id, run=self._run))
        if self._past and not self._caught_up:
            self._past.lost = True  # what there is to tell is read first
            return
        for event in retold(self._story.written, self._story.told.partial):
            self._emit(event)

    async def _attempt(self) -> Final:
        try:
            with anyio.move_on_after(self._terms.limit) as limit:
                self.calls.pause = Pause(limit)
                self._emit(TurnStarted(session_id=self._story.session.id, run=self._run))
                return await self._converse()
        except ChatError as error:
            self._blocked = error if isinstance(error, BlockedByPlugin) else None
            if self.tape:
                self.tape.fail(error)
            await self._terms.trail.note_refusal(error, session_id=self._story.session.id, turn=self._id)
            return failed(error)
        except Exception:  # a bug in one turn must not end the others
            log.exception("turn.crashed")
            return failed(Unexpected())
        assert limit.cancelled_caught
        return failed(ModelTimeout(f"The turn took longer than {self._terms.limit:g} seconds and was ended."))

    async def _converse(self) -> Final:
        if not self._beginning.forked:
            await self._look_back()
            await self._beginning.fork()
        self._story.session, _, _ = await asyncio.gather(
            self._scribe.session(), self._look_back(), self._terms.flush()
        )
        if self._past:
            self._count(self._past)
            await self._count_lost(self._past)
            if self._give_up and not answered(self._story.written):
                raise Interrupted
            self._catch_up(self._past)
            if last := answered(self._story.written):
                return ended_with(last)
        if self._story.written:
            last = await self._answer()
        else:  # the model is asked while the question is written; nobody hears of it before
            self._story.early.begin()
            last, _ = await together((self._answer(), self._beginning.write()))
        return finished_with(last, self._story.written)

    async def _answer(self) -> Message:
        agent = await self._equip()
        messages, warmth = await self._terms.doors.agent.before(
            self._shown(agent.window.fitted(self._terms.budget)),
            servers=[connection.server for connection in self.calls.toolbox.connections.values()],
            tools=[tool.name for tool in self.calls.toolbox.tools],
            model=self._manner.model,
            temperature=self._manner.temperature,
            today=self._meter.today,
        )
        if self.tape:
            self.tape.show(messages, self.calls.toolbox.tools)
        self._files = await self._scribe.files(messages)
        return await agent.run(messages, self._files, self, temperature=warmth)

    def _count(self, past: Past) -> None:
        how: Resumption = "retried" if past.told.partial else "continued"
        if answered(self._story.written):
            how = "answered"
        elif self._give_up:
            how = "given_up"
        elif unanswered(self._story.written):
            return  # counted when it is known whether they can be made again
        if past.starts or self._story.written:
            self._terms.metrics.turn_resumed(how)

    async def _count_lost(self, past: Past) -> None:
        """Count what a dead owner's model had said that is in no message; one that left has counted it."""
        if past.told.partial and not past.orderly and past.announced >= self._story.ids:
            bill = await self._terms.bill(self._manner.model)
            self._meter.lost(past.told.partial, self._shown(self._terms.budget), bill)
            if not self._give_up:  # else it becomes a message
                await self._settle_up(f"l{past.holds}")

    async def _settle_up(self, name: str) -> None:
        """Record what was paid for and is in no message."""
        if spent := self._meter.rest(name):
            await self._scribe.write(spent=spent)
            self._meter.took(spent)

    def left(self) -> float:
        """Return the seconds that it may still take; see `mcp_chat.agent.Loop`."""
        return self.calls.pause.left

    def fewer(self, tokens: int) -> list[Message]:
        """Return what the model is shown within fewer tokens; see `mcp_chat.agent.Loop`."""
        return self._terms.doors.agent.shown(self._shown(self._terms.budget.within(tokens)))

    def _shown(self, budget: Budget) -> list[Message]:
        """Return what the model is shown; a question that is still being written is among it."""
        session, asked = self._story.session, () if self._story.written else self._beginning.messages
        session = last_in(replace(session, messages=(*session.messages, *asked)), self._story.ids)
        session = prompted(let_through(session), self._terms.system_prompt)
        return list(shown(session, budget, cut=may_be_cut(session, budget)).messages)

    @property
    def _manner(self) -> Manner:
        """How the conversation is to be answered, this time."""
        manner, own = manner_of(self._story.session.context), self._own_manner
        temperature = manner.temperature if own.temperature is None else own.temperature
        return replace(manner, model=own.model or manner.model, temperature=temperature)

    def _catch_up(self, past: Past) -> None:
        """Void what readers were told and is not recorded, and tell them what they were not told."""
        self._caught_up = True
        self._story.catch_up(past.missing(self._story.written))

    async def _look_back(self) -> None:
        """Read what earlier owners have written, and which calls they have left open."""
        past = self._past
        if past is None or self._looked_back:
            return
        self._story.written = await self._scribe.turn(self._run)
        await self._meter.resume(self._story.written, self._scribe.steps)
        await self.calls.recall(past.pending)
        self._looked_back = True

    async def _equip(self) -> Agent:
        """Return the agent, when the calls that an earlier owner left open are settled."""
        agent, self.calls.toolbox = await self._terms.prepare(self._manner.model)
        await self.calls.go_on()
        return agent

    async def _finish(self, outcome: Final | None) -> None:
        """Keep what was said so far, then end: whatever fails, the turn has an end."""
        await self._story.settle(END_LIMIT)
        outcome = self._closed or outcome  # whatever came in between: it has ended
        if outcome is None:
            await self._hand_over()
        else:
            await self._end(outcome)

    async def _end(self, outcome: Final, *, patience: float = END_LIMIT) -> None:
        stopped = isinstance(outcome, TurnFinished) and outcome.stopped
        with anyio.move_on_after(END_LIMIT), contextlib.suppress(ChatError):
            await self._end_questions()
        with anyio.move_on_after(END_LIMIT):  # the turn ends in any case
            await self._try_to_make_whole(time.monotonic() + patience)
            with contextlib.suppress(ChatError):
                await self.steering.settle(self._story.ids)
        if self._blocked:
            await self._say_blocked(self._blocked)
        if self._story.told.partial or self.calls.open or self._blocked:
            outcome = await self._keep({"stopped": True} if stopped else {"interrupted": True}, outcome)
        with anyio.move_on_after(END_LIMIT), contextlib.suppress(ChatError):
            await self._settle_up("e")
        if isinstance(outcome, TurnFinished) and not self._closed:
            used = self._meter.used
            outcome = replace(outcome, elapsed_ms=self._elapsed(), usage=used.usage, steps=used.steps)
        self._over = True
        with anyio.move_on_after(END_LIMIT):
            await self._terms.end(outcome, outcome is self._closed)
        log.info("turn.ended", outcome=outcome.type, stopped=stopped, ms=self._elapsed())

    async def _say_blocked(self, blocked: BlockedByPlugin) -> None:
        """Tell what plugins have blocked, and take it down."""
        self.tell(told_of(blocked))
        with anyio.move_on_after(END_LIMIT):
            deed = of_block(noted(blocked), turn=self._id, session_id=self._story.session.id)
            await self._terms.trail.note([deed])

    async def _end_questions(self) -> None:
        """End what is still asked: nobody waits for the answers any more."""
        ended = self._terms.talks.over(self._id, self._story.asking, resumed=self._past is not None)
        for event in await ended:
            self.tell(event)

    async def _try_to_make_whole(self, until: float) -> None:
        with contextlib.suppress(ChatError):
            while True:
                try:
                    return await self._make_whole()
                except StoreUnavailable:
                    if time.monotonic() + RETRY_EVERY > until:
                        raise
                    await anyio.sleep(RETRY_EVERY)

    async def _make_whole(self) -> None:
        """See to it that the user's message is in the history, and that readers know what else is."""
        if not self._looked_back:
            await self._look_back()
        announced = self._past.announced if self._past else set()
        missing = not announced >= self._story.ids
        if self._past and not self._caught_up and (missing or self._past.lost):
            self._catch_up(self._past)  # what readers have is not what is recorded
        for message in self._story.written:
            if message.id not in announced and message.id not in self._story.announced:
                self.tell(MessageAdded(message=message))
        if not self._story.written and not (self._declined and self._beginning.replaces):
            await self._beginning.write()

    async def _hand_over(self) -> None:
        """Leave the turn as it is; the next owner goes on."""
        pending = self.calls.pending
        with anyio.move_on_after(END_LIMIT), contextlib.suppress(ChatError):
            await self._settle_up(f"h{new_id()[:8]}")
        self._emit(HandedOver(pending=pending))
        with anyio.move_on_after(END_LIMIT), contextlib.suppress(StoreUnavailable):
            await self._terms.flush()
        self._terms.metrics.turn_ended("handed_over")
        log.info("turn.handed_over")

    async def _keep(self, mark: dict[str, bool], outcome: Final) -> Final:
        """Write what there is of a turn that did not come to its end; each call gets a result."""
        try:
            with anyio.fail_after(END_LIMIT):
                await self.calls.close_open(mark)
                if self._story.told.partial or self._blocked:
                    note = {BLOCKED: noted(self._blocked)} if self._blocked else {}
                    message = partial(self._run, self._story.place("a"), self._story.told, {**mark, **note})
                    message, spent = self._meter.part(message)
                    await self._scribe.write(message, spent=spent)
                    self._meter.took(spent)
                    self.tell(MessageAdded(message=message, usage=usage_in(message)))
        except TimeoutError:
            return failed(StoreUnavailable())
        except ChatError as error:
            return failed(error)
        return outcome

    async def allow(self, request: Request, answer: Answer, model: str) -> Request:
        """See that a model may be asked; see `mcp_chat.agent.Purse`."""
        return await self._meter.allow(await self._terms.doors.model.asked(request), answer, model)

    def answered(self, pieces: AsyncGenerator[Piece], hear: Callable[[Piece], None]) -> AsyncGenerator[Piece]:
        """Return what a model says as it may be told; see `mcp_chat.agent.Purse`."""
        return self._terms.doors.model.answered(pieces, hear)

    async def record(self, message: Message, usage: Usage) -> Message:
        """Put the model's message into the history; see `mcp_chat.agent.Loop`."""
        looked_at = await self.calls.looked_at(message)
        if self.tape and looked_at.tool_calls != message.tool_calls:
            self.tape.change(looked_at.tool_calls)
        message = looked_at
        await self._story.early.over()
        message = await self._story.writings.finish(self._record(message, usage))
        if self.tape:
            self.tape.whole()
        self.tell(MessageAdded(message=message, usage=usage_in(message)))
        self._meter.check_cut()
        return message

    async def _record(self, message: Message, usage: Usage) -> Message:
        message = replace(message, id=f"{self._run}-a{self._story.place('a')}")
        message, spent = self._meter.step(message, usage)
        closing = self._closing(message, spent)
        written = [message] if message.content or message.tool_calls else []
        await self._scribe.write(*written, spent=spent, ends=(self._id, closing) if closing else None)
        self._meter.took(spent)
        self._closed = closing
        if written:
            self._story.untold[message.id] = (MessageAdded(message=message, usage=usage_in(message)),)
            self.calls.want(message)
        return message

    def _closing(self, message: Message, spent: Sequence[Spent]) -> TurnFinished | None:
        """Return the turn's end if a message is its last one: it is recorded along with it."""
        if message.tool_calls or not message.content or self._meter.was_cut or not self.steering.close():
            return None
        used = self._meter.used_with(spent)
        ended = str(message.metadata.get(ENDED, ""))
        return TurnFinished(ended=ended, elapsed_ms=self._elapsed(), usage=used.usage, steps=used.steps)

    def _elapsed(self) -> int:
        return int((time.monotonic() - self._began) * 1000)
