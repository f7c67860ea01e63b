"""Tool calls of one connection, each until its result: through questions, sign-ins and tasks.

A server of the newer generation ends a request with what it wants to know, and gets the answers with the next
one; everything needed for that is kept before anybody is asked, so that another worker can go on. A server of
the older one asks in the middle of a request, over the live connection.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import anyio
import mcp_types as mcp
import structlog
from mcp import Client, MCPError, UrlElicitationRequiredError
from mcp.client.session import ClientRequestContext, IncomingMessage
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from mcp_chat import tasks
from mcp_chat.asking import (
    Tally,
    TooManyQuestions,
    failure,
    given,
    place_of,
    question_of,
    questions_of,
    response,
)
from mcp_chat.breaker import Breaker, Resting
from mcp_chat.config import ServerConfig
from mcp_chat.deed import digest
from mcp_chat.desk import CallState
from mcp_chat.exceptions import (
    ChatError,
    Fenced,
    NotOffered,
    ServerUnavailable,
    SignInFailed,
    SignInNeeded,
    StoreUnavailable,
    TooLarge,
)
from mcp_chat.following import Following
from mcp_chat.limits import ServerLimits
from mcp_chat.oauth.bearer import sign_ins_told
from mcp_chat.patience import Patience
from mcp_chat.questions import Answer, Question, QuestionUnfit, address
from mcp_chat.refusals import UNREADABLE, told
from mcp_chat.results import ToolResult, read
from mcp_chat.talk import Talk
from mcp_chat.tools import Tool

log = structlog.get_logger()

ROUNDS = 10
"""Times that a server may want to know something more, or that it is asked again, in one call."""

LARGEST_STATE = 262_144
"""Characters of what a server wants back as it is."""

PAGES = 100
"""Of a list of tools."""

STOP_SECONDS = 2.0

NO_CALL = mcp.ErrorData(code=mcp.INVALID_REQUEST, message="No call is under way that this could be about.")

FULL = "The user has too many questions of servers open already, so this call was given up."
WITHDRAWN = "The tool is not offered any more, or is held back because the server has changed it."
MOVED = "The server of this call is somewhere else now, and whether the call took effect is not known."

Step = mcp.CallToolResult | mcp.InputRequiredResult | tasks.Begun
"""What one request may come to."""


class Calls:
    """The tool calls of one connection.

    Args:
        server: Whom they are made to.
        borrow: Gives the open client.
        doubt: Is told of a call that has failed: the connection may be broken.
        offers: Tells whether a tool may be called, as the server lists it now.
        timeout: Seconds without a sign of progress; those in which people are asked do not count.
        limit: Seconds altogether.
        limits: What the server may send.
        breaker: Leaves the server alone when it fails to answer again and again.
    """

    def __init__(
        self,
        server: ServerConfig,
        borrow: Callable[[], Awaitable[Client]],
        doubt: Callable[[], None],
        *,
        offers: Callable[[Tool], bool],
        timeout: float,
        limit: float,
        limits: ServerLimits,
        breaker: Breaker | None = None,
    ) -> None:
        self._server = server
        self._borrow = borrow
        self._doubt = doubt
        self._offers = offers
        self._timeout = timeout
        self._limit = limit
        self._limits = limits
        self._breaker = breaker or Breaker()
        self._running: list[Call] = []

    async def call(self, tool: Tool, args: Mapping[str, Any], talk: Talk) -> ToolResult:
        """Call a tool; what goes wrong at the server is a failed result, for the model to read.

        Raises:
            BlockedByPlugin: Nobody may be told what it has given.
            Fenced: Another worker owns the user.
            StoreUnavailable: What the call would need to go on could not be kept.
        """
        answer = await talk.looked_at(await self._answer(tool, args, talk))
        try:
            return await read(answer, limit=self._limits.result_bytes)
        except Exception as error:  # noqa: BLE001 - whatever a server sends
            log.warning("call.unreadable", alias=self._server.alias, error=type(error).__name__)
            self._doubt()
            return ToolResult(text=UNREADABLE, failed=True)

    async def _answer(self, tool: Tool, args: Mapping[str, Any], talk: Talk) -> mcp.CallToolResult:
        patience = Patience(self._timeout, self._limit)
        try:
            with self._breaker.attempt(_gives_no_answer), patience.limited():
                offered = partial(self._offers, tool)
                call = Call(
                    self._server, self._borrow, tool, args, talk, patience, self._timeout, offered=offered
                )
                async with self._under_way(call):
                    return await call.run()
        except (Fenced, StoreUnavailable):
            raise
        except (QuestionUnfit, TooManyQuestions, NotOffered) as error:
            return failure(str(error))
        except TooLarge:
            return failure(FULL)
        except Resting as resting:
            return failure(_left_alone(self._server.alias, resting.seconds))
        except Exception as error:  # noqa: BLE001 - whatever the SDK makes of an answer that is none
            text = self._said(error, patience)
        self._doubt()
        return failure(text)

    def _said(self, error: Exception, patience: Patience) -> str:
        match error:
            case ServerUnavailable() | SignInNeeded() | SignInFailed():
                return str(error)
            case TimeoutError():
                return patience.sentence
            case MCPError():
                return told(error)
        log.warning("call.unreadable", alias=self._server.alias, error=type(error).__name__)
        return UNREADABLE

    @asynccontextmanager
    async def _under_way(self, call: Call) -> AsyncIterator[None]:
        self._running.append(call)
        try:
            yield
        finally:
            self._running.remove(call)
            call.end()

    async def elicit(
        self, context: ClientRequestContext, params: mcp.ElicitRequestParams
    ) -> mcp.ElicitResult | mcp.ErrorData:
        """Answer what a server of the older generation asks in the middle of a call."""
        if not self._running:
            return NO_CALL
        call, alone = self._running[-1], len(self._running) == 1
        try:
            question = question_of(self._server, params)
            with ExitStack() as paused:
                for each in self._running:
                    paused.enter_context(each.patience.resting())
                answer = await call.answer(question, own=alone)
        except ChatError as error:
            return mcp.ErrorData(code=mcp.INVALID_PARAMS, message=str(error))
        return response(answer)

    async def hear(self, message: IncomingMessage) -> None:
        """Take note that what a user was to do at an address is done."""
        if isinstance(message, mcp.ElicitCompleteNotification):
            for call in self._running:
                await call.done(message.params.elicitation_id)


def _gives_no_answer(error: BaseException) -> bool | None:
    if isinstance(error, Fenced | StoreUnavailable | SignInNeeded):
        return None
    return isinstance(error, TimeoutError | ServerUnavailable)


def _left_alone(alias: str, seconds: float) -> str:
    return (
        f"The server {alias} has not answered several times in a row, so the call was not made. "
        f"Its tools can be called again in {math.ceil(seconds)} s; do without them until then."
    )


class Call:
    """One tool call until its result.

    Args:
        server: Whom it is made to.
        borrow: Gives the open client.
        tool: What is called.
        args: And with what.
        talk: What it has to do with its user.
        patience: Its time limit.
        timeout: Seconds for one look at a task.
        offered: Tells whether the tool may be called: that may change while its server is opened again.
    """

    def __init__(
        self,
        server: ServerConfig,
        borrow: Callable[[], Awaitable[Client]],
        tool: Tool,
        args: Mapping[str, Any],
        talk: Talk,
        patience: Patience,
        timeout: float,
        *,
        offered: Callable[[], bool],
    ) -> None:
        self.patience = patience
        self._server = server
        self._borrow = borrow
        self._tool = tool
        self._args = dict(args)
        self._talk = talk
        self._timeout = timeout
        self._offered = offered
        self._tally = Tally()
        self._asking: set[anyio.CancelScope] = set()
        self._awaited: dict[str, str] = {}

    async def run(self) -> mcp.CallToolResult:
        """Make it, or go on with what an earlier owner has left of it."""
        state = self._talk.state
        step: Step
        if state is None:
            state = CallState(
                tool=self._tool.name, arguments=digest(self._args), place=place_of(self._server)
            )
            state, step = await self._sent(state)
        elif (state.tool, state.place) != (self._tool.name, place_of(self._server)):
            return failure(MOVED)
        elif state.wants == "task":
            return await self._followed(state)
        else:
            with self.patience.resting():
                answers = await self._talk.again(state)
            state, step = await self._gone_on(state, answers)
        while not isinstance(step, mcp.CallToolResult):
            if isinstance(step, tasks.Begun):
                begun = CallState(tool=state.tool, arguments=state.arguments, place=state.place, wants="task")
                state = replace(begun, task=step.task_id, began=time.time())
                await self._talk.keep(state)
                return await self._followed(state)
            state, step = await self._round(state, step)
        return step

    async def _followed(self, state: CallState) -> mcp.CallToolResult:
        with self.patience.resting():
            following = Following(self._server, self._borrow, self._talk, self._tally, seconds=self._timeout)
            return await following.result(state)

    # One request

    async def _sent(self, state: CallState) -> tuple[CallState, Step]:
        """Make the request, again if the server first wants its user to do something elsewhere."""
        while True:
            try:
                return state, await self._leg(state)
            except (MCPError, SignInNeeded) as error:
                questions = self._elsewhere(error)
            state = self._next(state, wants="leave", questions=questions)
            with self.patience.resting():
                answers = await self._talk.ask(list(questions.values()), state)
            refused = await self._may_go_on(state, answers)
            if refused:
                return state, refused
            state = await self._going(state)

    def _elsewhere(self, error: MCPError | SignInNeeded) -> dict[str, Question]:
        """Return what the user is to do elsewhere before the request is made again; it was not carried out.

        Raises:
            MCPError: The error is another one.
        """
        own = self._server.url or ""
        if isinstance(error, SignInNeeded):
            text = "The server wants you to sign in."
            return {"": address(error.alias, text, error.url, own=own, kind="sign_in")}
        if error.error.code != mcp.URL_ELICITATION_REQUIRED:
            raise error
        try:
            wanted = UrlElicitationRequiredError.from_error(error.error).elicitations
        except (ValidationError, AttributeError, TypeError):
            raise error from None
        if not wanted:
            raise error
        self._tally.add(wanted)
        questions = {f"{n}": question_of(self._server, each) for n, each in enumerate(wanted)}
        pairs = zip(wanted, questions.values(), strict=True)
        self._awaited |= {each.elicitation_id: question.id for each, question in pairs if each.elicitation_id}
        return questions

    async def _leg(self, state: CallState) -> Step:
        client = await self._borrow()
        if not self._offered():
            raise NotOffered(WITHDRAWN)
        try:
            with sign_ins_told():
                return await self._request(client, state)
        except MCPError as mismatch:
            modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
            if mismatch.error.code != mcp.HEADER_MISMATCH or not modern:
                raise
            if not await listed_again(client, self._tool.remote_name):
                raise
        with sign_ins_told():
            return await self._request(client, state)

    async def _request(self, client: Client, state: CallState) -> Step:
        responses = {key: mcp.ElicitResult(**each) for key, each in (state.responses or {}).items()}
        with sign_ins_told():
            answer = await client.session.call_tool(
                self._tool.remote_name,
                self._args,
                progress_callback=self.patience.hearing(self._talk.progress),
                input_responses=dict(responses) if responses else None,
                request_state=state.request_state,
                allow_input_required=True,
                allow_claimed=True,
            )
        if not isinstance(answer, mcp.CallToolResult | mcp.InputRequiredResult | tasks.Begun):
            raise TypeError(type(answer))
        return answer

    # Questions

    async def _round(self, state: CallState, wanted: mcp.InputRequiredResult) -> tuple[CallState, Step]:
        """Ask what the server wants to know, and make the request again with the answers."""
        if len(wanted.request_state or "") > LARGEST_STATE:
            raise QuestionUnfit("The server wants more kept for it than is possible here.")
        questions = questions_of(self._server, wanted.input_requests or {}, self._tally)
        state = self._next(state, wants="input", questions=questions)
        state = replace(state, request_state=wanted.request_state, responses=None)
        if not questions:  # the server needs time, and no connection
            await anyio.sleep(min(0.1 * 2**state.round, 5.0))
            return await self._sent(state)
        with self.patience.resting():
            answers = await self._talk.ask(list(questions.values()), state)
        return await self._gone_on(state, answers)

    async def _gone_on(self, state: CallState, answers: Mapping[str, Answer]) -> tuple[CallState, Step]:
        """Make the request again: from here on nobody knows what came of it until there is a result."""
        if state.wants == "leave":
            if refused := await self._may_go_on(state, answers):
                return state, refused
        else:
            state = replace(state, responses={key: given(answers[id_]) for key, id_ in state.asked.items()})
        return await self._sent(await self._going(state))

    async def _may_go_on(self, state: CallState, answers: Mapping[str, Answer]) -> mcp.CallToolResult | None:
        """Return the call's result if the user does not want what it needs."""
        if all(answers[id_].action == "accept" for id_ in state.asked.values()):
            return None
        await self._talk.settle(state.asked.values())
        return failure("The user did not do what the server wants first, so the call was not made.")

    async def _going(self, state: CallState) -> CallState:
        await self._talk.keep(replace(state, gone=True))
        await self._talk.settle(state.asked.values())
        return state

    def _next(
        self, state: CallState, *, wants: Literal["input", "leave"], questions: Mapping[str, Question]
    ) -> CallState:
        if state.round >= ROUNDS:
            raise TooManyQuestions
        asked = {key: question.id for key, question in questions.items()}
        return replace(state, wants=wants, asked=asked, round=state.round + 1, gone=False)

    async def answer(self, question: Question, *, own: bool) -> Answer:
        """Ask in the middle of the call, which waits at its server meanwhile.

        Raises:
            TooManyQuestions: There were enough.
        """
        self._tally.add([question])
        answer = Answer(action="cancel")
        with anyio.CancelScope() as scope:
            self._asking.add(scope)
            try:
                answer = (await self._talk.ask([question], own=own))[question.id]
            finally:
                self._asking.discard(scope)
                with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_SECONDS):
                    await self._talk.settle([question.id])
        return answer

    def end(self) -> None:
        """End what is still asked: the call has its result, or is not wanted any more."""
        for scope in list(self._asking):
            scope.cancel()

    async def done(self, elicitation_id: str) -> None:
        """Take note that what the user was to do elsewhere is done."""
        if question_id := self._awaited.get(elicitation_id):
            await self._talk.accept(question_id)


async def listed_again(client: Client, name: str) -> bool:
    """List the tools until there is this one, whose schema may want headers; tell whether that went well."""
    cursor: str | None = None
    with suppress(MCPError, ValidationError):
        for _ in range(PAGES):
            page = await client.list_tools(cursor=cursor, cache_mode="refresh")
            cursor = page.next_cursor
            if cursor is None or any(tool.name == name for tool in page.tools):
                return True
    return False
