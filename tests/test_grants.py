"""What was allowed holds for as long as its operator lets it, and what was denied stays denied."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mcp_chat.appask import AppAsker
from mcp_chat.consent import Consent
from mcp_chat.desk import Desk, name_of
from mcp_chat.events import Event
from mcp_chat.grants import Grants, grant_of
from mcp_chat.message import ToolCall
from mcp_chat.papers import Papers
from mcp_chat.questions import Answer, Question
from mcp_chat.stores.memory import MemoryStore
from mcp_chat.talk import Hours, Talks
from mcp_chat.toolbox import Refusal
from mcp_chat.tools import Tool
from mcp_chat.trail import Trail
from mcp_chat.vault import Vault
from mcp_chat.verdicts import Verdict

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def asked(*, always: bool, session_id: str = "s") -> Question:
    return Question(
        kind="approval",
        server="far",
        message="",
        place="there",
        tool="far__send",
        name="send",
        definition="1",
        session_id=session_id,
        choices=("once", "session", "always", "deny") if always else ("once", "session", "deny"),
    )


async def test_what_was_allowed_for_good_holds_as_long_as_the_operator_wants_that() -> None:
    grants = Grants(papers=Papers(MemoryStore().documents, Vault([bytes(32)])), seconds=100)
    await grants.put("ann", grant_of(asked(always=True)))
    assert await grants.find("ann", asked(always=True))
    assert await grants.find("ann", asked(always=False)) is None
    await grants.put("ann", grant_of(asked(always=False), "s"))
    assert await grants.find("ann", asked(always=False))
    assert await grants.find("ann", asked(always=False, session_id="t")) is None
    assert await grants.find("bob", asked(always=True)) is None


class Box:
    """One tool, which needs leave."""

    connections: Mapping[str, Any] = {}

    def tool(self, name: str) -> Tool | None:
        """There is one."""
        return Tool(name=name, remote_name="send", alias="far", description="", schema={})

    def verdict(self, tool: Tool) -> Verdict:
        """Its user is asked."""
        return "ask"

    async def refusal(self, name: str, args: Mapping[str, Any]) -> Refusal | None:
        """Nothing else speaks against it."""
        return None


@pytest.mark.parametrize("answer", [Answer(action="decline", content={"decision": "deny"}), None])
async def test_who_has_denied_a_call_is_not_shown_it_again_by_the_next_owner(answer: Answer | None) -> None:
    store = MemoryStore()
    lease = await store.leases.claim("ann", "w", floor=1, seen=None)
    assert lease
    papers = Papers(store.documents, Vault([bytes(32)]))
    talks = Talks(lease, Desk(papers), Trail(user="ann", worker="w", archive=None), Hours())
    consent = Consent(talks=talks, grants=Grants(papers=papers, seconds=100), on=True)
    call, told = ToolCall(id="c", name="far__send", args={}), list[Event]()
    asked_before = replace(asked(always=True), id=name_of("app", "c"), until=time.time() + 9)
    await talks.desk.put("ann", asked_before, epoch=None)
    if answer:
        await talks.desk.answer("ann", asked_before.id, answer)
    await talks.desk.close("ann", asked_before.id, "expired")
    leave = await consent.of(call, Box(), AppAsker(), told.append, resumed=True, under_way=False)
    assert leave.refused == ("denied" if answer else "expired")
    assert [event.type for event in told] == ["ask_ended"]
    assert leave.choice == ("deny" if answer else None)
