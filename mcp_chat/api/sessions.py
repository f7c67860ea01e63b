"""A user's conversations: listed, searched, changed, carried away and brought along."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import (
    NewSessionBody,
    OwnBody,
    SessionBody,
    UnsupportedBody,
    media_type,
    patience_for,
    read_body,
    read_bytes,
    sized_context,
)
from mcp_chat.api.bulk import Bulk, BulkResponse
from mcp_chat.api.errors import of_failed
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.api.pages import (
    BEGINNING,
    count_of,
    cursor,
    directions,
    page_of,
    place_in,
    place_of,
    recency_in,
    recency_of,
)
from mcp_chat.api.uploads import archive_of, clean_name, disposition
from mcp_chat.commands import DeleteSession
from mcp_chat.configs import UserConfigs
from mcp_chat.context import Budget, may_be_cut, shorter, shown
from mcp_chat.events import Failed, SessionDeleted
from mcp_chat.exceptions import InvalidRequest, NotFound, TooLarge, TooManySessions
from mcp_chat.identity import Principal
from mcp_chat.message import ID, MESSAGE, Message, Part, Usage, new_id, now, title
from mcp_chat.record import Record
from mcp_chat.session import Session
from mcp_chat.stores.base import Addition, Archive, Found, Kept, Recency
from mcp_chat.stores.words import words
from mcp_chat.transfer import filename, markdown

if TYPE_CHECKING:
    from mcp_chat.dispatch import Dispatch  # the command line imports this module, and needs no agent

MAX_IMPORTED = 100_000
"""Messages of an import: more would keep a worker busy for a minute."""
LONGEST_QUERY = 2000
LONGEST_FOUND = 4000
"""Characters of a message that a search has found: its page has the rest."""
LARGEST = 2**53
"""The largest number that a column and every reader of JSON takes."""
MISSING = "This conversation does not exist."

Own = TypeVar("Own", bound=OwnBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The endpoints of conversations.

    Attributes:
        budget: What of a conversation the model is shown.
        max_body: Bytes of a body.
        max_import: Bytes of a conversation that is brought along.
        max_sessions: Conversations of a user.
        bulk: Lets few conversations of one user come and go at a time.
    """

    identity: Identity
    dispatch: Dispatch
    archive: Archive | None
    record: Record
    configs: UserConfigs
    budget: Budget
    max_body: int
    max_import: int
    max_sessions: int
    bulk: Bulk

    async def list(self, request: Request) -> Response:
        """List conversations, the one used last first."""
        user, archive = await self._user(request)
        limit = count_of(request, default=50, most=200)
        before, after = directions(request, recency_in)

        async def fetch(limit: int, before: Recency | None, after: Recency | None) -> Sequence[Session]:
            return (await archive.sessions(user.key, limit=limit, before=before, after=after))[::-1]

        page = await page_of(fetch, recency_of, limit=limit, before=before, after=after)
        connected = await self._connected(user)
        listed = [_shown(session, connected) for session in page.items[::-1]]
        return JSONResponse({"sessions": listed, **page.cursors(), "count": len(listed)})

    async def new(self, request: Request) -> Response:
        """Begin a conversation, in which nothing was said yet."""
        user, body, archive = await self._read(request, NewSessionBody)
        config = await self.configs.get(user.key)
        session = Session.new(config.backend if config else "", name=body.name)
        session = replace(session, context=body.context)
        await archive.import_session(user.key, session, most=self.max_sessions)
        return JSONResponse(_shown(session, None), 201)

    async def bring(self, request: Request) -> Response:
        """Make a new conversation of an exported one."""
        user, archive = await self._user(request)
        if media_type(request) != "application/json":
            raise UnsupportedBody
        with self.bulk.place(user.key):
            text = await read_bytes(request, limit=self.max_import, seconds=patience_for(self.max_import))
            session = await anyio.to_thread.run_sync(_brought, text)
            await archive.import_session(user.key, session, most=self.max_sessions)
        return JSONResponse({**_shown(session, None), "message_count": len(session.messages)}, 201)

    async def get(self, request: Request) -> Response:
        """Show a conversation without its messages."""
        user, archive = await self._user(request)
        session = await self._session(archive, user, request)
        return JSONResponse(_shown(session, await self._connected(user)))

    async def change(self, request: Request) -> Response:
        """Set the name, keys of the context, or the pinned messages."""
        user, body, archive = await self._read(request, SessionBody)
        session = await self._session(archive, user, request)
        changes = dict(body.context or {})
        if body.pinned is not None:
            changes["pinned"] = await _pins(archive, user, session, body.pinned)
        if any(value is not None for value in changes.values()):  # a name, or less of it, always fits
            _check_context({**session.context, **changes})
        if await self._unbegun(user, session.id):  # from now on there is something to keep
            if await archive.has_sessions(user.key, self.max_sessions):
                raise TooManySessions
            await archive.add(Addition(user=user.key, session_id=session.id, backend=session.llm_backend))
        changed = await archive.change_session(user.key, session.id, name=body.name, context=changes)
        if changed is None:
            raise NotFound(MISSING)
        return JSONResponse(_shown(changed, await self._connected(user)))

    async def delete(self, request: Request) -> Response:
        """Delete a conversation; what runs in it is stopped by its owner."""
        user, archive = await self._user(request)
        session = await self._session(archive, user, request)
        outcome = await self.dispatch.outcome(user.key, DeleteSession(session_id=session.id))
        if isinstance(outcome, Failed):
            return of_failed(outcome)
        if not (isinstance(outcome, SessionDeleted) and outcome.existed):
            raise NotFound(MISSING)
        return JSONResponse({"status": "deleted", "session_id": session.id})

    async def messages(self, request: Request) -> Response:
        """Show a page of what was said, in order; without a cursor the last one."""
        user, archive = await self._user(request)
        session = await self._session(archive, user, request)
        limit = count_of(request, default=50, most=200)
        before, after = directions(request, place_in)

        async def fetch(limit: int, before: int | None, after: int | None) -> Sequence[Kept]:
            return await archive.page(user.key, session.id, limit=limit, before=before, after=after)

        page = await page_of(fetch, place_of, limit=limit, before=before, after=after)
        said = [_said(kept.message) for kept in page.items]
        return JSONResponse({"messages": said, **page.cursors(), "count": len(said)})

    async def context(self, request: Request) -> Response:
        """Show what of a conversation the model would see now."""
        user, archive = await self._user(request)
        known = await self._session(archive, user, request)
        session = await self.record.session(user.key, known.id) or known
        context = shown(session, self.budget, cut=may_be_cut(session, self.budget))
        said = await archive.count(user.key, session.id)
        budget = {
            "messages": self.budget.messages,
            "tokens": self.budget.tokens,
            "result": self.budget.result,
        }
        return JSONResponse(
            {
                "session_id": session.id,
                "messages": [_said(message) for message in context.messages],
                "tokens": context.tokens,
                "budget": budget,
                "left_out": context.left_out + max(0, said - len(session.messages)),
                "shortened": context.shortened,
                "summarized": context.summarized,
            }
        )

    async def export(self, request: Request) -> Response:
        """Give a whole conversation away as a file."""
        user, archive = await self._user(request)
        form = request.query_params.get("format", "json")
        if form not in FORMS:
            raise InvalidRequest(f"format must be one of: {', '.join(FORMS)}.")
        known = await self._session(archive, user, request)
        with ExitStack() as held:
            held.enter_context(self.bulk.place(user.key))
            session = replace(known, messages=tuple(await self.record.all_messages(user.key, known.id)))
            written = await anyio.to_thread.run_sync(FORMS[form].write, session)
            headers = {
                "content-disposition": disposition("attachment", filename(session, FORMS[form].extension)),
                "x-content-type-options": "nosniff",
            }
            media_type = FORMS[form].media_type
            return BulkResponse(written, held.pop_all(), media_type=media_type, headers=headers)

    async def search(self, request: Request) -> Response:
        """Find messages in which each word begins a word, the newest first."""
        user, archive = await self._user(request)
        query = request.query_params.get("q", "")[:LONGEST_QUERY]
        if not words(query):
            raise InvalidRequest("q must have a word to search for.")
        limit = count_of(request, default=20, most=100)
        before = place_in(request, "before")
        found = await archive.search(user.key, [query], limit=limit + 1, before=before)
        more = len(found) > limit
        results = [_found(each) for each in found[:limit]]
        following = cursor(found[limit - 1].place) if more else None
        return JSONResponse({"results": results, "before": following, "count": len(results)})

    async def _user(self, request: Request) -> tuple[Principal, Archive]:
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        return user, archive_of(self.archive)

    async def _read(self, request: Request, form: type[Own]) -> tuple[Principal, Own, Archive]:
        """Return who asks and what; nobody's body is not read."""
        await require_user(request, self.identity, request.query_params.get("user_id"))
        body = await read_body(request, form, limit=self.max_body)
        return await require_user(request, self.identity, body.user_id), body, archive_of(self.archive)

    async def _session(self, archive: Archive, user: Principal, request: Request) -> Session:
        session_id = _session_id(request)
        session = await archive.session(user.key, session_id) or await self._unbegun(user, session_id)
        if session is None:
            raise NotFound(MISSING)
        return session

    async def _unbegun(self, user: Principal, session_id: str) -> Session | None:
        """The connected conversation is there before anything was said in it."""
        config = await self.configs.get(user.key)
        if config is None or config.session_id != session_id:
            return None
        return Session(id=session_id, llm_backend=config.backend)

    async def _connected(self, user: Principal) -> str | None:
        config = await self.configs.get(user.key)
        return config.session_id if config else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form in which a conversation can be carried away."""

    write: Callable[[Session], str]
    media_type: str
    extension: str


FORMS = {
    "json": Form(write=Session.to_json, media_type="application/json", extension="json"),
    "markdown": Form(write=markdown, media_type="text/markdown", extension="md"),
}


def _brought(text: bytes) -> Session:
    """Read an import.

    Raises:
        InvalidRequest: It is none, or too large.
    """
    session = Session.from_json(text)
    if len(session.messages) > MAX_IMPORTED:
        raise TooLarge(
            f"This conversation has more than {MAX_IMPORTED:,} messages. "
            "The operator can import it with `mcp-chat sessions import`."
        )
    return adopted(session)


def adopted(session: Session) -> Session:
    """Return an imported session as a new one of ours: what the record has no room for is cut or left out.

    Raises:
        InvalidRequest: Its context is too large.
    """
    messages = tuple(_adopted(message) for message in session.messages)
    context = _adopted_context(session.context, {message.id for message in messages})
    _check_context(context)
    return replace(
        session,
        id=new_id(),
        name=_line(session.name) or title(messages[0].content if messages else "") or "Imported",
        llm_backend=_line(session.llm_backend),
        messages=messages,
        context=context,
        created_at=_past(session.created_at),
        updated_at=_past(session.updated_at),
        token_usage=Usage(
            input_tokens=_counted(session.token_usage.input_tokens),
            output_tokens=_counted(session.token_usage.output_tokens),
        ),
    )


def _adopted_context(context: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """Only messages that are known stay pinned; a summary names places of another database."""
    adopted = {key: value for key, value in context.items() if key not in ("pinned", "summary")}
    if isinstance(pinned := context.get("pinned"), list):
        adopted["pinned"] = [id_ for id_ in pinned if isinstance(id_, str) and id_ in known]
    return adopted


def _adopted(message: Message) -> Message:
    id_ = message.id if re.fullmatch(ID, message.id) else new_id()
    return replace(message, id=id_, parts=tuple(_adopted_part(part) for part in message.parts))


def _adopted_part(part: Part) -> Part:
    """Files are not brought along: who has one already finds it again by its id."""
    id_ = part.upload_id if re.fullmatch(ID, part.upload_id) else "unknown"
    return replace(part, upload_id=id_, name=clean_name(part.name), size=_counted(part.size))


def _line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:200]


def _past(moment: datetime) -> datetime:
    """A moment that every database can give back in its own time zone, and that leads no list for ever."""
    return min(max(moment, BEGINNING), now())


def _counted(count: int) -> int:
    return max(0, min(count, LARGEST))


async def _pins(archive: Archive, user: Principal, session: Session, ids: Sequence[str]) -> Sequence[str]:
    pinned = list(dict.fromkeys(ids))
    known = {message.id for message in await archive.pick(user.key, session.id, pinned)}
    for pin in pinned:
        if pin not in known:
            raise InvalidRequest(f"The message {pin} is not in this conversation.")
    return pinned


def _check_context(context: Mapping[str, Any]) -> None:
    try:
        sized_context({key: value for key, value in context.items() if value is not None})
    except ValueError as error:
        raise InvalidRequest(f"This is not possible: {error}.") from None


def _session_id(request: Request) -> str:
    session_id: str = request.path_params["session_id"]
    if not re.fullmatch(ID, session_id):
        raise NotFound(MISSING)
    return session_id


# What is answered


def _shown(session: Session, connected: str | None) -> dict[str, Any]:
    usage = session.token_usage
    return {
        "session_id": session.id,
        "name": session.name,
        "llm_backend": session.llm_backend,
        "created_at": _time(session.created_at),
        "updated_at": _time(session.updated_at),
        "context": dict(session.context),
        "token_usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
        "connected": session.id == connected,
    }


def _time(moment: datetime) -> str:
    """The form in which messages have their times."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _said(message: Message) -> Any:
    return MESSAGE.dump_python(message, mode="json")


def _found(found: Found) -> dict[str, Any]:
    return {
        "session_id": found.session_id,
        "session_name": found.session_name,
        "message": _said(replace(found.message, content=shorter(found.message.content, LONGEST_FOUND))),
        "excerpt": found.excerpt,
    }
