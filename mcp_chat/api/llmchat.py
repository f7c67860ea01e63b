"""ContextForge's chat dialect: its fields, frames and sentences over our commands and events."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat import config as configs
from mcp_chat import servers
from mcp_chat.api.bodies import (
    CancelBody,
    ChatBody,
    ConnectBody,
    InvalidBody,
    ServerBody,
    UserBody,
    read_body,
)
from mcp_chat.api.errors import of_failed
from mcp_chat.api.identity import Identity, require_user, while_signed_in
from mcp_chat.api.sse import EventStream
from mcp_chat.api.streams import Streams
from mcp_chat.api.transcript import Transcript, frames
from mcp_chat.api.uploads import parts_of
from mcp_chat.commands import Cancel, Connect, Disconnect, Send
from mcp_chat.config import CONFIG, ServerConfig, UserConfig
from mcp_chat.configs import UserConfigs
from mcp_chat.dispatch import Dispatch
from mcp_chat.events import (
    Cancelled,
    Connected,
    Entry,
    Failed,
)
from mcp_chat.exceptions import InvalidRequest, NotConnected, NotFound, TooLarge, TooManySessions
from mcp_chat.history import ChatHistoryManager
from mcp_chat.identity import Principal
from mcp_chat.message import ID, MESSAGE, Message, new_id
from mcp_chat.netguard import Policy
from mcp_chat.providers import Providers
from mcp_chat.stores.base import Archive, Store
from mcp_chat.vault import Vault

log = structlog.get_logger()

U = TypeVar("U", bound=UserBody)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMChat:
    """The endpoints and what they work with.

    Attributes:
        servers: The operator's servers by name.
        max_body: Bytes of a body.
        max_message: Bytes of a message.
        max_servers: Servers of a user.
        max_sessions: Conversations of a user.
        policy: Which URLs users may give.
        gateway_origins: Where the MCP servers are that get the user's login token.
    """

    identity: Identity
    streams: Streams
    dispatch: Dispatch
    store: Store
    configs: UserConfigs
    history: ChatHistoryManager
    vault: Vault
    providers: Providers
    servers: dict[str, ServerConfig]
    archive: Archive | None = None
    max_messages: int
    max_body: int
    max_message: int
    max_servers: int
    max_sessions: int
    policy: Policy
    gateway_origins: frozenset[str]

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
                **({"left_out": dict(outcome.left_out)} if outcome.left_out else {}),
            }
        )

    async def chat(self, request: Request) -> Response:
        """Send a message; the answer is a read of the turn's events, streamed or whole."""
        user, body = await self._read(request, ChatBody)
        self._check_message(body)
        with ExitStack() as held:
            if body.streaming:  # refused before the message is taken
                held.enter_context(self.streams.place(user.key))
            return await self._chat(request, user, body, held)

    async def _chat(self, request: Request, user: Principal, body: ChatBody, held: ExitStack) -> Response:
        given = body.message_id or idempotency_key(request)
        command_id = given or new_id()
        session_id, resumed = await self._session(user, body.session_id, command_id)
        command = Send(
            session_id=session_id,
            text=body.message,
            parts=await parts_of(self.archive, user.key, body.attachments),
            interrupt=body.if_running == "interrupt",
            id=command_id,
        )
        ticket = await self.dispatch.submit(user.key, command, repeatable=given is not None)
        entries = self.dispatch.follow(user.key, ticket)
        headers = {
            "mcp-chat-session": session_id,
            "mcp-chat-turn": command.id,
            "mcp-chat-resumed": str(resumed).lower(),
        }
        transcript = Transcript(session_id=session_id, turn_id=command.id, resumed=resumed)
        if body.streaming:
            proven = while_signed_in(entries, request, self.identity, user)
            return EventStream(frames(proven, transcript), headers, held.pop_all())
        return await self._whole(user, entries, transcript, headers)

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
        return JSONResponse(
            {
                "user_id": user.id,
                "session_id": session_id,
                "running": running,
                "count": len(found),
                "messages": [MESSAGE.dump_python(message, mode="json") for message in found],
            }
        )

    async def _messages(self, user: Principal, session_id: str, limit: int) -> list[Message]:
        return await self.history.get_history(user.id, session_id=session_id, limit=limit)

    async def models(self, request: Request) -> Response:
        """List the models that can be chosen."""
        await require_user(request, self.identity)
        listed = [entry.shown() for entry in await self.providers.catalogue()]
        return JSONResponse({"models": listed, "count": len(listed)})

    async def list_servers(self, request: Request) -> Response:
        """List the operator's servers."""
        await require_user(request, self.identity)
        return JSONResponse({"servers": servers.shown(self.servers), "count": len(self.servers)})

    async def _read(self, request: Request, form: type[U]) -> tuple[Principal, U]:
        """Return who asks and what; nobody's body is not read."""
        await require_user(request, self.identity)
        body = await read_body(request, form, limit=self.max_body)
        return await require_user(request, self.identity, body.user_id), body

    async def _configuration(self, body: ConnectBody, user: Principal) -> UserConfig:
        llm = body.llm
        if llm.config is not None and llm.provider is not None:
            model = await self.providers.own(llm.provider, llm.config.used())
        else:
            model = await self.providers.choose(
                llm.model or "", temperature=llm.temperature, max_tokens=llm.max_tokens
            )
        return UserConfig(servers=self._chosen(body, user), model=model, streaming=body.streaming)

    def _chosen(self, body: ConnectBody, user: Principal) -> tuple[ServerConfig, ...]:
        """Without a server in the body it is the operator's `default` one, if there is one."""
        if body.server is None and body.servers is None:
            return tuple(server for name, server in self.servers.items() if name == "default")
        if len(body.all_servers()) > self.max_servers:
            raise InvalidBody([_too_many(self.max_servers)])
        return servers.distinct([self._server(server, user) for server in body.all_servers()])

    def _server(self, body: ServerBody, user: Principal) -> ServerConfig:
        if body.url:
            own = servers.own_server(
                body.url,
                transport=body.transport,
                auth_token=body.auth_token,
                alias=body.alias,
                policy=self.policy,
            )
            return servers.with_login(own, user.token, self.gateway_origins)
        server = self.servers.get(body.name or "")
        if server is None:
            known = ", ".join(self.servers) or "none"
            raise InvalidRequest(f"Invalid configuration: the operator's servers are: {known}.")
        return server

    def _check_message(self, body: ChatBody) -> None:
        if not body.message.strip() and not body.attachments:
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
                "elapsed_ms": transcript.finished.elapsed_ms,
                "stopped": transcript.finished.stopped,
                "usage": transcript.usage(),
                **transcript.whereabouts(),
            },
            headers=headers,
        )


def _too_many(servers: int) -> dict[str, Any]:
    text = f"Connect to at most {servers} servers at once"
    return {"loc": ["body", "servers"], "msg": text, "type": "too_long"}


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
