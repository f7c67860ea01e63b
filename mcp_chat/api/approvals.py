"""Calls that wait for their user's leave, and what was allowed for longer: at any worker."""

from __future__ import annotations

import builtins
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat import commands
from mcp_chat.api.bodies import ApprovalBody, InvalidBody, read_body
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.api.transcript import moment, told_call
from mcp_chat.arguments import fault_of
from mcp_chat.deed import Deed, digest
from mcp_chat.desk import APPROVALS, Desk
from mcp_chat.exceptions import AnsweredAlready, ChatError, NotFound, QuestionEnded, TooLarge
from mcp_chat.grants import Grant, Grants, grant_of
from mcp_chat.message import wellformed
from mcp_chat.questions import Answer, Question
from mcp_chat.stores.base import Archive
from mcp_chat.trail import Trail

if TYPE_CHECKING:
    from mcp_chat.dispatch import Dispatch

MISSING = "No call waits under this id."


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """The endpoints of approvals.

    Attributes:
        desk: Where the calls' questions lie.
        grants_kept: What was allowed for longer than one call.
        dispatch: Tells the owner of an answer.
        archive: Where the audit trail is kept, if anywhere.
        worker: Who takes down what is done here.
        max_body: Bytes of a body.
    """

    identity: Identity
    desk: Desk
    grants_kept: Grants
    dispatch: Dispatch
    archive: Archive | None
    worker: str
    max_body: int

    async def list(self, request: Request) -> Response:
        """List the calls that wait for their user, of one conversation or of all."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        session_id = request.query_params.get("session_id")
        found = [
            told_call(question)
            for question in await self.desk.open(user.key, APPROVALS)
            if session_id in (None, question.session_id) or not question.session_id
        ]
        return JSONResponse({"approvals": found, "count": len(found)})

    async def look(self, request: Request) -> Response:
        """Return a call that waits for its user, with the schema of its arguments."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        lying = await self.desk.look(user.key, wellformed(request.path_params["approval_id"]))
        if lying is None or lying.question.kind != "approval" or lying.answer or lying.end:
            raise NotFound(MISSING)
        return JSONResponse({**told_call(lying.question), "schema": dict(lying.question.schema)})

    async def answer(self, request: Request) -> Response:
        """Take a decision; when this returns it is kept, whatever happens to workers."""
        await require_user(request, self.identity)
        body = await read_body(request, ApprovalBody, limit=self.max_body)
        user = await require_user(request, self.identity, body.user_id)
        approval_id = wellformed(request.path_params["approval_id"])
        lying = await self.desk.look(user.key, approval_id)
        if lying is None or lying.question.kind != "approval":
            raise NotFound(MISSING)
        question = lying.question
        answer = await answer_of(question, body)
        grant = _grant(question, body.decision)
        try:
            first = await self.desk.answer(user.key, approval_id, answer)
        except (AnsweredAlready, QuestionEnded) as error:
            raise type(error)(str(error).replace("question", "call")) from None
        kept = grant is not None and first and await self._keep(user.key, grant)
        await self._tell(user.key, approval_id)
        if kept and grant:
            await self._release(user.key, grant, body.decision)
        said = {"status": "answered", "approval_id": approval_id, "decision": body.decision}
        return JSONResponse({**said, "edited": "arguments" in (answer.content or {})})

    async def grants(self, request: Request) -> Response:
        """List what the user has allowed for longer than one call."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        found = [told_grant(grant) for grant in await self.grants_kept.all(user.key)]
        return JSONResponse({"grants": found, "count": len(found)})

    async def revoke(self, request: Request) -> Response:
        """Take back one of these; the next call is asked about again."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        grant_id = wellformed(request.path_params["grant_id"])
        found = [grant for grant in await self.grants_kept.all(user.key) if grant.id == grant_id]
        if not found or not await self.grants_kept.drop(user.key, grant_id):
            raise NotFound("You have allowed nothing under this id.")
        await self._note(user.key, found)
        return JSONResponse({"status": "revoked", "grant_id": grant_id})

    async def revoke_all(self, request: Request) -> Response:
        """Take back all of these."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        found = await self.grants_kept.all(user.key)
        gone = [grant for grant in found if await self.grants_kept.drop(user.key, grant.id)]
        await self._note(user.key, gone)
        return JSONResponse({"status": "revoked", "count": len(gone)})

    async def _keep(self, user: str, grant: Grant) -> bool:
        """Keep a grant; with too many of them this one call is allowed all the same."""
        with suppress(TooLarge):
            await self.grants_kept.put(user, grant)
            return True
        return False

    async def _release(self, user: str, grant: Grant, decision: str) -> None:
        """Decide about the other calls that wait for the same leave."""
        for other in await self.desk.open(user, APPROVALS):
            if grant.covers(other):
                answer = Answer(action="accept", content={"decision": decision})
                with suppress(AnsweredAlready, NotFound, QuestionEnded):  # whoever was faster
                    await self.desk.answer(user, other.id, answer)
                await self._tell(user, other.id)

    async def _tell(self, user: str, approval_id: str) -> None:
        with suppress(ChatError):  # it is kept: the owner finds it without being told
            await self.dispatch.submit(user, commands.Answer(question_id=approval_id))

    async def _note(self, user: str, gone: builtins.list[Grant]) -> None:
        trail = Trail(user=user, worker=self.worker, archive=self.archive)
        await trail.note(
            [
                Deed(
                    action="approve",
                    decision="refused",
                    by="user",
                    session_id=grant.session_id,
                    server=grant.server,
                    tool=grant.tool,
                    outcome="revoked",
                )
                for grant in gone
            ]
        )


async def answer_of(question: Question, body: ApprovalBody) -> Answer:
    """Return a decision as it is kept.

    Raises:
        InvalidBody: It is none that can be made about this call, or its arguments do not fit the tool.
    """
    denied = body.decision == "deny"
    if body.decision not in question.choices:
        _refuse(["decision"], f"this call can be decided by: {', '.join(question.choices)}")
    if denied and body.arguments is not None:
        _refuse(["arguments"], "arguments belong to a call that is allowed")
    if body.reason is not None and not denied:
        _refuse(["reason"], "a reason belongs to a call that is denied")
    content: dict[str, Any] = {"decision": body.decision}
    if body.reason:
        content["reason"] = body.reason
    if body.arguments is not None and digest(body.arguments) != digest(question.arguments):
        if fault := await fault_of(question.schema, body.arguments):
            _refuse(["arguments", *fault.place], fault.text)
        content["arguments"] = body.arguments
    return Answer(action="decline" if denied else "accept", content=content)


def _refuse(place: list[str | int], text: str) -> NoReturn:
    raise InvalidBody([{"loc": ["body", *place], "msg": text, "type": "approval"}])


def _grant(question: Question, decision: str) -> Grant | None:
    match decision:
        case "session":
            return grant_of(question, question.session_id)
        case "always":
            return grant_of(question)
    return None


def told_grant(grant: Grant) -> dict[str, Any]:
    """Return a grant as its user is told of it."""
    return {
        "id": grant.id,
        "kind": grant.kind,
        "server": grant.server,
        "tool": grant.tool,
        "name": grant.name,
        "session_id": grant.session_id or None,
        "made": moment(grant.made),
        "until": moment(grant.until),
    }
