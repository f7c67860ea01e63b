"""What a tool call has to do with its user while it runs: progress, questions, and what is kept of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

import anyio
import mcp_types as mcp
from mcp.shared.dispatcher import ProgressFnT

from mcp_chat.agent import Emit
from mcp_chat.decision import decision_of, of_decision
from mcp_chat.deed import Deed, digest
from mcp_chat.desk import CallState, Desk, name_of
from mcp_chat.events import Asked, AskEnded
from mcp_chat.exceptions import AnsweredAlready, ChatError, NotFound, QuestionEnded, StoreUnavailable
from mcp_chat.message import ToolCall
from mcp_chat.progress import Progress
from mcp_chat.questions import Answer, End, Question, completed
from mcp_chat.stores.base import Lease
from mcp_chat.trail import Trail

LOOK_EVERY = 5.0
"""Seconds between two looks for an answer whose ring was lost."""

CANCELLED = Answer(action="cancel")


class Around(Protocol):
    """A turn, as its calls know it."""

    @property
    def session_id(self) -> str:
        """Where it is."""
        ...

    @property
    def turn_id(self) -> str:
        """Its command."""
        ...

    @property
    def run_id(self) -> str:
        """What its messages' ids begin with."""
        ...

    def away(self, *, resumable: bool) -> AbstractAsyncContextManager[None]:
        """Wait for a person or for a task: no limit runs meanwhile, and no place is taken.

        Args:
            resumable: The next owner could go on with it.
        """
        ...

    async def held(self) -> None:
        """Return when this worker may do what cannot be undone."""
        ...

    def is_stopped(self) -> bool:
        """Tell whether it ends, and is not handed over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """How long is waited.

    Attributes:
        question: Seconds for an answer.
        task: Seconds that a task may take at its server.
    """

    question: float = 1800.0
    task: float = 3600.0


class Talks:
    """The questions of one user's turns, at their owner.

    Args:
        lease: The user and the epoch.
        desk: Where questions lie.
        trail: Takes the answers down: how, not what.
        hours: How long is waited.
    """

    def __init__(self, lease: Lease, desk: Desk, trail: Trail, hours: Hours) -> None:
        self.user = lease.user
        self.epoch = lease.epoch
        self.desk = desk
        self.hours = hours
        self._trail = trail
        self._kept: dict[str, set[str]] = defaultdict(set)
        self._bells: dict[str, anyio.Event] = defaultdict(anyio.Event)

    def ring(self, question_id: str) -> None:
        """Say that a question was answered."""
        if bell := self._bells.pop(question_id, None):
            bell.set()

    async def keep(self, turn: str, name: str, state: CallState) -> None:
        """Keep a call for another worker.

        Raises:
            Fenced: Another worker owns the user.
        """
        seconds = self.hours.task if state.wants == "task" else self.hours.question
        self._kept[turn].add(name)
        await self.desk.keep(self.user, name, state, seconds=seconds, epoch=self.epoch)

    async def forget(self, turn: str, name: str) -> None:
        """Forget a call that has its result."""
        self._kept[turn].discard(name)
        if not self._kept[turn]:
            del self._kept[turn]
        await self.desk.forget(self.user, name)

    async def over(self, turn: str, asked: Mapping[str, Question], *, resumed: bool) -> list[AskEnded]:
        """End what a turn still asks, forget what is kept of its calls, and return the events that tell it.

        Args:
            asked: What is known to be asked.
            resumed: Whether an earlier owner may have asked more.
        """
        found = await self.desk.unsettled(self.user, turn) if resumed else []
        questions = {each.id: each for each in (*found, *asked.values())}
        ended = [await self.end(each, "cancel") for each in questions.values()]
        for name in self._kept.pop(turn, set()):
            await self.desk.forget(self.user, name)
        return ended

    async def kept(self, turn: str, run: str, calls: Iterable[ToolCall]) -> dict[str, CallState]:
        """Return what is kept of calls that wait for somebody: those are not made again, but go on."""
        found: dict[str, CallState] = {}
        for call in calls:
            name = name_of(run, call.id)
            state = await self.desk.kept(self.user, name)
            if state:
                self._kept[turn].add(name)
            if state and not state.gone and state.arguments == digest(call.args):
                found[call.id] = state
        return found

    async def signed_in(self, alias: str) -> None:
        """Answer the questions that ask for a sign-in at a server: it is done."""
        for question in await self.desk.open(self.user):
            if question.kind == "sign_in" and question.server == alias:
                with suppress(AnsweredAlready, NotFound, QuestionEnded):  # the others still wait
                    await self.desk.answer(self.user, question.id, Answer(action="accept"))
                self.ring(question.id)

    async def answered(self, question: Question) -> Answer:
        """Return the answer to a question, when it is there; nobody waits longer than it says."""
        try:
            while True:
                bell = self._bells[question.id]  # before the look: it may ring meanwhile
                with suppress(StoreUnavailable):  # it is looked at again
                    if answer := await self._look(question):
                        return answer
                with anyio.move_on_after(min(LOOK_EVERY, max(question.until - time.time(), 0.05))):
                    await bell.wait()
        finally:
            self._bells.pop(question.id, None)

    async def _look(self, question: Question) -> Answer | None:
        lying = await self.desk.look(self.user, question.id)
        if lying is None or lying.end:
            return CANCELLED
        if lying.answer is None and question.until <= time.time():
            lying = await self.desk.close(self.user, question.id, "expired") or lying
            return lying.answer or CANCELLED
        return lying.answer

    async def end(self, question: Question, how: End) -> AskEnded:
        """End a question, take down how, and return the event that tells it."""
        await self.desk.close(self.user, question.id, how)
        lying = await self.desk.look(self.user, question.id)
        how = lying.end if lying and lying.end else how
        if question.kind == "approval":
            decided = decision_of(question, lying.answer if lying else None, how)
            await self._trail.note([of_decision(question, decided)])
            return AskEnded(
                question_id=question.id, action=how, decision=decided.decision, edited=decided.edited
            )
        deed = Deed(
            action="answer",
            decision="allowed" if how == "accept" else "refused",
            by="user" if question.kind != "sign_in" else "policy",
            id=name_of("answer", question.id),
            session_id=question.session_id,
            turn=question.turn,
            server=question.server,
            tool=question.tool,
            outcome=how,
        )
        await self._trail.note([deed])
        return AskEnded(question_id=question.id, action=how)


class Talk(Protocol):
    """What a turn gives to a call."""

    state: CallState | None
    hours: Hours
    progress: ProgressFnT

    @property
    def is_stopped(self) -> bool:
        """Whether the call is not wanted any more, by anybody."""
        ...

    async def ask(
        self, questions: Sequence[Question], state: CallState | None = None, *, own: bool = True
    ) -> dict[str, Answer]:
        """Ask, and return the answers by the questions' ids.

        Args:
            state: What is kept for another worker to go on with; without it the call ends with this one.
            own: Whether the questions are certainly about this call.

        Raises:
            Fenced: Another worker owns the user.
            StoreUnavailable: The questions could not be kept.
        """
        ...

    async def again(self, state: CallState) -> dict[str, Answer]:
        """Go on waiting for the answers that an earlier owner has asked for."""
        ...

    async def keep(self, state: CallState) -> None:
        """Keep what another worker would need to go on; when this returns it is kept.

        Raises:
            Fenced: Another worker owns the user.
        """
        ...

    async def settle(self, question_ids: Collection[str]) -> None:
        """End questions: their answers are used now."""
        ...

    async def accept(self, question_id: str) -> None:
        """Answer a question that only asks whether something is done: it is."""
        ...

    def waits(self, *, resumable: bool) -> AbstractAsyncContextManager[None]:
        """Wait for something that is neither this worker's nor the server's work."""
        ...

    @property
    def looked_at(self) -> Look:
        """Returns a server's answer as it may be told, or raises `BlockedByPlugin`."""
        ...


Look = Callable[[mcp.CallToolResult], Awaitable[mcp.CallToolResult]]
"""Looks at a server's answer before anybody is told of it; see `Talk.looked_at`."""


async def as_it_is(answer: mcp.CallToolResult) -> mcp.CallToolResult:
    """Return an answer that nobody looks at."""
    return answer


class CallTalk:
    """What one call says to its user, and asks.

    Args:
        talks: The user's.
        call: The call.
        around: Its turn.
        emit: Takes events.
        state: What an earlier owner has left of it.
        look: Looks at its result before anybody is told of it; with it, progress is told without words.
    """

    def __init__(
        self,
        talks: Talks,
        call: ToolCall,
        around: Around,
        emit: Emit,
        state: CallState | None = None,
        look: Look | None = None,
    ) -> None:
        self.state = state
        self.hours = talks.hours
        self.progress: ProgressFnT = Progress(call, emit, in_words=look is None)
        self.looked_at: Look = look or as_it_is
        self._talks = talks
        self._call = call
        self._around = around
        self._emit = emit
        self._name = name_of(around.run_id, call.id)
        self._open: dict[str, Question] = {}

    @property
    def is_stopped(self) -> bool:
        """See `Talk`."""
        return self._around.is_stopped()

    async def ask(
        self, questions: Sequence[Question], state: CallState | None = None, *, own: bool = True
    ) -> dict[str, Answer]:
        """See `Talk`."""
        placed = [self._placed(question, own=own) for question in questions]
        for question in placed:
            await self._talks.desk.put(self._talks.user, question, epoch=self._talks.epoch)
            self._open[question.id] = question
        if state:
            await self.keep(state)
        return await self._answers(placed, resumable=state is not None)

    async def again(self, state: CallState) -> dict[str, Answer]:
        """See `Talk`."""
        found: list[Question] = []
        for question_id in state.asked.values():
            lying = await self._talks.desk.look(self._talks.user, question_id)
            if lying and not lying.end:
                found.append(lying.question)
        self._open |= {question.id: question for question in found}
        answers = await self._answers(found, resumable=True)
        return {id_: answers.get(id_, CANCELLED) for id_ in state.asked.values()}

    async def keep(self, state: CallState) -> None:
        """See `Talk`."""
        if state.gone:
            await self._around.held()
        await self._talks.keep(self._around.turn_id, self._name, state)
        self.state = state

    async def accept(self, question_id: str) -> None:
        """See `Talk`."""
        with suppress(ChatError):  # whoever was faster
            await self._talks.desk.answer(self._talks.user, question_id, Answer(action="accept"))
        self._talks.ring(question_id)

    async def close(self) -> None:
        """End the questions that are still open, and forget what was kept: the call has its result."""
        for question in list(self._open.values()):
            await self._end(question, "cancel")
        if self.state:
            with suppress(StoreUnavailable):  # its time will come
                await self._talks.forget(self._around.turn_id, self._name)

    def waits(self, *, resumable: bool) -> AbstractAsyncContextManager[None]:
        """See `Talk`."""
        return self._around.away(resumable=resumable)

    async def settle(self, question_ids: Collection[str]) -> None:
        """See `Talk`."""
        for question in [self._open[id_] for id_ in question_ids if id_ in self._open]:
            await self._end(question, "cancel")

    async def _answers(self, questions: Sequence[Question], *, resumable: bool) -> dict[str, Answer]:
        answers: dict[str, Answer] = {}

        async def one(question: Question) -> None:
            answer = await self._talks.answered(question)
            answers[question.id] = replace(answer, content=completed(question, answer))

        for question in questions:
            self._emit(Asked(question=question))
        async with self._around.away(resumable=resumable), anyio.create_task_group() as waiting:
            for question in questions:
                waiting.start_soon(one, question)
        return answers

    async def _end(self, question: Question, how: End) -> None:
        self._open.pop(question.id, None)
        with suppress(StoreUnavailable):  # its time will come
            self._emit(await self._talks.end(question, how))

    def _placed(self, question: Question, *, own: bool) -> Question:
        return replace(
            question,
            session_id=self._around.session_id,
            turn=self._around.turn_id,
            call_id=self._call.id if own else "",
            tool=self._call.name if own else "",
            until=time.time() + self._talks.hours.question,
        )
