"""What servers ask their users, and where it is answered: at any worker, whoever owns the user."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat import commands
from mcp_chat.api.bodies import AnswerBody, InvalidBody, read_body
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.api.transcript import told
from mcp_chat.desk import MISSING, Desk
from mcp_chat.exceptions import ChatError, NotFound
from mcp_chat.message import wellformed
from mcp_chat.questions import Answer, Question, faults

if TYPE_CHECKING:
    from mcp_chat.dispatch import Dispatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The endpoints of questions.

    Attributes:
        desk: Where they lie.
        dispatch: Tells the owner of an answer.
        max_body: Bytes of a body.
    """

    identity: Identity
    desk: Desk
    dispatch: Dispatch
    max_body: int

    async def list(self, request: Request) -> Response:
        """List the questions that can be answered, of one conversation or of all."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        session_id = request.query_params.get("session_id")
        found = [
            told(question)
            for question in await self.desk.open(user.key)
            if session_id in (None, question.session_id)
        ]
        return JSONResponse({"questions": found, "count": len(found)})

    async def answer(self, request: Request) -> Response:
        """Take an answer; when this returns it is kept, whatever happens to workers."""
        await require_user(request, self.identity)
        body = await read_body(request, AnswerBody, limit=self.max_body)
        user = await require_user(request, self.identity, body.user_id)
        question_id = wellformed(request.path_params["question_id"])
        lying = await self.desk.look(user.key, question_id)
        if lying is None or lying.question.kind == "approval":
            raise NotFound(MISSING)
        answer = Answer(action=body.action, content=body.content)
        check(lying.question, answer)
        await self.desk.answer(user.key, question_id, answer)
        with suppress(ChatError):  # it is kept: the owner finds it without being told
            await self.dispatch.submit(user.key, commands.Answer(question_id=question_id))
        return JSONResponse({"status": "answered", "question_id": question_id, "action": body.action})


def check(question: Question, answer: Answer) -> None:
    """Refuse an answer that is none to its question.

    Raises:
        InvalidBody: A sentence for each field.
    """
    problems = [
        {"loc": ["body", "content", *([name] if name else [])], "msg": text, "type": "answer"}
        for name, text in faults(question, answer).items()
    ]
    if problems:
        raise InvalidBody(problems)
