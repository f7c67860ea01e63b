"""A user's conversations at their owner: written, summed up, cleared and erased."""

from __future__ import annotations

from functools import partial

import structlog

from mcp_chat.agent import Agent
from mcp_chat.events import Entry, TurnStarted, is_final
from mcp_chat.exceptions import ChatError
from mcp_chat.scribe import Scribe
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
            fresh=self._fresh,
        )

    async def log(self) -> list[Entry]:
        """Return all that the user's log has."""
        entries: list[Entry] = []
        while page := await self._shop.store.log.read(self._user, entries[-1].id if entries else START):
            entries += page
        return entries

    async def sum_up(self, session_id: str, archive: Archive, agent: Agent) -> None:
        """Sum up what the next turn will not be shown; nobody waits for it, and a failure costs nothing."""
        if session_id in self._summing:
            return
        self._summing.add(session_id)
        try:
            session = await self._record.session(self._user, session_id)
            if session:
                say = partial(agent.sum_up, TASK)
                await sum_up(archive, self._user, session, self._shop.budget, say, self._epoch)
        except ChatError as error:
            log.warning("summary.failed", user=self._user, error=error.code)
        except Exception:  # nobody waits for it, and nobody is to suffer from it
            log.exception("summary.crashed", user=self._user)
        finally:
            self._summing.discard(session_id)

    async def clear_windows(self, session_id: str) -> None:
        """Clear the windows of the user's conversations, this one among them; the archive keeps them.

        Args:
            session_id: Empty if it is not known.
        """
        archive = self._shop.archive
        recent = await archive.sessions(self._user, limit=WINDOWS) if archive else []
        for each in {session_id, *(session.id for session in recent)} - {""}:
            await self._record.clear(self._user, each, epoch=self._epoch)

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
