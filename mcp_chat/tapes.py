"""Recordings of one user's turns: which are made, and where they are kept, sealed, for some days."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Literal

import anyio
import anyio.to_thread
import structlog

from mcp_chat.commands import Send
from mcp_chat.events import Failed, Final
from mcp_chat.exceptions import ChatError, NotFound
from mcp_chat.outcomes import question
from mcp_chat.papers import Papers
from mcp_chat.recording import Recording, Tape, read_recording
from mcp_chat.stores.base import Lease

log = structlog.get_logger()

Which = Literal["off", "asked", "failed", "all"]
"""Which turns are recorded: none, those whose users ask for it, those that fail as well, or all."""

RECORDING = "recording"
SECONDS = 7 * 86_400.0

KEEP_LIMIT = 3.0
"""Seconds for a recording to be kept: the end of its turn is told behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tapes:
    """Records one user's turns, at their owner.

    Attributes:
        lease: The user and the epoch.
        papers: Where recordings are kept.
        which: Turns.
    """

    lease: Lease
    papers: Papers
    which: Which

    def begin(self, command: Send, *, model: str, resumed: bool) -> Tape | None:
        """Return a tape for a turn, if it is to be recorded or may be."""
        if self.which == "off" or (self.which == "asked" and not command.record):
            return None
        recording = Recording(
            turn_id=command.id,
            session_id=command.session_id,
            run=command.run,
            model=model,
            question=question(command),
            resumed=resumed,
        )
        return Tape(recording)

    async def keep(self, command: Send, tape: Tape | None, outcome: Final) -> None:
        """Keep the recording of a turn that ends like this; whether that works is no matter of the turn's."""
        if tape is None:
            return
        tape.tell(outcome)
        if not (self.which == "all" or command.record or isinstance(outcome, Failed)):
            return
        with anyio.move_on_after(KEEP_LIMIT) as limit:
            try:
                await self._keep(command.id, tape)
            except ChatError as error:
                log.warning("recording.not_kept", user=self.lease.user, turn=command.id, why=error.code)
            except Exception:  # whatever cannot be recorded, the turn has an end
                log.exception("recording.crashed", user=self.lease.user, turn=command.id)
        if limit.cancelled_caught:
            log.warning("recording.not_kept", user=self.lease.user, turn=command.id, why="timeout")

    async def _keep(self, turn_id: str, tape: Tape) -> None:
        user, epoch = self.lease.user, self.lease.epoch
        text = await anyio.to_thread.run_sync(lambda: packed(tape.written()))
        await self.papers.put(user, RECORDING, turn_id, text, seconds=SECONDS, epoch=epoch)

    async def drop_session(self, session_id: str) -> None:
        """Drop the recordings of a conversation's turns."""
        if self.which == "off":
            return
        for each in await self.papers.all(self.lease.user, RECORDING):
            if await anyio.to_thread.run_sync(_session_of, each.text) == session_id:
                await self.papers.drop(self.lease.user, RECORDING, each.name)


async def recording_of(papers: Papers, user: str, turn_id: str) -> bytes:
    """Return the recording of a turn as JSON.

    Raises:
        NotFound: There is none.
    """
    found = await papers.get(user, RECORDING, turn_id)
    if found is None:
        raise NotFound("There is no recording of this turn. Send a message with `record` to have one made.")
    return await anyio.to_thread.run_sync(unpacked, found.text)


def _session_of(text: str) -> str:
    return read_recording(unpacked(text)).session_id


def packed(text: str) -> str:
    """Return a text in fewer characters."""
    return base64.b85encode(zlib.compress(text.encode())).decode()


def unpacked(text: str) -> bytes:
    """Return what was packed."""
    return zlib.decompress(base64.b85decode(text))
