"""What a user's owner does for apps: reads them, and makes the calls that they ask for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import anyio
import mcp_types as mcp
import orjson
from anyio import CapacityLimiter

from mcp_chat.agent import Emit
from mcp_chat.appask import AppAsker, AppBox
from mcp_chat.apps import VIEW, view_of
from mcp_chat.apptalk import AppTalk
from mcp_chat.commands import Consult
from mcp_chat.connections import Connection
from mcp_chat.consent import By, Consent, Leave
from mcp_chat.consult import AppAsk, CallForApp, ReadApp, ReadForApp
from mcp_chat.deed import Deed, digest
from mcp_chat.edited import Seen, refused, seen_again
from mcp_chat.equipment import Equipment
from mcp_chat.events import Consulted
from mcp_chat.exceptions import (
    BlockedByPlugin,
    Interrupted,
    InvalidRequest,
    NotFound,
    TooLarge,
    TooManyRequests,
)
from mcp_chat.message import ToolCall, new_id
from mcp_chat.papers import Papers
from mcp_chat.plugins.base import NONE, Occasion, Plugins
from mcp_chat.plugins.offers import OfferDoor
from mcp_chat.plugins.tools import ToolDoor, server_id
from mcp_chat.results import ToolResult
from mcp_chat.talk import Look
from mcp_chat.toolbox import Toolbox
from mcp_chat.tools import Tool, find
from mcp_chat.trail import Trail

VIEW_SECONDS: Final = 600.0
"""For which an app is kept, and not read again."""

PATIENCE: Final = 60.0
"""Seconds after which a call that has waited is not made any more."""

CALL_SECONDS: Final = 2 * PATIENCE
"""For which it is known that a call was begun: longer than anybody can want to begin it again."""

MAX_ANSWER: Final = 262_144
"""Bytes of what one call or one resource gives an app: it goes through the user's log."""

ASKS: Final = 4
"""Calls of apps that wait for their user at a time: they take places of what else is asked of servers."""

NO_APP: Final = "This tool has no app that may be shown."


@dataclass(frozen=True, slots=True, kw_only=True)
class AppWork:
    """Serves the apps of one user.

    Attributes:
        epoch: The owner's.
        papers: Where apps are kept for the worker that shows them, and which calls were begun.
        held: Returns when this worker may call a tool.
        app_bytes: What an app may have.
        consent: Gives leave to calls.
        emit: Takes what the user is asked, and that they are not any more.
        plugins: Look at what apps read and call.
        asking: The places of apps that ask.
    """

    user: str
    epoch: int
    papers: Papers
    trail: Trail
    held: Callable[[], Awaitable[None]]
    app_bytes: int
    consent: Consent
    emit: Emit
    plugins: Plugins = NONE
    asking: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(ASKS))

    async def answer(self, ask: AppAsk, toolbox: Toolbox, connection: Connection) -> dict[str, Any]:
        """Return what is answered.

        Raises:
            ChatError: It came to nothing.
        """
        match ask:
            case ReadApp(tool=tool):
                return await self.view(connection, tool)
            case ReadForApp(tool=tool, uri=uri):
                return await self.read(connection, tool, uri)
            case CallForApp():
                return await self.call(toolbox, connection, ask)

    async def view(self, connection: Connection, tool_name: str) -> dict[str, Any]:
        """Read a tool's app and keep it for a while.

        Raises:
            NotFound: The tool has none.
            AppUnusable: What the server has for it is none.
            ServerUnavailable: The server does not answer.
        """
        uri = _shower(connection, tool_name).face.uri
        answer = await self._resource(connection, uri)
        text = VIEW.dump_json(view_of(answer, uri, limit=self.app_bytes)).decode()
        await self.papers.put(self.user, "app", tool_name, text, seconds=VIEW_SECONDS, epoch=self.epoch)
        return {"kept": tool_name}

    async def read(self, connection: Connection, tool_name: str, uri: str) -> dict[str, Any]:
        """Return a resource of the app's own server as the protocol has it.

        Raises:
            NotFound: The tool has no app.
            InvalidRequest: The resource is too large.
        """
        _shower(connection, tool_name)
        answer = await self._resource(connection, uri)
        found = {"contents": [_dumped(content) for content in answer.contents]}
        if len(orjson.dumps(found)) > MAX_ANSWER:
            raise InvalidRequest(f"The resource is larger than {MAX_ANSWER} bytes. Ask for less at once.")
        return found

    def _occasion(self, connection: Connection, request_id: str) -> Occasion:
        return Occasion(request_id=request_id, user=self.user, server=server_id(connection.server))

    async def _resource(self, connection: Connection, uri: str) -> mcp.ReadResourceResult:
        """Return a resource as plugins let it be shown."""
        door = OfferDoor(self.plugins, self._occasion(connection, new_id()))
        uri = await door.before_resource(uri)
        return await door.after_resource(uri, await connection.ask(lambda client: client.read_resource(uri)))

    async def call(self, toolbox: Toolbox, connection: Connection, ask: CallForApp) -> dict[str, Any]:
        """Call a tool for an app, once, in the way in which the model's calls are made.

        Raises:
            BlockedByPlugin: The call, or all of its result.
            NotFound: There is no such app, or it may not call that tool.
            Interrupted: The call was begun before, or has waited for too long.
            TooManyRequests: There were too many, or too many wait for their user.
        """
        tool = await self._wanted(toolbox, connection, ask)
        door = ToolDoor(self.plugins, self._occasion(connection, ask.key))
        seen = partial(door.before, ask.key, tool.remote_name, server=connection.server)
        ask = await self._looked_at(connection, ask, seen)
        leave = await self._seen_again(await self._leave(tool, toolbox, ask), seen)
        await self.held()
        leave = await self.consent.use(leave, self.emit)
        if leave.refusal:
            await self._note(connection, None, ask, leave.refused, 0, leave.by)
            return _answer(ToolResult(text=leave.refusal.text, failed=True))
        if leave.question or leave.choice:  # it has waited for its user, and not for us
            ask = replace(ask, at=time.time(), arguments=leave.args)
        await self._begin(ask)
        look = partial(door.after, ask.key, tool.remote_name, server=connection.server)
        return _answer(leave.told(await self._call(toolbox, connection, tool, ask, leave, look)))

    async def _wanted(self, toolbox: Toolbox, connection: Connection, ask: CallForApp) -> Tool:
        """Return the tool that an app wants to call."""
        _shower(connection, ask.tool)
        tool = toolbox.for_app(connection.server.alias, ask.name)
        if tool is None:
            await self._note(connection, None, ask, "unknown_tool", 0)
            raise NotFound("The app may not call a tool of this name.")
        return tool

    async def _looked_at(self, connection: Connection, ask: CallForApp, seen: Seen) -> CallForApp:
        """Return a call with the arguments that plugins leave it."""
        try:
            return replace(ask, arguments=await seen(ask.arguments))
        except BlockedByPlugin as blocked:
            await self._note(connection, None, ask, blocked.code, 0)
            raise

    async def _seen_again(self, leave: Leave, seen: Seen) -> Leave:
        try:
            return await seen_again(leave, seen)
        except BlockedByPlugin as blocked:
            return refused(leave, blocked)

    async def _begin(self, ask: CallForApp) -> None:
        """Take down that a call is made; an owner that comes later does not make it again."""
        if time.time() - ask.at > PATIENCE:
            raise Interrupted("The call has waited for too long and was not made. Please try again.")
        try:
            begun = await self.papers.put(
                self.user, "app_call", ask.key, "", seconds=CALL_SECONDS, version=0, epoch=self.epoch
            )
        except TooLarge:
            raise TooManyRequests(
                "Apps have made too many calls for you. Please try again later.", retry_after=PATIENCE
            ) from None
        if begun is None:
            raise Interrupted("The call was begun before, and whether it took effect is not known.")

    async def _leave(self, tool: Tool, toolbox: Toolbox, ask: CallForApp) -> Leave:
        """Return the leave for a call, as for the model's calls; only some wait for their user at a time."""
        call = ToolCall(id=ask.key, name=tool.name, args=ask.arguments)
        box, asker = AppBox(toolbox, tool.alias), AppAsker()
        asks = self.consent.on and box.verdict(tool) == "ask"
        try:
            if asks:
                self.asking.acquire_on_behalf_of_nowait(asker)
        except anyio.WouldBlock:
            raise TooManyRequests(
                "Other calls of apps wait for you already. Decide about those first.", retry_after=PATIENCE
            ) from None
        try:
            return await self.consent.of(call, box, asker, self.emit, resumed=True, under_way=False)
        finally:
            if asks:
                self.asking.release_on_behalf_of(asker)

    async def _call(
        self, toolbox: Toolbox, connection: Connection, tool: Tool, ask: CallForApp, leave: Leave, look: Look
    ) -> ToolResult:
        began, outcome = time.monotonic(), "unknown"
        try:
            definition, place, talk = leave.definition, leave.place, AppTalk(look)
            result = await toolbox.call(
                tool.name, ask.arguments, talk, definition=definition, place=place, by_app=True
            )
            outcome = "failed" if result.failed else "succeeded"
        finally:
            with anyio.CancelScope(shield=True):
                ms = round((time.monotonic() - began) * 1000)
                await self._note(connection, tool, ask, outcome, ms, leave.by)
        return result

    async def _note(
        self,
        connection: Connection,
        tool: Tool | None,
        ask: CallForApp,
        outcome: str,
        ms: int,
        by: By = "policy",
    ) -> None:
        deed = Deed(
            action="app_call",
            decision="allowed" if tool else "refused",
            by=by,
            server=connection.server.alias,
            tool=tool.name if tool else "",
            arguments=digest(ask.arguments),
            outcome=outcome,
            ms=ms,
        )
        await self.trail.note([deed])


async def served(command: Consult, ask: AppAsk, equipment: Equipment, work: AppWork) -> Consulted:
    """Carry out what is asked for an app.

    Raises:
        ChatError: It came to nothing.
    """
    connection = await equipment.connection(command.alias)
    _, toolbox = await equipment.prepare()
    return Consulted(result=await work.answer(ask, toolbox, connection))


def _shower(connection: Connection, tool_name: str) -> Tool:
    """Return a tool that has an app which may be shown.

    Raises:
        NotFound: There is none.
    """
    tool = find(connection.tools, tool_name)
    if tool is None or not (tool.face.uri and connection.server.apps):
        raise NotFound(NO_APP)
    return tool


def _dumped(content: mcp.TextResourceContents | mcp.BlobResourceContents) -> Any:
    return content.model_dump(mode="json", by_alias=True, exclude_none=True)


def _answer(result: ToolResult) -> dict[str, Any]:
    """Return a result as the protocol has it, without its files."""
    found: dict[str, Any] = {"content": [{"type": "text", "text": result.text}], "isError": result.failed}
    return found if result.structured is None else {**found, "structuredContent": result.structured}
