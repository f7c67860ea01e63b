"""What happens to a user as one stream: on any worker, from any place in the log, in any number of tabs."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from mcp_chat.api.follower import Follower
from mcp_chat.api.identity import Identity, require_user, while_signed_in
from mcp_chat.api.sse import EventStream
from mcp_chat.api.streams import Streams
from mcp_chat.api.transcript import streamed
from mcp_chat.configs import UserConfigs
from mcp_chat.dispatch import Dispatch
from mcp_chat.exceptions import InvalidRequest, NotFound
from mcp_chat.identity import Principal
from mcp_chat.record import Record

PLACE = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """The endpoint and what it works with.

    Attributes:
        max_messages: Messages of a snapshot.
    """

    identity: Identity
    streams: Streams
    dispatch: Dispatch
    configs: UserConfigs
    record: Record
    max_messages: int

    async def stream(self, request: Request) -> Response:
        """Follow a conversation, or all: from the running turn's start, or from where a client was."""
        user = await require_user(request, self.identity, request.query_params.get("user_id"))
        with ExitStack() as held:
            held.enter_context(self.streams.place(user.key))
            follower = await self._follower(request, user)
            proven = while_signed_in(follower.frames(), request, self.identity, user)
            return EventStream(streamed(proven, lambda: follower.place), {}, held.pop_all())

    async def _follower(self, request: Request, user: Principal) -> Follower:
        session_id = request.query_params.get("session_id")
        if session_id is not None:
            await self._check(user, session_id)
        after = place_of(request.headers.get("last-event-id") or request.query_params.get("after"))
        follower = Follower(
            dispatch=self.dispatch,
            configs=self.configs,
            record=self.record,
            max_messages=self.max_messages,
            user=user.key,
            session_id=session_id,
        )
        await follower.start(after)  # before the answer begins: what comes after its head is in it
        return follower

    async def _check(self, user: Principal, session_id: str) -> None:
        config = await self.configs.get(user.key)
        theirs = config is not None and config.session_id == session_id
        if not theirs and not await self.record.exists(user.key, session_id):
            raise NotFound("This conversation does not exist.")


def place_of(text: str | None) -> str | None:
    """Read a place in the log.

    Raises:
        InvalidRequest: It is none.
    """
    if text and not PLACE.fullmatch(text):
        raise InvalidRequest("after must be the id of an event, such as 1763650000000-17.")
    return text or None
