"""Whether a call may be made: the rules say so, the user's earlier leave does, or they are asked.

A question of ours has the id of its call, so that whoever goes on with the turn finds it. The leave is taken
before the call is made, by one worker alone: a call whose leave is not taken was certainly not made.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import orjson

from mcp_chat.agent import Emit
from mcp_chat.connections import Connection
from mcp_chat.definitions import identity_of
from mcp_chat.desk import Lying, name_of
from mcp_chat.events import Asked
from mcp_chat.exceptions import TooLarge
from mcp_chat.grants import Grants
from mcp_chat.message import ToolCall
from mcp_chat.outcomes import UNKNOWN
from mcp_chat.questions import Answer, Choice, Question
from mcp_chat.results import ToolResult
from mcp_chat.talk import Talk, Talks
from mcp_chat.toolbox import CHANGED, Refusal, Toolbox
from mcp_chat.tools import Tool
from mcp_chat.verdicts import Verdict

By = Literal["policy", "user", "grant"]

APPROVAL = "approval"
"""In the metadata of a result's message: what its user has decided about the call."""

NO_LEAVE, DENIED_BY, TOO_LATE = "not_allowed", "denied", "expired"
"""Reasons not to make a call: nobody has allowed it, its user has denied it, or not answered in time."""

APP_SECONDS = 300.0
"""For which the user of an app is asked at most: it waits over HTTP."""

LONGEST = 4_000
"""Characters of changed arguments that the model is told."""

DENIED = "The user denied this call."
EXPIRED = "The user did not answer in time whether this call may be made, so it was not made."
ENDED = "The user was not asked to the end whether this call may be made, so it was not made."
FULL = "The user has too many questions open already, so this call was not made."
SINCE = "The server has changed the tool {!r} since the user was asked, so the call was not made."


class Box(Protocol):
    """The tools that a caller may call; see `mcp_chat.toolbox.Toolbox`."""

    connections: Mapping[str, Connection]

    def tool(self, name: str) -> Tool | None:
        """Return the tool of this name."""
        ...

    def verdict(self, tool: Tool) -> Verdict:
        """Return what may be done with a tool before its user is asked."""
        ...

    async def refusal(self, name: str, args: Mapping[str, Any]) -> Refusal | None:
        """Return why such a call is not made, or None if it is."""
        ...


class Asker(Protocol):
    """Whoever has a call to make, as the question about it needs to know."""

    @property
    def session_id(self) -> str:
        """The conversation; empty if it is in none."""
        ...

    @property
    def turn_id(self) -> str:
        """The turn; empty if it is in none."""
        ...

    @property
    def run_id(self) -> str:
        """What names its calls, together with their ids."""
        ...

    def away(self, *, resumable: bool) -> AbstractAsyncContextManager[None]:
        """Wait for a person; see `mcp_chat.talk.Around`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Whether a call may be made, and with what.

    Attributes:
        args: What it is made with.
        refusal: Why it is not made.
        by: Who has said so.
        choice: What the user has chosen for this call.
        edited: Whether they have changed the arguments.
        definition: The hash of the only definition of the tool that it holds for; empty if for any.
        place: The only server that it holds for, likewise: another one may get its alias meanwhile.
        question: What they were asked, as long as the answer is not used.
    """

    args: Mapping[str, Any]
    refusal: Refusal | None = None
    by: By = "policy"
    choice: Choice | None = None
    edited: bool = False
    definition: str = ""
    place: str = ""
    question: Question | None = field(default=None, repr=False)

    @property
    def refused(self) -> str:
        """Why the call is not made, in a word; nothing if it is."""
        return self.refusal.reason if self.refusal else ""

    def call(self, call: ToolCall) -> ToolCall:
        """Return the call as it is made."""
        return replace(call, args=self.args) if self.edited else call

    def metadata(self) -> dict[str, Any]:
        """Return what the history keeps of it."""
        if self.choice is None:
            return {}
        changed = {"arguments": dict(self.args)} if self.edited else {}
        return {APPROVAL: {"decision": self.choice, "edited": self.edited, **changed}}

    async def make(self, call: ToolCall, toolbox: Toolbox, talk: Talk) -> ToolResult:
        """Make the call, or return why it is not made."""
        if self.refusal:
            return ToolResult(text=self.refusal.text, failed=True)
        definition, place = self.definition, self.place
        result = await toolbox.call(call.name, call.args, talk, definition=definition, place=place)
        return self.told(result)

    def told(self, result: ToolResult) -> ToolResult:
        """Return the result as the model is told of it: it does not know of changed arguments."""
        if not self.edited:
            return result
        ran = orjson.dumps(self.args).decode()
        ran = ran if len(ran) <= LONGEST else f"{ran[:LONGEST]}…"
        note = f"[The user changed the arguments of this call before allowing it. It was made with: {ran}]"
        return replace(result, text=f"{note}\n{result.text}")


FREE = Leave(args={})
"""That of a call which needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """What the desk has of calls that an earlier owner has left without results.

    Attributes:
        waiting: Ids of those that wait for their user, or were refused by them: they were not made.
        calls: Those that were allowed, by their ids, with the arguments that were.
    """

    waiting: frozenset[str] = frozenset()
    calls: Mapping[str, ToolCall] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """Gives leave to one user's calls, at their owner.

    Attributes:
        talks: The user's questions.
        grants: What they have allowed for longer than one call.
        on: Whether they are asked at all.
    """

    talks: Talks
    grants: Grants
    on: bool

    async def recalled(self, run: str, calls: Iterable[ToolCall]) -> Recalled:
        """Return what is known of calls without results."""
        waiting, made = set[str](), dict[str, ToolCall]()
        for call in calls:
            lying = await self._lying(run, call)
            if lying and lying.end == "accept":
                made[call.id] = _leave(call, lying.question, lying.answer).call(call)
            elif lying:
                waiting.add(call.id)
        return Recalled(waiting=frozenset(waiting), calls=made)

    async def of(
        self, call: ToolCall, toolbox: Box, asker: Asker, emit: Emit, *, resumed: bool, under_way: bool
    ) -> Leave:
        """Return the leave for a call, when there is one; nobody is asked about a call that cannot be made.

        Args:
            call: With the arguments that the model has chosen.
            emit: Takes events.
            resumed: Whether an earlier owner may have asked already.
            under_way: Whether an earlier owner has begun with the call, and it goes on.

        Raises:
            Fenced: Another worker owns the user.
            StoreUnavailable: The question could not be kept.
        """
        lying = await self._lying(asker.run_id, call) if resumed else None
        refusal = await toolbox.refusal(call.name, call.args)
        tool = toolbox.tool(call.name)
        if refusal or tool is None:
            if lying and not lying.end:
                emit(await self.talks.end(lying.question, "cancel"))
            return Leave(args=call.args, refusal=refusal)
        if lying is None:
            return await self._new(call, tool, toolbox, asker, emit, under_way=under_way)
        if lying.end == "accept":  # a leave is used once, but for what may be done twice
            leave = replace(_leave(call, lying.question, lying.answer), definition="", question=None)
            return leave if under_way or tool.safe else replace(leave, refusal=_lost())
        if lying.end:  # the answer was used, and only its call's result is missing: nobody is asked anew
            emit(await self.talks.end(lying.question, lying.end))
            return _ended(call, lying)
        return await self._waited(call, lying.question, toolbox, asker, emit)

    async def use(self, leave: Leave, emit: Emit) -> Leave:
        """Take a leave that the user has given: from here on the call counts as made.

        Of several who take it, which are workers that do not know of each other, one gets it.
        """
        if leave.question is None:
            return leave
        lying = await self.talks.desk.close(self.talks.user, leave.question.id, "accept")
        if lying is None or lying.end:
            return replace(leave, refusal=_lost(), question=None)
        emit(await self.talks.end(leave.question, "accept"))
        return replace(leave, question=None)

    async def _new(
        self, call: ToolCall, tool: Tool, toolbox: Box, asker: Asker, emit: Emit, *, under_way: bool
    ) -> Leave:
        if under_way:
            return Leave(args=call.args)
        place = identity_of(toolbox.connections[tool.alias].server)
        if not self.on or toolbox.verdict(tool) == "allow":
            return Leave(args=call.args, place=place)
        question = self._question(call, tool, toolbox, asker)
        if await self.grants.find(self.talks.user, question):
            return Leave(args=call.args, by="grant", definition=tool.digest, place=place)
        try:
            await self.talks.desk.put(self.talks.user, question, epoch=self.talks.epoch)
        except TooLarge:
            return Leave(args=call.args, refusal=Refusal(reason=NO_LEAVE, text=FULL))
        return await self._waited(call, question, toolbox, asker, emit)

    async def _waited(
        self, call: ToolCall, question: Question, toolbox: Box, asker: Asker, emit: Emit
    ) -> Leave:
        """Wait for the user's answer, and see whether the call can still be made then."""
        emit(Asked(question=replace(question, schema={})))  # which is for whoever takes the answer
        async with asker.away(resumable=False):  # no drain waits for it: it is not counted as a call yet
            answer = await self.talks.answered(question)
        leave = _leave(call, question, answer)
        if leave.refusal is None:
            leave = replace(leave, refusal=await self._since(leave, question, toolbox))
            if leave.refusal is None:
                return leave
        ended = await self.talks.end(question, "cancel")
        emit(ended)
        if ended.action == "accept" and not answer.content:
            return replace(leave, refusal=_lost(), question=None)
        if ended.action == "expired":
            leave = replace(leave, refusal=Refusal(reason=TOO_LATE, text=EXPIRED), by="policy")
        return replace(leave, question=None)

    async def _since(self, leave: Leave, question: Question, toolbox: Box) -> Refusal | None:
        """Return what has happened since the user was asked that speaks against the call."""
        if refusal := await toolbox.refusal(question.tool, leave.args):
            return refusal
        tool = toolbox.tool(question.tool)
        now = tool and (identity_of(toolbox.connections[tool.alias].server), tool.digest)
        if now != (question.place, question.definition):
            return Refusal(reason=CHANGED, text=SINCE.format(question.tool))
        return None

    def _question(self, call: ToolCall, tool: Tool, toolbox: Box, asker: Asker) -> Question:
        server, hours = toolbox.connections[tool.alias].server, self.talks.hours.question
        session: tuple[Choice, ...] = ("session",) if asker.session_id else ()
        always: tuple[Choice, ...] = ("always",) if server.always else ()
        return Question(
            id=name_of(asker.run_id, call.id),
            kind="approval",
            server=tool.alias,
            message="",
            schema=tool.schema,
            session_id=asker.session_id,
            turn=asker.turn_id,
            call_id=call.id,
            tool=tool.name,
            name=tool.remote_name,
            place=identity_of(server),
            definition=tool.digest,
            arguments=call.args,
            choices=("once", *session, *always, "deny"),
            until=time.time() + (hours if asker.turn_id else min(hours, APP_SECONDS)),
        )

    async def _lying(self, run: str, call: ToolCall) -> Lying | None:
        lying = await self.talks.desk.look(self.talks.user, name_of(run, call.id))
        return lying if lying and lying.question.kind == "approval" else None


def _leave(call: ToolCall, question: Question, answer: Answer | None) -> Leave:
    """Return the leave that an answer gives."""
    if answer is None or not answer.content:
        refusal = Refusal(reason=NO_LEAVE, text=ENDED)
        return Leave(args=call.args, refusal=refusal, question=question)
    content = answer.content
    args, choice = content.get("arguments"), content["decision"]
    leave = Leave(
        args=call.args if args is None else args,
        by="user",
        choice=choice,
        edited=args is not None,
        definition=question.definition,
        place=question.place,
        question=question,
    )
    if answer.action == "accept":
        return leave
    reason = f" They said: {content['reason']}" if content.get("reason") else ""
    return replace(leave, refusal=Refusal(reason=DENIED_BY, text=f"{DENIED}{reason}"))


def _ended(call: ToolCall, lying: Lying) -> Leave:
    """Return what came of a question that has ended without a leave."""
    leave = replace(_leave(call, lying.question, lying.answer), question=None)
    if lying.end == "expired":
        return replace(leave, refusal=Refusal(reason=TOO_LATE, text=EXPIRED), by="policy")
    return leave


def _lost() -> Refusal:
    return Refusal(reason=NO_LEAVE, text=UNKNOWN.text)
