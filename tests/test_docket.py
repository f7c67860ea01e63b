"""What an owner has to do: commands come in once, whatever the record's state."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mcp_chat.commands import Command, Send
from mcp_chat.docket import Docket
from mcp_chat.exceptions import StoreUnavailable
from mcp_chat.stores.base import Accepted, Archive
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.writer import EventWriter

pytestmark = pytest.mark.anyio


class Away:
    """A record that does not answer the first time."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._asked = False

    async def accepted(self, user: str, command_id: str) -> Accepted:
        if not self._asked:
            self._asked = True
            raise StoreUnavailable
        return Accepted(id=command_id, command=self._command)


async def test_a_command_that_came_while_the_record_was_away_is_taken_up_when_it_is_back() -> None:
    store = MemoryStore()
    lease = await store.leases.claim("ann", "w", floor=1, seen=None)
    assert lease
    command = Send(session_id="s", text="hello")
    await store.inbox.put("ann", command, limit=9)
    archive = cast(Archive, cast(Any, Away(command)))
    docket = Docket(lease, store, archive, EventWriter(store.log, lease))
    with pytest.raises(StoreUnavailable):
        await docket.look()
    assert docket.waiting == []
    assert await docket.look()
    assert docket.waiting == [command]
    assert not await docket.look()
