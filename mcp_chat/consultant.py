"""Asks one of the user's servers something outside of a turn, and answers with JSON within limits."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import mcp_types as mcp
from anyio import to_thread
from mcp import Client
from mcp_types import InputRequiredResult

from mcp_chat import offers
from mcp_chat.answers import AnswerTooLarge
from mcp_chat.commands import Consult
from mcp_chat.connections import Connection
from mcp_chat.consult import (
    Ask,
    Complete,
    GetPrompt,
    ListPrompts,
    ListResources,
    ListTemplates,
    ReadResource,
    Subscribe,
    Unsubscribe,
)
from mcp_chat.equipment import Equipment
from mcp_chat.events import Consulted
from mcp_chat.exceptions import NotOffered, ServerUnavailable
from mcp_chat.message import wellformed
from mcp_chat.offers import Listing
from mcp_chat.plugins.base import Occasion
from mcp_chat.plugins.offers import OPEN_DOOR, OfferDoor
from mcp_chat.plugins.tools import server_id
from mcp_chat.refusals import UNREADABLE
from mcp_chat.shelf import Shelf
from mcp_chat.workshop import Workshop

T = TypeVar("T")

MOST_PAGES = 50
MOST_MESSAGES = 64
"""Messages of a prompt."""
MOST_TEXT = 131_072
"""Bytes of a prompt's texts, and of a resource's that are shown without being a file."""
MOST_CONTENTS = 16
"""Contents of a resource."""
MOST_VALUES = 100
"""Completions; the protocol allows no more."""


async def consulted(command: Consult, equipment: Equipment, shop: Workshop) -> Consulted:
    """Carry a consultation out.

    Raises:
        ChatError: It came to nothing.
    """
    connection = await equipment.connection(command.alias)
    shelf = Shelf(archive=shop.archive, user=equipment.user, server=command.alias, quota=shop.upload_quota)
    occasion = Occasion(request_id=command.id, user=equipment.user, server=server_id(connection.server))
    door = OfferDoor(shop.plugins, occasion)
    return Consulted(result=await Consultant(connection, shelf, shop.max_upload, door).answer(command.ask))


class Consultant:
    """Asks one server.

    Args:
        connection: The way to it.
        shelf: Keeps what is no text, or too much of it.
        max_file: Bytes of a file.
        door: Where plugins look at prompts and resources.
    """

    def __init__(
        self, connection: Connection, shelf: Shelf, max_file: int, door: OfferDoor = OPEN_DOOR
    ) -> None:
        self._door = door
        self._connection = connection
        self._shelf = shelf
        self._max_file = max_file

    async def answer(self, ask: Ask) -> dict[str, Any]:
        """Return what the server answers.

        Raises:
            NotOffered: It has nothing of this kind.
            ServerRefused: It refuses.
            ServerUnavailable: It does not answer, or without end.
        """
        match ask:
            case ListPrompts():
                return await self._connection.ask(self._prompts)
            case GetPrompt():
                return await self._prompt(ask)
            case Complete():
                return await self._connection.ask(lambda client: self._complete(client, ask))
            case ListResources():
                return await self._connection.ask(self._resources)
            case ListTemplates():
                return await self._connection.ask(self._templates)
            case ReadResource():
                return await self._resource(ask)
            case Subscribe(uri=uri):
                await self._connection.ask(lambda client: self._connection.news.follow(client, uri))
                return {"uri": uri, "subscribed": True}
            case Unsubscribe(uri=uri):
                await self._connection.ask(lambda client: self._connection.news.leave(client, uri))
                return {"uri": uri, "subscribed": False}
            case _:  # what is asked for an app goes another way
                raise NotOffered

    async def _prompts(self, client: Client) -> dict[str, Any]:
        _need(client.server_capabilities.prompts, "prompts")

        async def page(cursor: str | None) -> tuple[Sequence[mcp.Prompt], str | None]:
            found = await client.list_prompts(cursor=cursor)
            return found.prompts, found.next_cursor

        return _listed("prompts", await _all(page, offers.prompt))

    async def _resources(self, client: Client) -> dict[str, Any]:
        _need(client.server_capabilities.resources, "resources")

        async def page(cursor: str | None) -> tuple[Sequence[mcp.Resource], str | None]:
            found = await client.list_resources(cursor=cursor)
            return found.resources, found.next_cursor

        return _listed("resources", await _all(page, offers.resource))

    async def _templates(self, client: Client) -> dict[str, Any]:
        _need(client.server_capabilities.resources, "resources")

        async def page(cursor: str | None) -> tuple[Sequence[mcp.ResourceTemplate], str | None]:
            found = await client.list_resource_templates(cursor=cursor)
            return found.resource_templates, found.next_cursor

        return _listed("templates", await _all(page, offers.template))

    async def _complete(self, client: Client, ask: Complete) -> dict[str, Any]:
        _need(client.server_capabilities.completions, "completions")
        ref: mcp.PromptReference | mcp.ResourceTemplateReference
        if ask.kind == "prompt":
            ref = mcp.PromptReference(name=ask.ref)
        else:
            ref = mcp.ResourceTemplateReference(uri=ask.ref)
        argument = {"name": ask.argument, "value": ask.value}
        found = (await client.complete(ref, argument, dict(ask.context) or None)).completion
        values = [value for value in found.values[:MOST_VALUES] if offers.fits(value)][:MOST_VALUES]
        more = bool(found.has_more) or len(values) < len(found.values)
        return {"values": _within(values, MOST_TEXT), "more": more}

    async def _prompt(self, ask: GetPrompt) -> dict[str, Any]:
        arguments = await self._door.before_prompt(ask.name, dict(ask.arguments))

        async def get(client: Client) -> mcp.GetPromptResult:
            _need(client.server_capabilities.prompts, "prompts")
            return _answered(await client.session.get_prompt(ask.name, arguments, allow_input_required=True))

        found = await self._door.after_prompt(ask.name, await self._connection.ask(get))
        if len(found.messages) > MOST_MESSAGES:
            raise AnswerTooLarge(f"The prompt has more than {MOST_MESSAGES} messages and was not read.")
        messages = [{"role": each.role, **await self._said(each.content)} for each in found.messages]
        if sum(len(each.get("text", "").encode()) for each in messages) > MOST_TEXT:
            raise AnswerTooLarge(f"The prompt is longer than {MOST_TEXT} bytes and was not read.")
        return {"name": ask.name, "description": offers.prose(found.description), "messages": messages}

    async def _said(self, content: mcp.ContentBlock) -> dict[str, Any]:
        """Return what a message of a prompt says: a text, or a file."""
        match content:
            case mcp.TextContent(text=text):
                return {"text": wellformed(text)}
            case mcp.EmbeddedResource(resource=found):
                return {"file": asdict(await self._file(found.uri, found))}
            case mcp.ImageContent(data=data, mime_type=kind) | mcp.AudioContent(data=data, mime_type=kind):
                return {"file": asdict(await self._shelf.keep(await self._decoded(data), kind, content.type))}
            case mcp.ResourceLink(uri=uri, name=name):
                return {"text": f"[resource {offers.prose(name)}: {wellformed(uri)[: offers.LONGEST]}]"}

    async def _resource(self, ask: ReadResource) -> dict[str, Any]:
        uri = await self._door.before_resource(ask.uri)

        async def read(client: Client) -> mcp.ReadResourceResult:
            _need(client.server_capabilities.resources, "resources")
            return _answered(await client.session.read_resource(uri, allow_input_required=True))

        found = (await self._door.after_resource(uri, await self._connection.ask(read))).contents
        if len(found) > MOST_CONTENTS:
            raise AnswerTooLarge(f"The resource has more than {MOST_CONTENTS} parts and was not read.")
        room, contents = 0 if ask.keep else MOST_TEXT, list[dict[str, Any]]()
        for each in found:
            shown, spent = await self._content(ask.uri, each, room)
            contents.append(shown)
            room -= spent
        return {"uri": ask.uri, "contents": contents}

    async def _content(
        self, uri: str, found: mcp.TextResourceContents | mcp.BlobResourceContents, room: int
    ) -> tuple[dict[str, Any], int]:
        """Return one of a resource's contents, and the bytes of the room for texts that it takes."""
        its = found.uri if offers.fits(found.uri) else uri
        if isinstance(found, mcp.TextResourceContents):
            text = wellformed(found.text)
            if (size := len(text.encode())) <= room:
                kind = offers.prose(found.mime_type) or "text/plain"
                return {"uri": its, "media_type": kind, "text": text}, size
        return {"uri": its, "file": asdict(await self._file(uri, found))}, 0

    async def _file(self, uri: str, found: mcp.TextResourceContents | mcp.BlobResourceContents) -> Any:
        its = found.uri if offers.fits(found.uri) else uri
        if isinstance(found, mcp.BlobResourceContents):
            content = await self._decoded(found.blob)
        else:
            content = wellformed(found.text).encode()
        self._check_size(len(content))
        return await self._shelf.keep(content, found.mime_type or "", its[: offers.LONGEST])

    async def _decoded(self, data: str) -> bytes:
        self._check_size(len(data) * 3 // 4 - 2)
        try:
            return await to_thread.run_sync(lambda: base64.b64decode(data, validate=True))
        except (binascii.Error, ValueError):
            raise ServerUnavailable(UNREADABLE) from None

    def _check_size(self, size: int) -> None:
        if size > self._max_file:
            raise AnswerTooLarge(f"The resource is larger than {self._max_file} bytes and was not read.")


def _need(offered: object, what: str) -> None:
    if offered is None:
        raise NotOffered(f"This server has no {what}.")


def _answered(result: T | InputRequiredResult) -> T:
    if isinstance(result, InputRequiredResult):
        raise NotOffered("The server wants to ask something first, which only its tools can do here.")
    return result


async def _all(
    page: Callable[[str | None], Awaitable[tuple[Sequence[T], str | None]]],
    shown: Callable[[T], dict[str, Any] | None],
) -> Listing:
    """Return all pages of a list, or as many as are read: a server may list without end."""
    listing, cursors = Listing(), set[str | None]()
    cursor: str | None = None
    while cursor not in cursors and len(cursors) < MOST_PAGES and not listing.full:
        cursors.add(cursor)
        found, cursor = await page(cursor)
        await to_thread.run_sync(listing.add, map(shown, found))
        cursor = cursor or None
    if cursor is not None:
        listing.full = True
    return listing


def _listed(what: str, listing: Listing) -> dict[str, Any]:
    return {
        what: listing.items,
        "count": len(listing.items),
        "complete": not (listing.full or listing.left_out),
    }


def _within(values: list[str], most: int) -> list[str]:
    """Return the first ones, of so many bytes together."""
    kept: list[str] = []
    for value in values:
        most -= len(value.encode())
        if most < 0:
            break
        kept.append(value)
    return kept
