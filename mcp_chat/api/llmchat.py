"""ContextForge's chat dialect: its fields, frames and sentences over our commands and events."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat import config as configs
from mcp_chat.api.answering import answering
from mcp_chat.api.bodies import (
    NO_MODEL,
    CancelBody,
    ChatBody,
    ConnectBody,
    InvalidBody,
    RetryBody,
    UserBody,
    read_body,
)
from mcp_chat.api.brought import Brought, Unbrought, bring, check_size
from mcp_chat.api.choice import Choice
from mcp_chat.api.errors import of_failed
from mcp_chat.api.identity import Identity, check_name, require_user, while_signed_in
from mcp_chat.api.said import said_with
from mcp_chat.api.sse import EventStream
from mcp_chat.api.streams import Streams
from mcp_chat.api.transcript import Transcript, frames
from mcp_chat.api.uploads import parts_of
from mcp_chat.branch import MOST_BRANCHES
from mcp_chat.commands import Cancel, Connect, Disconnect, Send
from mcp_chat.config import CONFIG, UserConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.dispatch import Dispatch
from mcp_chat.events import (
    Cancelled,
    Connected,
    Entry,
    Failed,
)
from mcp_chat.exceptions import (
    InvalidRequest,
    LimitReached,
    NotConnected,
    NotFound,
    TooLarge,
    TooManySessions,
)
from mcp_chat.history import ChatHistoryManager
from mcp_chat.identity import Principal
from mcp_chat.message import ID, Message, new_id
from mcp_chat.netguard import Lookups
from mcp_chat.providers import Providers
from mcp_chat.steering import STEER, TURN
from mcp_chat.stores.base import Archive, Store
from mcp_chat.vault import Vault

log = structlog.get_logger()

NO_TOOLS = (
    "This model cannot use tools, so it is offered none. Choose another model to use your servers' tools."
)

U = TypeVar("U", bound=UserBody)


class CheckDay(Protocol):
    """Sees that something is left of a user's day."""

    async def __call__(self, user: str, *, own: bool) -> None:
        """Return if it is.

        Raises:
            LimitReached: Nothing is.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMChat:
    """The endpoints and what they work with.

    Attributes:
        lookups: Looks up the names of users' model servers.
        choice: Makes servers of what a body names.
        max_body: Bytes of a body.
        max_message: Bytes of a message.
        max_sessions: Conversations of a user.
        check_day: Sees that something is left of a user's day, if days are limited.
    """

    identity: Identity
    streams: Streams
    dispatch: Dispatch
    store: Store
    configs: UserConfigs
    history: ChatHistoryManager
    vault: Vault
    providers: Providers
    lookups: Lookups
    choice: Choice
    archive: Archive | None = None
    max_messages: int
    max_body: int
    max_message: int
    max_sessions: int
    check_day: CheckDay | None = None

    async def connect(self, request: Request) -> Response:
        """Open servers and a model; the answer comes when they are proven, or nothing has changed."""
        user, body = await self._read(request, ConnectBody)
        try:
            config = await self._configuration(body, user)
        except InvalidRequest as error:  # nothing is dialled, so the trail hears nothing of it
            log.warning("refused", code=error.code, user=user.key, action="connect", reason=str(error))
            raise
        sealed = self.vault.seal(CONFIG.dump_json(config).decode(), user=user.key, field="connect")
        command = Connect(sealed=sealed, user_id=user.id, id=command_id(request, "connect"))
        outcome = await self.dispatch.outcome(user.key, command)
        if isinstance(outcome, Failed):
            return of_failed(outcome)
        assert isinstance(outcome, Connected)
        return JSONResponse(
            {
                "status": "connected",
                "user_id": user.id,
                "provider": config.model.provider,
                "tool_count": len(outcome.tools),
                "tools": list(outcome.tools),
                "session_id": outcome.session_id,
                **await self._notes(user, config),
                **({"left_out": dict(outcome.left_out)} if outcome.left_out else {}),
                **({"sign_in": dict(outcome.sign_in)} if outcome.sign_in else {}),
            }
        )

    async def _notes(self, user: Principal, config: UserConfig) -> dict[str, list[str]]:
        """Return what the user should know of their model, if there is anything."""
        known = await self.providers.known(config.model, self.lookups.of(user.key))
        return {"notes": [NO_TOOLS]} if known.capabilities.tools is False else {}

    async def chat(self, request: Request) -> Response:
        """Send a message; the answer is a read of the turn's events, streamed or whole."""
        user, body = await self._read(request, ChatBody)
        self._check_message(body)
        with ExitStack() as held:
            if body.streaming:  # refused before the message is taken
                held.enter_context(self.streams.place(user.key))
            try:
                return await self._chat(request, user, body, held)
            except Unbrought as error:
                return of_failed(error.failed)

    async def _chat(self, request: Request, user: Principal, body: ChatBody, held: ExitStack) -> Response:
        given = body.message_id or idempotency_key(request)
        command_id = given or new_id()
        session_id, resumed = await self._session(user, body.session_id, command_id)
        await self._check_day(user, command_id, known=given is not None)
        if body.edit and not (given and await self.dispatch.knows(user.key, given)):
            await self._question(user, session_id, body.edit)
        run = new_id()
        parts = await parts_of(self.archive, user.key, body.attachments)
        brought = await self._bring(user, body, command_id, run)
        command = Send(
            session_id=session_id,
            text=brought.text,
            parts=(*parts, *brought.parts),
            opening=brought.opening,
            metadata=brought.metadata,
            replaces=body.edit or "",
            run=run,
            interrupt=body.if_running == "interrupt",
            steer=body.if_running == "steer",
            record=body.record,
            id=command_id,
        )
        return await self._answered(request, user, command, held if body.streaming else None, resumed, given)

    async def retry(self, request: Request) -> Response:
        """Run a message of the user's again; what was said from it on becomes a branch."""
        user, body = await self._read(request, RetryBody)
        with ExitStack() as held:
            if body.streaming:  # refused before anything is taken
                held.enter_context(self.streams.place(user.key))
            given = idempotency_key(request)
            command = await self._again(user, body, given)
            return await self._answered(request, user, command, held if body.streaming else None, True, given)

    async def _again(self, user: Principal, body: RetryBody, given: str | None) -> Send:
        """Return the message that is said again; of one that was accepted before, the first one counts.

        Raises:
            NotFound: There is no such message in the line that is shown.
        """
        command_id = given or new_id()
        config = await self.configs.get(user.key)
        if config is None:
            raise NotConnected
        session_id = body.session_id or config.session_id
        if not re.fullmatch(ID, session_id) or not await self._is_theirs(user, session_id, config):
            raise NotFound("This conversation does not exist.")
        if given and await self.dispatch.knows(user.key, command_id):
            return Send(session_id=session_id, text="", id=command_id)
        await self._check_day(user, command_id, known=False)
        question = await self._question(user, session_id, body.message_id)
        model = await self.providers.choose(body.model) if body.model else None
        return Send(
            session_id=session_id,
            text=question.content,
            parts=question.parts,
            metadata={name: each for name, each in question.metadata.items() if name not in (STEER, TURN)},
            interrupt=body.if_running == "interrupt",
            replaces=question.id,
            model=f"{model.provider}:{model.model}" if model else "",
            temperature=body.temperature,
            id=command_id,
        )

    async def _question(self, user: Principal, session_id: str, message_id: str | None) -> Message:
        """Return a message of the user's, or the last one, that can be said again or another way.

        Raises:
            NotFound: There is none in the line that is shown.
            InvalidRequest: It is not the user's, or the conversation has as many branches as possible.
        """
        record = self.history.record
        found = (
            await record.find(user.key, session_id, message_id)
            if message_id
            else await record.last_asked(user.key, session_id)
        )
        if found is None:
            raise NotFound("This message is not in the conversation as it is shown now.")
        if found.role != "user":
            raise InvalidRequest("Only your own messages can be edited or sent again.")
        if len(await record.branches(user.key, session_id)) > MOST_BRANCHES:
            raise InvalidRequest(
                f"This conversation has {MOST_BRANCHES} branches, as many as possible. Begin another one."
            )
        return found

    async def _answered(
        self,
        request: Request,
        user: Principal,
        command: Send,
        held: ExitStack | None,
        resumed: bool,
        given: str | None,
    ) -> Response:
        """Hand a message over, and answer with what its turn comes to.

        Args:
            held: What a stream holds until its end; without it the answer comes as a whole.
            given: The id that the client gave it.
        """
        session_id = command.session_id
        ticket = await self.dispatch.submit(user.key, command, repeatable=given is not None)
        entries = answering(self.dispatch, user.key, ticket)
        headers = {
            "mcp-chat-session": session_id,
            "mcp-chat-turn": command.id,
            "mcp-chat-resumed": str(resumed).lower(),
        }
        transcript = Transcript(session_id=session_id, turn_id=command.id, resumed=resumed)
        if held is not None:
            proven = while_signed_in(entries, request, self.identity, user)
            return EventStream(frames(proven, transcript), headers, held.pop_all())
        return await self._whole(user, entries, transcript, headers)

    async def _check_day(self, user: Principal, command_id: str, *, known: bool) -> None:
        """Refuse a new message when nothing is left of the user's day; one that was taken has its answer."""
        if self.check_day is None:
            return
        config = await self.configs.get(user.key)
        try:
            await self.check_day(user.key, own=config is not None and not config.model.operator)
        except LimitReached:
            if not (known and await self.dispatch.knows(user.key, command_id)):
                raise

    async def _bring(self, user: Principal, body: ChatBody, command_id: str, run: str) -> Brought:
        """Get what the message brings along; of one that was accepted before, the first one counts."""
        if not (body.prompt or body.resources) or await self.dispatch.knows(user.key, command_id):
            return Brought(text=body.message, metadata={})
        brought = await bring(self.dispatch, user.key, body, run)
        check_size(brought, self.max_message)
        return brought

    async def cancel(self, request: Request) -> Response:
        """Stop the running and waiting turns of a session, or of all."""
        user, body = await self._read(request, CancelBody)
        served = await self.store.leases.get(user.key) or await self.dispatch.running(user.key, None)
        if not served:
            return JSONResponse({"status": "no_running_turn", "user_id": user.id})
        outcome = await self.dispatch.outcome(
            user.key, Cancel(session_id=body.session_id, id=command_id(request, "cancel"))
        )
        if isinstance(outcome, Failed):
            return of_failed(outcome)
        stopped = isinstance(outcome, Cancelled) and outcome.turns
        return JSONResponse({"status": "cancelled" if stopped else "no_running_turn", "user_id": user.id})

    async def disconnect(self, request: Request) -> Response:
        """End everything of the user's: turns, connections, configuration."""
        user, _ = await self._read(request, UserBody)
        gone = {
            "status": "no_active_session",
            "user_id": user.id,
            "message": "No active session to disconnect",
        }
        repeated = idempotency_key(request) is not None  # the answer may have been lost
        if not repeated and not await self.configs.stored(user.key):
            return JSONResponse(gone)
        command = Disconnect(id=command_id(request, "disconnect"))
        outcome = await self.dispatch.outcome(user.key, command)
        if isinstance(outcome, Failed):
            return JSONResponse(gone) if outcome.code == NotConnected.code else of_failed(outcome)
        return JSONResponse(
            {"status": "disconnected", "user_id": user.id, "message": "Successfully disconnected"}
        )

    async def status(self, request: Request) -> Response:
        """Tell whether the user is connected; the same on every worker."""
        user = await require_user(request, self.identity, request.path_params["user_id"])
        return JSONResponse({"user_id": user.id, "connected": await self.configs.exists(user.key)})

    async def config(self, request: Request) -> Response:
        """Show the user's configuration, secrets masked."""
        user = await require_user(request, self.identity, request.path_params["user_id"])
        config = await self.configs.get(user.key)
        if config is None:
            raise NotFound("No config found for this user.")
        return JSONResponse(configs.shown(config, max_messages=self.max_messages))

    async def messages(self, request: Request) -> Response:
        """Show a conversation: the default one, or that of `session_id`."""
        user = await require_user(request, self.identity, request.path_params["user_id"])
        limit = _limit(request.query_params.get("limit"))
        session_id = request.query_params.get("session_id")
        config = await self.configs.get(user.key)
        if session_id is None:
            session_id = config.session_id if config else None
        elif not await self._is_theirs(user, session_id, config):
            raise NotFound("This conversation does not exist.")
        running = (
            await self.dispatch.running(user.key, session_id) if session_id else None
        )  # asked first: what an ended turn said is there then
        if running:
            await self.dispatch.wake(user.key)  # nobody else may be asking for a turn whose worker has died
        found = await self._messages(user, session_id, limit) if session_id else []
        branches = await self.history.record.branches(user.key, session_id) if found else []
        failures = await self.history.record.failures(user.key, found)
        return JSONResponse(
            {
                "user_id": user.id,
                "session_id": session_id,
                "running": running,
                "count": len(found),
                "messages": said_with(branches, found, failures),
            }
        )

    async def _messages(self, user: Principal, session_id: str, limit: int) -> list[Message]:
        return await self.history.get_history(user.id, session_id=session_id, limit=limit)

    async def models(self, request: Request) -> Response:
        """List the models that can be chosen."""
        await require_user(request, self.identity)
        listed = [entry.shown() for entry in await self.providers.catalogue()]
        return JSONResponse({"models": listed, "count": len(listed)})

    async def _read(self, request: Request, form: type[U]) -> tuple[Principal, U]:
        """Return who asks and what; nobody's body is not read."""
        user = await require_user(request, self.identity)
        body = await read_body(request, form, limit=self.max_body)
        check_name(request, user, body.user_id)
        return user, body

    async def _configuration(self, body: ConnectBody, user: Principal) -> UserConfig:
        llm = body.llm
        if llm.config is not None and llm.provider is not None:
            model = await self.providers.own(llm.provider, llm.config.used())
        elif wanted := llm.model or self.providers.default:
            model = await self.providers.choose(
                wanted, temperature=llm.temperature, max_tokens=llm.max_tokens
            )
        else:
            raise InvalidBody([NO_MODEL])
        return UserConfig(servers=self.choice.all(body, user), model=model, streaming=body.streaming)

    def _check_message(self, body: ChatBody) -> None:
        if not (body.message.strip() or body.attachments or body.prompt or body.resources):
            raise InvalidRequest("Message cannot be empty")
        if len(body.message.encode()) > self.max_message:
            raise TooLarge(f"The message is longer than {self.max_message} bytes. Send it in parts.")

    async def _session(self, user: Principal, wanted: str | None, command_id: str) -> tuple[str, bool]:
        """Return the session to write to, and whether it is the one that was asked for.

        A new one's id comes from the command's, so that the same command again means the same session.

        Raises:
            NotConnected: The user has not connected.
            TooManySessions: It would be a new one, and one too many.
        """
        config = await self.configs.get(user.key)
        if config is None:
            raise NotConnected
        if wanted in (None, config.session_id):
            await self._check_room_for(user, config.session_id)  # nothing may have been said there yet
            return config.session_id, True
        if await self._is_theirs(user, wanted, config):
            return wanted, True
        new = hashlib.sha256(f"{user.key} {command_id}".encode()).hexdigest()[:32]
        await self._check_room_for(user, new)
        return new, False

    async def _check_room_for(self, user: Principal, session_id: str) -> None:
        """Refuse a session that is one too many; it is there already when its first message comes again."""
        if (
            self.archive
            and not await self.history.record.exists(user.key, session_id)
            and await self.archive.has_sessions(user.key, self.max_sessions)
        ):
            raise TooManySessions

    async def _is_theirs(self, user: Principal, session_id: str, config: UserConfig | None) -> bool:
        """Tell whether a session is the user's; the default one is before anything was said in it."""
        is_default = config is not None and config.session_id == session_id
        return is_default or await self.history.record.exists(user.key, session_id)

    async def _whole(
        self,
        user: Principal,
        entries: AsyncIterator[Entry | None],
        transcript: Transcript,
        headers: dict[str, str],
    ) -> Response:
        async for entry in entries:
            if entry is not None:
                transcript.add(entry)
        if transcript.failed:
            return of_failed(transcript.failed)
        return JSONResponse(
            {
                "user_id": user.id,
                "response": transcript.text,
                **transcript.tools_used(),
                "tool_invocations": transcript.invocations,
                **transcript.extent(),
                "usage": transcript.usage(),
                **transcript.whereabouts(),
            },
            headers=headers,
        )


def idempotency_key(request: Request) -> str | None:
    """Return the id that a client gives its request by the header, to send it again without harm.

    Raises:
        InvalidRequest: It cannot be an id.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not re.fullmatch(ID, key):
        raise InvalidRequest("Idempotency-Key must be up to 64 letters, digits and signs of _.:-")
    return key


def command_id(request: Request, kind: str) -> str:
    """Return the id of a command that is no message: keys of different requests do not meet."""
    key = idempotency_key(request)
    return hashlib.sha256(f"{kind} {key}".encode()).hexdigest()[:32] if key else new_id()


def _limit(text: str | None) -> int:
    """Read a page size.

    Raises:
        InvalidRequest: It is not a number from 1 to 1000.
    """
    if text is None:
        return 1000
    if len(text) > 4 or not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise InvalidRequest("limit must be a number from 1 to 1000.")
    return int(text)
