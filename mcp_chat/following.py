"""Follows a task at its server until there is a result, and brings it what it asks for."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import anyio
import mcp_types as mcp
from mcp import Client, MCPError
from pydantic import ValidationError

from mcp_chat import tasks
from mcp_chat.asking import Tally, failure, given, questions_of
from mcp_chat.config import ServerConfig
from mcp_chat.desk import CallState
from mcp_chat.exceptions import ChatError, Fenced, ServerUnavailable, SignInNeeded
from mcp_chat.oauth.bearer import sign_ins_told
from mcp_chat.questions import Answer
from mcp_chat.talk import Talk

SHORTEST_REST, USUAL_REST, LONGEST_REST = 0.25, 2.0, 60.0
"""Seconds between two looks."""

TRIES = 10
"""Looks that may fail, one after the other."""

STOP_SECONDS = 2.0
"""For the server to hear that the task is not wanted any more."""

LOST = "The server does not know the task of this call any more, and whether it took effect is not known."


class Following:
    """One task.

    Args:
        server: Where it runs.
        borrow: Gives the open client.
        talk: What the call has to do with its user.
        tally: Counts what the server asks.
        seconds: For one request.
    """

    def __init__(
        self,
        server: ServerConfig,
        borrow: Callable[[], Awaitable[Client]],
        talk: Talk,
        tally: Tally,
        *,
        seconds: float,
    ) -> None:
        self._server = server
        self._borrow = borrow
        self._talk = talk
        self._tally = tally
        self._seconds = seconds
        self._failed = 0

    async def result(self, state: CallState) -> mcp.CallToolResult:
        """Return what comes of it; while it runs, any worker could go on with it."""
        wanted = False
        try:
            async with self._talk.waits(resumable=True):
                found = await self._until_it_ends(state)
                wanted = found is not None
        except (anyio.get_cancelled_exc_class(), Fenced):
            wanted = not self._talk.is_stopped  # the next owner goes on
            raise
        finally:
            if not wanted:
                await self._give_up(state)
        return found or failure(
            f"The task took longer than {self._talk.hours.task:g} seconds and was given up."
        )

    async def _until_it_ends(self, state: CallState) -> mcp.CallToolResult | None:
        until = state.began + self._talk.hours.task
        while time.time() < until:
            found = await self._look(state.task)
            if found and (result := _ended(found)):
                return result
            if found and found.input_requests:
                state = await self._feed(state, found.input_requests)
            if found:
                await self._talk.progress(max(time.time() - state.began, 0), None, found.status_message)
            await anyio.sleep(min(self._rest(found), max(until - time.time(), 0)))
        return None

    async def _look(self, task_id: str) -> tasks.Progressed | None:
        """Return how far it is; None if the server could not be asked now."""
        try:
            with anyio.fail_after(self._seconds), sign_ins_told():
                found = await tasks.get(await self._borrow(), task_id)
        except (MCPError, TimeoutError, ServerUnavailable, SignInNeeded) as error:
            self._failed += 1
            definite = isinstance(error, MCPError) and error.error.code in (
                mcp.INVALID_PARAMS,
                mcp.METHOD_NOT_FOUND,
            )
            if definite or self._failed >= TRIES:
                return tasks.Progressed(task_id=task_id, status="failed", error={"message": LOST})
            return None
        self._failed = 0
        return found

    def _rest(self, found: tasks.Progressed | None) -> float:
        wanted = found.poll_interval_ms if found else None
        if wanted is None or not math.isfinite(wanted):
            return min(USUAL_REST * (1 << self._failed), LONGEST_REST)
        return min(max(wanted / 1000, SHORTEST_REST), LONGEST_REST)

    async def _feed(self, state: CallState, requests: Mapping[str, mcp.InputRequest]) -> CallState:
        """Bring the task what it asks for, each thing once."""
        answered = state.responses or {}
        new = {key: each for key, each in requests.items() if key not in answered}
        if not new:
            return state
        if state.asked:  # by an earlier owner
            answers = await self._talk.again(state)
        else:
            questions = questions_of(self._server, new, self._tally)
            state = replace(state, asked={key: question.id for key, question in questions.items()})
            answers = await self._talk.ask(list(questions.values()), state)
        await self._bring(state, answers)
        done = {key: {"action": answers[id_].action} for key, id_ in state.asked.items()}
        kept = replace(state, asked={}, responses={**answered, **done})
        await self._talk.keep(kept)
        await self._talk.settle(state.asked.values())
        return kept

    async def _bring(self, state: CallState, answers: Mapping[str, Answer]) -> None:
        responses = {key: _sent(answers[id_]) for key, id_ in state.asked.items()}
        with anyio.fail_after(self._seconds):
            await tasks.update(await self._borrow(), state.task, responses)

    async def _give_up(self, state: CallState) -> None:
        """Tell the server that the task is not wanted any more."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_SECONDS):
            try:
                await tasks.cancel(await self._borrow(), state.task)
            except (MCPError, ChatError, ValidationError):
                return  # it ends there in its own time


def _sent(answer: Answer) -> dict[str, object]:
    return {key: value for key, value in given(answer).items() if value is not None}


def _ended(found: tasks.Progressed) -> mcp.CallToolResult | None:
    match found.status:
        case "completed":
            return mcp.CallToolResult.model_validate(found.result or {"content": []})
        case "failed":
            said = found.error.get("message") if found.error else found.status_message
            return failure(str(said or "The task failed at its server."))
        case "cancelled":
            return failure("The task was cancelled at its server.")
    return None
