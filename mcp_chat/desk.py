"""Where questions lie until they are answered, and calls until they go on. All of it is sealed.

Any worker may put an answer there, also while nobody owns the user; the owner finds it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from mcp_chat.exceptions import AnsweredAlready, NotFound, QuestionEnded
from mcp_chat.papers import Papers
from mcp_chat.questions import Answer, End, Kind, Question
from mcp_chat.stores.documents import Document

QUESTION, CALL = "question", "call"
REMEMBERED = 600
"""Seconds for which a question is known that has ended, and a call is kept that nobody waits for."""

APPROVED = 86_400
"""Seconds more for which is known what was decided about a call: it may be a long task."""

MISSING = "This question does not exist."

ASKED: tuple[Kind, ...] = ("form", "url", "sign_in")
"""The kinds of questions that servers ask."""
APPROVALS: tuple[Kind, ...] = ("approval",)
"""Ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lying:
    """A question as it lies there.

    Attributes:
        answer: What was answered, until it is used; what was decided about a call stays.
        end: How it has ended, as soon as its answer is used or not wanted any more.
        mark: A hash of the answer that was used: the same one may come again.
    """

    question: Question
    answer: Answer | None = None
    end: End | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallState:
    """What must be known of a call so that another worker can go on with it.

    Attributes:
        arguments: A hash of them.
        place: A hash of where its server is: what the server has given goes nowhere else.
        wants: What it waits for: what the server wants to know, the user's leave to go on, or a task.
        asked: The ids of the questions that it waits for, by the server's names for them.
        responses: What was answered before, in the server's form.
        request_state: What the server wants back as it is.
        task: The server's name for it, if it runs there as a task.
        round: How often the server has been asked.
        began: When the task did, in seconds since 1970.
        gone: Whether the call has been made again since: what came of it is then not known.
    """

    tool: str
    arguments: str
    place: str
    wants: Literal["input", "leave", "task"] = "input"
    asked: Mapping[str, str] = field(default_factory=dict)
    responses: Mapping[str, Any] | None = field(default=None, repr=False)
    request_state: str | None = field(default=None, repr=False)
    task: str = ""
    round: int = 0
    began: float = 0.0
    gone: bool = False


_LYING: TypeAdapter[Lying] = TypeAdapter(Lying)
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
_STATE: TypeAdapter[CallState] = TypeAdapter(CallState)


def name_of(run: str, call_id: str) -> str:
    """Return the name under which a call is kept: the same for whoever runs its turn."""
    return hashlib.sha256(f"{run} {call_id}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Desk:
    """Keeps the questions and calls of all users."""

    papers: Papers

    # Questions

    async def put(self, user: str, question: Question, *, epoch: int | None) -> None:
        """Lay a question there.

        Raises:
            Fenced: Another worker owns the user.
            TooLarge: There are too many already.
        """
        seconds = _life(question)
        text = _LYING.dump_json(Lying(question=question)).decode()
        await self.papers.put(user, QUESTION, question.id, text, seconds=seconds, epoch=epoch)

    async def open(self, user: str, kinds: Collection[Kind] = ASKED) -> list[Question]:
        """Return the questions of some kinds that can be answered."""
        found = [_read(each) for each in await self.papers.all(user, QUESTION)]
        return [
            each.question
            for each in found
            if each
            and not (each.answer or each.end)
            and each.question.until > time.time()
            and each.question.kind in kinds
        ]

    async def unsettled(self, user: str, turn: str) -> list[Question]:
        """Return a turn's questions that have not ended, answered or not."""
        found = [_read(each) for each in await self.papers.all(user, QUESTION)]
        return [each.question for each in found if each and not each.end and each.question.turn == turn]

    async def look(self, user: str, question_id: str) -> Lying | None:
        """Return a question, None if it was never asked or was forgotten."""
        found = await self.papers.get(user, QUESTION, question_id)
        return _read(found) if found else None

    async def answer(self, user: str, question_id: str, answer: Answer) -> bool:
        """Answer a question, once; tell whether this has: the same answer again changes nothing.

        Raises:
            NotFound: There is none.
            QuestionEnded: Nobody waits for the answer any more.
            AnsweredAlready: It was answered otherwise.
        """
        while True:
            found = await self.papers.get(user, QUESTION, question_id)
            lying = _read(found) if found else None
            if found is None or lying is None:
                raise NotFound(MISSING)
            if _mark(answer) in (lying.mark, lying.answer and _mark(lying.answer)):
                return False
            if lying.answer or lying.mark:
                raise AnsweredAlready
            if lying.end or lying.question.until <= time.time():
                raise QuestionEnded
            if await self._write(user, found, replace(lying, answer=answer)):
                return True

    async def close(self, user: str, question_id: str, end: End) -> Lying | None:
        """End a question and forget its content; return what lay there.

        One that was answered ends as it was answered.
        """
        while True:
            found = await self.papers.get(user, QUESTION, question_id)
            lying = _read(found) if found else None
            if found is None or lying is None or lying.end:
                return lying
            answer = lying.answer
            how, mark = (answer.action, _mark(answer)) if answer else (end, "")
            ended = Lying(question=lying.question, end=how, mark=mark)
            if ended.question.kind == "approval":
                ended = replace(ended, question=replace(ended.question, schema={}), answer=answer)
            if await self._write(user, found, ended):
                return lying

    async def _write(self, user: str, found: Document, lying: Lying) -> bool:
        seconds = _life(lying.question)
        text = _LYING.dump_json(lying).decode()
        put = self.papers.put(user, QUESTION, found.name, text, seconds=seconds, version=found.version)
        return await put is not None

    # Calls

    async def keep(self, user: str, name: str, state: CallState, *, seconds: float, epoch: int) -> None:
        """Keep a call for whoever comes later.

        Raises:
            Fenced: Another worker owns the user.
            TooLarge: There are too many already.
        """
        text = _STATE.dump_json(state).decode()
        await self.papers.put(user, CALL, name, text, seconds=seconds + REMEMBERED, epoch=epoch)

    async def kept(self, user: str, name: str) -> CallState | None:
        """Return what was kept of a call."""
        found = await self.papers.get(user, CALL, name)
        try:
            return _STATE.validate_json(found.text) if found else None
        except ValidationError:  # of another version
            return None

    async def forget(self, user: str, name: str) -> None:
        """Forget a call that has its result."""
        await self.papers.drop(user, CALL, name)


def _life(question: Question) -> float:
    """Return for how long a question is known; the leave for a call for as long as the call may take."""
    more = APPROVED if question.kind == "approval" else 0.0
    return max(question.until - time.time(), 0) + REMEMBERED + more


def _mark(answer: Answer) -> str:
    text = orjson.dumps(_ANSWER.dump_python(answer, mode="json"), option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()


def _read(found: Document) -> Lying | None:
    try:
        return _LYING.validate_json(found.text)
    except ValidationError:  # of another version
        return None
