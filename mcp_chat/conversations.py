"""A user's conversations at their owner: written, summed up, cleared and erased."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial

import structlog

from mcp_chat.agent import Agent
from mcp_chat.events import Entry, TurnStarted, is_final
from mcp_chat.exceptions import ChatError, StoreUnavailable
from mcp_chat.message import new_id
from mcp_chat.meter import Meter
from mcp_chat.models.answer import Answer
from mcp_chat.models.base import Piece, Request
from mcp_chat.plugins.base import Occasion
from mcp_chat.plugins.doors import ModelDoor
from mcp_chat.scribe import Scribe
from mcp_chat.spent import Spent
from mcp_chat.stores.base import START, Archive, Lease
from mcp_chat.summary import TASK, sum_up
from mcp_chat.workshop import Workshop

log = structlog.get_logger()

WINDOWS = 100
"""Conversations, the ones used last first, whose windows a disconnect clears; the others' have expired."""


class Conversations:
    """What was said to and by one user.

    Args:
        lease: The user and the epoch.
        workshop: Has the record and the log.
    """

    def __init__(self, lease: Lease, workshop: Workshop) -> None:
        self._user = lease.user
        self._epoch = lease.epoch
        self._shop = workshop
        self._record = workshop.history.record
        self._fresh: set[str] = set()
        self._summing: set[str] = set()

    def scribe(self, session_id: str, backend: str) -> Scribe:
        """Return what writes a session's messages."""
        return Scribe(
            record=self._record,
            user=self._user,
            session_id=session_id,
            epoch=self._epoch,
            backend=backend,
            quota=self._shop.upload_quota,
            fresh=self._fresh,
        )

    async def log(self) -> list[Entry]:
        """Return all that the user's log has."""
        entries: list[Entry] = []
        while page := await self._shop.store.log.read(self._user, entries[-1].id if entries else START):
            entries += page
        return entries

    async def sum_up(self, session_id: str, archive: Archive, agent: Agent, meter: Meter) -> None:
        """Sum up what the next turn will not be shown; nobody waits for it."""
        if session_id in self._summing:
            return
        self._summing.add(session_id)
        try:
            session = await self._record.session(self._user, session_id)
            if session:
                occasion = Occasion(request_id=f"summary-{new_id()}", user=self._user, session_id=session_id)
                say = partial(_said, agent, meter, ModelDoor(self._shop.plugins, occasion, hold="answer"))
                budget = agent.window.fitted(self._shop.budget)
                await sum_up(archive, self._user, session, budget, say, self._epoch)
        except ChatError as error:
            log.warning("summary.failed", user=self._user, error=error.code)
        except Exception:  # nobody waits for it, and nobody is to suffer from it
            log.exception("summary.crashed", user=self._user)
        finally:
            self._summing.discard(session_id)

    async def adopt(self, user_id: str, session_id: str) -> None:
        """Take over what a gateway has kept; if that fails now, the next connect tries again."""
        try:
            await self._shop.history.adopt(user_id, session_id=session_id, epoch=self._epoch)
        except StoreUnavailable:
            log.warning("history.not_adopted", user=self._user)

    async def clear_windows(self, session_id: str) -> None:
        """Clear the windows of the user's conversations, this one among them; the archive keeps them.

        Args:
            session_id: Empty if it is not known.
        """
        archive = self._shop.archive
        recent = await archive.sessions(self._user, limit=WINDOWS) if archive else []
        for each in {session_id, *(session.id for session in recent)} - {""}:
            await self._record.clear(self._user, each, epoch=self._epoch)

    async def switch(self, session_id: str, message_id: str) -> None:
        """Show the branch of a session that a message is in.

        Raises:
            MessageMoved: There is no such message.
        """
        self._fresh.discard(session_id)
        await self._record.switch(self._user, session_id, message_id, epoch=self._epoch)

    async def erase(self, session_id: str) -> bool:
        """Take a session out of the record; tell whether there was one."""
        self._fresh.discard(session_id)
        return await self._record.delete(self._user, session_id, epoch=self._epoch)

    async def erase_log(self, session_id: str, awaited: set[str]) -> set[str]:
        """Take what was said in a session out of the log, and return its turns.

        Args:
            awaited: Turns whose ends stay: somebody waits for them.
        """
        entries = await self.log()
        turns = {
            entry.command_id
            for entry in entries
            if isinstance(entry.event, TurnStarted) and entry.event.session_id == session_id
        }
        said = [
            entry
            for entry in entries
            if entry.command_id in turns and not (entry.command_id in awaited and is_final(entry.event))
        ]
        await self._shop.store.log.erase(self._user, said, turns - awaited, epoch=self._epoch)
        return turns


class _Purse:
    """Pays for a summary, and has plugins look at it; see `mcp_chat.agent.Purse`.

    Args:
        meter: Counts what it costs.
        door: Where plugins look.
    """

    def __init__(self, meter: Meter, door: ModelDoor) -> None:
        self._meter = meter
        self._door = door

    async def allow(self, request: Request, answer: Answer, model: str) -> Request:
        """See that a model may be asked."""
        return await self._meter.allow(await self._door.asked(request), answer, model)

    def answered(self, pieces: AsyncGenerator[Piece], hear: Callable[[Piece], None]) -> AsyncGenerator[Piece]:
        """Return what a model says as it may be kept."""
        return self._door.answered(pieces, hear)


async def _said(agent: Agent, meter: Meter, door: ModelDoor, name: str, text: str) -> tuple[str, Spent]:
    """Ask for a summary and count what it cost."""
    summary, usage = await agent.sum_up(TASK, text, _Purse(meter, door))
    spent = meter.aside(name, usage)
    return summary, spent
