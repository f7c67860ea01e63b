"""What users have allowed beyond one call: a tool as it is described, in one conversation or in all."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from typing import Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from mcp_chat.papers import Papers
from mcp_chat.questions import Question
from mcp_chat.stores.documents import Document

KIND = "grant"

RENEWED = 0.1
"""The part of its time after which a grant that is used is renewed: not each use is a write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A user's leave for a tool.

    Attributes:
        server: The alias of the server, for people.
        place: Which server it is.
        tool: The tool's name in conversations, for people.
        name: Its name at the server.
        definition: The hash of what the server says of it: of another definition nothing is allowed.
        session_id: The conversation that it is for; empty if for all.
        made: When it was given, in seconds since 1970.
        until: When it ends unless it is used.
    """

    server: str
    place: str
    tool: str
    name: str
    definition: str
    session_id: str = ""
    made: float = field(default_factory=time.time, compare=False)
    until: float = field(default=0.0, compare=False)

    @property
    def id(self) -> str:
        """Names it: the same leave given twice is one."""
        what = [self.place, self.name, self.definition, self.session_id]
        return hashlib.sha256(orjson.dumps(what)).hexdigest()[:32]

    @property
    def kind(self) -> Literal["session", "always"]:
        """How far it goes."""
        return "session" if self.session_id else "always"

    def covers(self, question: Question) -> bool:
        """Tell whether a call needs no other leave."""
        return bool(self.definition) and self in (grant_of(question), grant_of(question, question.session_id))


_GRANT: TypeAdapter[Grant] = TypeAdapter(Grant)


def grant_of(question: Question, session_id: str = "") -> Grant:
    """Return the leave for all calls of the tool that a user is asked about."""
    return Grant(
        server=question.server,
        place=question.place,
        tool=question.tool,
        name=question.name,
        definition=question.definition,
        session_id=session_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """Keeps the grants of all users, sealed.

    Attributes:
        seconds: For which one holds after its last use.
    """

    papers: Papers
    seconds: float

    async def put(self, user: str, grant: Grant) -> None:
        """Keep a grant.

        Raises:
            TooLarge: There are too many already.
        """
        await self._put(user, grant)

    async def find(self, user: str, question: Question) -> Grant | None:
        """Return the grant by which a call needs no leave of its own, and let it hold on."""
        if not question.definition:
            return None
        sessions = [question.session_id] if question.session_id else []
        always = [""] if "always" in question.choices else []  # the operator may have said so since
        for session_id in [*sessions, *always]:
            found = await self.papers.get(user, KIND, grant_of(question, session_id).id)
            grant = _read(found) if found else None
            if found and grant and grant.covers(question):
                if grant.until - time.time() < self.seconds * (1 - RENEWED):
                    await self._put(user, grant, version=found.version)  # unless it was taken back
                return grant
        return None

    async def all(self, user: str) -> list[Grant]:
        """Return a user's grants, the oldest first."""
        found = [_read(each) for each in await self.papers.all(user, KIND)]
        return sorted((each for each in found if each), key=lambda grant: (grant.made, grant.id))

    async def drop(self, user: str, grant_id: str) -> bool:
        """Take a grant back; tell whether there was one."""
        return await self.papers.drop(user, KIND, grant_id)

    async def drop_session(self, user: str, session_id: str) -> None:
        """Take back what was granted for a conversation."""
        for grant in await self.all(user):
            if grant.session_id == session_id:
                await self.drop(user, grant.id)

    async def drop_place(self, user: str, place: str, name: str | None = None) -> None:
        """Take back what was granted at a server, of all tools or of one."""
        for grant in await self.all(user):
            if grant.place == place and name in (None, grant.name):
                await self.drop(user, grant.id)

    async def _put(self, user: str, grant: Grant, *, version: int | None = None) -> None:
        text = _GRANT.dump_json(replace(grant, until=time.time() + self.seconds)).decode()
        await self.papers.put(user, KIND, grant.id, text, seconds=self.seconds, version=version)


def _read(found: Document) -> Grant | None:
    try:
        return _GRANT.validate_json(found.text)
    except ValidationError:  # of another version
        return None
