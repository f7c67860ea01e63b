"""Files that go with messages: sent as they are, and given back to their owner only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import UnsupportedBody, media_type, patience_for, read_bytes
from mcp_chat.api.bulk import Bulk
from mcp_chat.api.identity import Identity, require_user
from mcp_chat.exceptions import InvalidRequest, NoArchive, NotFound, TooLarge
from mcp_chat.kinds import KINDS, clean_name
from mcp_chat.message import ID, Part
from mcp_chat.stores.base import Archive
from mcp_chat.upload import Upload

MISSING = "This file does not exist."

PRIVATE = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cache-control": "private, max-age=31536000, immutable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploads:
    """The endpoints of files.

    Attributes:
        max_upload: Bytes of a file.
        upload_quota: Bytes of all files of one user.
        bulk: Lets few files of one user come at a time.
    """

    identity: Identity
    archive: Archive | None
    max_upload: int
    upload_quota: int
    bulk: Bulk

    async def put(self, request: Request) -> Response:
        """Keep the body as a file; the same file again is the same."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        archive = archive_of(self.archive)
        kind = media_type(request)
        if kind not in KINDS:
            raise UnsupportedBody(f"Files can be of these types: {', '.join(KINDS)}.")
        with self.bulk.place(user.key):
            upload = Upload(
                name=clean_name(request.query_params.get("name", "")) or KINDS[kind][0],
                media_type=kind,
                content=await self._content(request, kind),
            )
            part = await archive.put_upload(user.key, upload, quota=self.upload_quota)
        return JSONResponse(_shown(part), 201)

    async def delete(self, request: Request) -> Response:
        """Delete a file; the messages that it went with go on naming it."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        upload_id = request.path_params["upload_id"]
        if not await archive_of(self.archive).delete_upload(user.key, upload_id):
            raise NotFound(MISSING)
        return JSONResponse({"status": "deleted", "upload_id": upload_id})

    async def get(self, request: Request) -> Response:
        """Give a file back to its owner; only images are shown in a page, and nothing in them runs."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        archive = archive_of(self.archive)
        upload_id = request.path_params["upload_id"]
        upload = await archive.upload(user.key, upload_id) if re.fullmatch(ID, upload_id) else None
        if upload is None:
            raise NotFound(MISSING)
        kind = "inline" if upload.media_type.startswith("image/") else "attachment"
        headers = {**PRIVATE, "content-disposition": disposition(kind, upload.name)}
        return Response(upload.content, media_type=upload.media_type, headers=headers)

    async def _content(self, request: Request, kind: str) -> bytes:
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > self.max_upload:
            raise TooLarge(f"The file is larger than {self.max_upload} bytes.")
        content = await read_bytes(request, limit=self.max_upload, seconds=patience_for(self.max_upload))
        if not content:
            raise InvalidRequest("The file is empty.")
        if not KINDS[kind][1](content):
            raise InvalidRequest(f"What is in the file is not {kind}.")
        return content


def archive_of(archive: Archive | None) -> Archive:
    """Return the archive that an operation cannot do without.

    Raises:
        NoArchive: There is none.
    """
    if archive is None:
        raise NoArchive
    return archive


async def parts_of(archive: Archive | None, user: str, ids: Sequence[str]) -> tuple[Part, ...]:
    """Return what a message has of its attachments, each once.

    Raises:
        NoArchive: There is nowhere to look.
        InvalidRequest: One of them is not the user's.
    """
    if not ids:
        return ()
    known = {part.upload_id: part for part in await archive_of(archive).parts(user, ids)}
    for upload_id in ids:
        if upload_id not in known:
            raise InvalidRequest(f"The attachment {upload_id} does not exist. Upload it again.")
    return tuple(known[upload_id] for upload_id in dict.fromkeys(ids))


def disposition(kind: str, name: str) -> str:
    """Return the header that tells a browser what to do with a file, and how it is called (RFC 6266)."""
    plain = re.sub(r'[^ -~]|["\\%]', "_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _shown(part: Part) -> dict[str, str | int]:
    return {
        "upload_id": part.upload_id,
        "name": part.name,
        "media_type": part.media_type,
        "size": part.size,
    }
