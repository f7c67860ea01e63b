"""Keeps what servers send besides text as files of the user's, so that it need not pass through the log."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anyio import to_thread

from mcp_chat.exceptions import NoArchive
from mcp_chat.kinds import kind_or_text
from mcp_chat.message import Part
from mcp_chat.stores.base import Archive
from mcp_chat.unseen import seen
from mcp_chat.upload import Upload

LONGEST_NAME = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """One user's.

    Attributes:
        server: The alias of the server whose files are kept.
        quota: Bytes of all files of the user.
    """

    archive: Archive | None
    user: str
    server: str
    quota: int

    async def keep(self, content: bytes, said: str, uri: str) -> Part:
        """Keep a file, and return what a message has of it.

        Args:
            said: The kind that the server says it to be of.
            uri: What the server calls it.

        Raises:
            NoArchive: There is nowhere to keep it.
            TooLarge: The user's files would have too many bytes.
        """
        if self.archive is None:
            raise NoArchive
        kind = await to_thread.run_sync(kind_or_text, said, content)
        upload = Upload(name=name_of(uri), media_type=kind, content=content)
        part = await self.archive.put_upload(self.user, upload, quota=self.quota)
        return replace(part, server=self.server, uri=uri)


def name_of(uri: str) -> str:
    """Return how a file is called: by the last part of its URI, without signs that cannot be seen."""
    path = uri.partition("?")[0].partition("#")[0].rstrip("/")
    last = path.rsplit("/", 1)[-1].rsplit("\\", 1)[-1]
    name = " ".join("".join(sign for sign in seen(last) if sign.isprintable()).split()).strip(". ")
    return name[-LONGEST_NAME:].strip(". ") or "resource"
