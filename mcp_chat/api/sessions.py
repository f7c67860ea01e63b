"""A user's conversations: listed, searched, changed, carried away and brought along."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import (
    NewSessionBody,
    OwnBody,
    SessionBody,
    SettingsBody,
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
from mcp_chat.api.said import said_with
from mcp_chat.api.uploads import archive_of, disposition
from mcp_chat.branch import MOST_BRANCHES, Side
from mcp_chat.commands import DeleteSession
from mcp_chat.configs import UserConfigs
from mcp_chat.context import Budget, may_be_cut, prompted, shorter, shown
from mcp_chat.events import Failed, SessionDeleted
from mcp_chat.exceptions import InvalidRequest, NotFound, TooLarge, TooManySessions
from mcp_chat.identity import Principal
from mcp_chat.kinds import clean_name
from mcp_chat.manner import KEYS, MODEL, manner_of, settings_in
from mcp_chat.message import ID, MESSAGE, Message, Part, Usage, new_id, now, public, title
from mcp_chat.plugins.base import NONE, Plugins
from mcp_chat.plugins.exports import exported
from mcp_chat.record import Record, pinned_in
from mcp_chat.session import Session
from mcp_chat.spent import told
from mcp_chat.stores.base import Addition, Archive, Found, Kept, Recency
from mcp_chat.stores.words import words
from mcp_chat.transfer import filename, markdown

if TYPE_CHECKING:
    from mcp_chat.dispatch import Dispatch  # the command line imports this module, and needs no agent
    from mcp_chat.providers import Providers

MAX_IMPORTED = 100_000
"""Messages of an import: more would keep a worker busy for a minute."""
LONGEST_QUERY = 2000
LONGEST_FOUND = 4000
"""Characters of a message that a search has found: its page has the rest."""
LARGEST = 2**53
"""The largest number that a column and every reader of JSON takes."""
MISSING = "This conversation does not exist."
NOTHING: Mapping[str, str] = MappingProxyType({})

Own = TypeVar("Own", bound=OwnBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The endpoints of conversations.

    Attributes:
        budget: What of a conversation the model is shown.
        max_body: Bytes of a body.
        max_import: Bytes of a conversation that is brought along.
        max_sessions: Conversations of a user.
        providers: Knows the models that can be chosen.
        system_prompt: What models are told first in conversations that say nothing else.
        bulk: Lets few conversations of one user come and go at a time.
        plugins: May change or block what is exported.
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
    providers: Providers
    system_prompt: str
    plugins: Plugins = NONE

    async def list(self, request: Request) -> Response:
        """List conversations, the one used last first."""
        user, archive = await self.user(request)
        limit = count_of(request, default=50, most=200)
        before, after = directions(request, recency_in)

        async def fetch(limit: int, before: Recency | None, after: Recency | None) -> Sequence[Session]:
            return (await archive.sessions(user.key, limit=limit, before=before, after=after))[::-1]

        page = await page_of(fetch, recency_of, limit=limit, before=before, after=after)
        connected, running = await self._connected(user), await self._running(user)
        listed = [_shown(session, connected, running) for session in page.items[::-1]]
        return JSONResponse({"sessions": listed, **page.cursors(), "count": len(listed)})

    async def new(self, request: Request) -> Response:
        """Begin a conversation, in which nothing was said yet."""
        user, body, archive = await self._read(request, NewSessionBody)
        config = await self.configs.get(user.key)
        session = Session.new(config.backend if config else "", name=body.name)
        settings = {key: value for key, value in (await self._settings(body)).items() if value is not None}
        session = replace(session, context={**body.context, **settings})
        _check_context(session.context)
        await archive.import_session(user.key, session, most=self.max_sessions)
        return JSONResponse(_shown(session, None), 201)

    async def bring(self, request: Request) -> Response:
        """Make a new conversation of an exported one."""
        user, archive = await self.user(request)
        if media_type(request) != "application/json":
            raise UnsupportedBody
        with self.bulk.place(user.key):
            text = await read_bytes(request, limit=self.max_import, seconds=patience_for(self.max_import))
            session = await anyio.to_thread.run_sync(_brought, text)
            await archive.import_session(user.key, session, most=self.max_sessions)
        return JSONResponse({**_shown(session, None), "message_count": len(session.messages)}, 201)

    async def get(self, request: Request) -> Response:
        """Show a conversation without its messages."""
        user, archive = await self.user(request)
        session = await self.session(archive, user, request)
        return JSONResponse(_shown(session, await self._connected(user), await self._running(user)))

    async def change(self, request: Request) -> Response:
        """Set the name, keys of the context, or the pinned messages."""
        user, body, archive = await self._read(request, SessionBody)
        session = await self.session(archive, user, request)
        changes = {**(body.context or {}), **await self._settings(body)}
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
        return JSONResponse(_shown(changed, await self._connected(user), await self._running(user)))

    async def _settings(self, body: SettingsBody) -> dict[str, Any]:
        """Return the settings that a body names, as a context has them.

        Raises:
            InvalidRequest: There is no such model.
        """
        named = {key: getattr(body, key) for key in KEYS if key in body.model_fields_set}
        if model := named.get(MODEL):
            chosen = await self.providers.choose(model)
            named[MODEL] = f"{chosen.provider}:{chosen.model}"
        return named

    async def delete(self, request: Request) -> Response:
        """Delete a conversation; what runs in it is stopped by its owner."""
        user, archive = await self.user(request)
        session = await self.session(archive, user, request)
        outcome = await self.dispatch.outcome(user.key, DeleteSession(session_id=session.id))
        if isinstance(outcome, Failed):
            return of_failed(outcome)
        if not (isinstance(outcome, SessionDeleted) and outcome.existed):
            raise NotFound(MISSING)
        return JSONResponse({"status": "deleted", "session_id": session.id})

    async def messages(self, request: Request) -> Response:
        """Show a page of what was said, in order; without a cursor the last one."""
        user, archive = await self.user(request)
        session = await self.session(archive, user, request)
        limit = count_of(request, default=50, most=200)
        before, after = directions(request, place_in)

        async def fetch(limit: int, before: int | None, after: int | None) -> Sequence[Kept]:
            return await archive.page(user.key, session.id, limit=limit, before=before, after=after)

        page = await page_of(fetch, place_of, limit=limit, before=before, after=after)
        branches = await self.record.branches(user.key, session.id)
        messages = [kept.message for kept in page.items]
        said = said_with(branches, messages, await self.record.failures(user.key, messages))
        return JSONResponse({"messages": said, **page.cursors(), "count": len(said)})

    async def context(self, request: Request) -> Response:
        """Show what of a conversation the model would see now."""
        user, archive = await self.user(request)
        known = await self.session(archive, user, request)
        session = prompted(await self.record.session(user.key, known.id) or known, self.system_prompt)
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
        user, archive = await self.user(request)
        form = request.query_params.get("format", "json")
        if form not in FORMS:
            raise InvalidRequest(f"format must be one of: {', '.join(FORMS)}.")
        known = await self.session(archive, user, request)
        with ExitStack() as held:
            held.enter_context(self.bulk.place(user.key))
            said = await self.record.all_messages(user.key, known.id)
            sides = await self.record.sides(user.key, known.id)
            session = replace(
                known,
                messages=tuple(map(public, said)),
                branches=tuple(replace(side, messages=tuple(map(public, side.messages))) for side in sides),
            )
            written = await anyio.to_thread.run_sync(FORMS[form].write, session)
            written = await exported(self.plugins, user, known.id, form, written)
            headers = {
                "content-disposition": disposition("attachment", filename(session, FORMS[form].extension)),
                "x-content-type-options": "nosniff",
            }
            media_type = FORMS[form].media_type
            return BulkResponse(written, held.pop_all(), media_type=media_type, headers=headers)

    async def search(self, request: Request) -> Response:
        """Find messages in which each word begins a word, the newest first."""
        user, archive = await self.user(request)
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

    async def user(self, request: Request, named: str | None = None) -> tuple[Principal, Archive]:
        """Return who asks, and where their conversations are.

        Args:
            named: The user that a body names.
        """
        named = named or request.query_params.get("user_id")
        return await require_user(request, self.identity, named), archive_of(self.archive)

    async def _read(self, request: Request, form: type[Own]) -> tuple[Principal, Own, Archive]:
        """Return who asks and what; nobody's body is not read."""
        await require_user(request, self.identity, request.query_params.get("user_id"))
        body = await read_body(request, form, limit=self.max_body)
        return await require_user(request, self.identity, body.user_id), body, archive_of(self.archive)

    async def session(self, archive: Archive, user: Principal, request: Request) -> Session:
        """Return the conversation that a path names, without its messages.

        Raises:
            NotFound: It is none of the user's.
        """
        session_id = id_in(request, "session_id", MISSING)
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

    async def _running(self, user: Principal) -> dict[str, str]:
        """Return the turns that run: the first that has not ended of each conversation."""
        turns = await self.dispatch.open_turns(user.key)
        return {turn.session_id: turn.id for turn in reversed(turns) if turn.session_id}


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
    if len(session.messages) + sum(len(side.messages) for side in session.branches) > MAX_IMPORTED:
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
    if len(session.branches) > MOST_BRANCHES:
        raise InvalidRequest(f"A conversation has up to {MOST_BRANCHES} branches.")
    ids = _ids_for(session)
    messages = tuple(_adopted(message, ids) for message in session.messages)
    context = _adopted_context(session.context, {message.id for message in messages})
    _check_context(context)
    return replace(
        session,
        id=new_id(),
        name=_line(session.name) or title(messages[0].content if messages else "") or "Imported",
        llm_backend=_line(session.llm_backend),
        messages=messages,
        branches=tuple(_adopted_side(side, ids) for side in session.branches if side.messages),
        context=context,
        created_at=_past(session.created_at),
        updated_at=_past(session.updated_at),
        token_usage=_adopted_usage(session.token_usage),
    )


def _adopted_usage(usage: Usage) -> Usage:
    return replace(
        usage,
        input_tokens=_counted(usage.input_tokens),
        output_tokens=_counted(usage.output_tokens),
        cached_tokens=_counted(usage.cached_tokens),
        reasoning_tokens=_counted(usage.reasoning_tokens),
        cost_nanos=_counted(usage.cost_nanos),
    )


def _adopted_context(context: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """Only messages that are known stay pinned; a summary names places of another database."""
    own = ("pinned", "summary", *KEYS)
    adopted = {key: value for key, value in context.items() if key not in own} | settings_in(context)
    if isinstance(pinned := context.get("pinned"), list):
        adopted["pinned"] = [id_ for id_ in pinned if isinstance(id_, str) and id_ in known]
    return adopted


def _ids_for(session: Session) -> dict[str, str]:
    """The ids that messages get which cannot keep theirs."""
    said = chain(session.messages, *(side.messages for side in session.branches))
    return {message.id: new_id() for message in said if not re.fullmatch(ID, message.id)}


def _adopted_side(side: Side, ids: Mapping[str, str]) -> Side:
    messages = tuple(_adopted(message, ids) for message in side.messages)
    return Side(fork=ids.get(side.fork, side.fork), messages=messages)


def _adopted(message: Message, ids: Mapping[str, str]) -> Message:
    id_ = ids.get(message.id, message.id)
    return replace(public(message), id=id_, parts=tuple(_adopted_part(part) for part in message.parts))


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
    known |= set(pinned_in(session))  # it may be in another branch
    for pin in pinned:
        if pin not in known:
            raise InvalidRequest(f"The message {pin} is not in this conversation.")
    return pinned


def _check_context(context: Mapping[str, Any]) -> None:
    try:
        sized_context({key: value for key, value in context.items() if value is not None})
    except ValueError as error:
        raise InvalidRequest(f"This is not possible: {error}.") from None


def id_in(request: Request, name: str, missing: str) -> str:
    """Return an id of a path.

    Raises:
        NotFound: It cannot be one.
    """
    found: str = request.path_params[name]
    if not re.fullmatch(ID, found):
        raise NotFound(missing)
    return found


# What is answered


def _shown(session: Session, connected: str | None, running: Mapping[str, str] = NOTHING) -> dict[str, Any]:
    usage, manner = session.token_usage, manner_of(session.context)
    return {
        "session_id": session.id,
        "name": session.name,
        "llm_backend": session.llm_backend,
        "created_at": time_of(session.created_at),
        "updated_at": time_of(session.updated_at),
        "context": {key: value for key, value in session.context.items() if key not in KEYS},
        "system_prompt": manner.system_prompt,
        "temperature": manner.temperature,
        "model": manner.model or None,
        "token_usage": {
            **told(usage),
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
        "connected": session.id == connected,
        "running": running.get(session.id),
    }


def time_of(moment: datetime) -> str:
    """The form in which messages have their times."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _said(message: Message) -> Any:
    return MESSAGE.dump_python(public(message), mode="json")


def _found(found: Found) -> dict[str, Any]:
    return {
        "session_id": found.session_id,
        "session_name": found.session_name,
        "message": _said(replace(found.message, content=shorter(found.message.content, LONGEST_FOUND))),
        "excerpt": found.excerpt,
        "branch": found.message.id if found.hidden else None,
    }
