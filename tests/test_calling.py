"""One call until its result, with whatever a connection and a user may do meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as mcp
import pytest
from mcp import Client
from mcp.server.mcpserver import MCPServer

from mcp_chat.calling import Calls
from mcp_chat.config import ServerConfig
from mcp_chat.connections import Connection, Held
from mcp_chat.definitions import definition_of
from mcp_chat.desk import CallState
from mcp_chat.exceptions import Fenced, SignInNeeded
from mcp_chat.limits import ServerLimits
from mcp_chat.questions import Answer, Question, Reply
from mcp_chat.tools import Listed, Tool
from tests.mute import Mute

pytestmark = pytest.mark.anyio

SERVER = ServerConfig(alias="s", url="https://mcp.example/mcp")
TOOL = Tool(name="s__once", alias="s", remote_name="once", description="", schema={})
LEAVE = "https://login.example/authorize?x=1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Told(Mute):
    """Answers as it is told, and notes in which order things happen."""

    def __init__(self, action: Reply = "accept", *, fenced: bool = False) -> None:
        super().__init__()
        self.action = action
        self.fenced = fenced
        self.happened: list[str] = []
        self.asked: list[Question] = []
        self.states: list[CallState] = []

    async def ask(
        self, questions: Sequence[Question], state: CallState | None = None, *, own: bool = True
    ) -> dict[str, Answer]:
        if state:
            self.states.append(state)
        self.happened.append("ask")
        self.asked += questions
        return {question.id: Answer(action=self.action) for question in questions}

    async def again(self, state: CallState) -> dict[str, Answer]:
        self.happened.append("again")
        return {id_: Answer(action=self.action) for id_ in state.asked.values()}

    async def keep(self, state: CallState) -> None:
        if self.fenced:
            raise Fenced
        self.happened.append("gone" if state.gone else "keep")
        self.states.append(state)


@asynccontextmanager
async def calls(made: list[str], *, sign_ins: int = 0, seconds: float = 5) -> AsyncIterator[Calls]:
    """The calls of a connection whose server wants some sign-ins first."""
    server = MCPServer("once", log_level="ERROR")

    @server.tool()
    async def once() -> str:
        """Do it."""
        made.append("once")
        return "done"

    left = sign_ins

    async with Client(server) as client:

        async def borrow() -> Client:
            nonlocal left
            left -= 1
            if left >= 0:
                raise SignInNeeded("s", LEAVE)
            return client

        limits = ServerLimits()
        offers = lambda _: True  # noqa: E731 - short
        yield Calls(
            SERVER, borrow, lambda: None, offers=offers, timeout=seconds, limit=seconds, limits=limits
        )


async def test_a_call_is_made_when_its_user_has_signed_in() -> None:
    made: list[str] = []
    talk = Told()
    async with calls(made, sign_ins=2) as each:
        assert (await each.call(TOOL, {}, talk)).text == "done"
    assert [(question.kind, question.server, question.url) for question in talk.asked] == [
        ("sign_in", "s", LEAVE)
    ] * 2
    assert talk.happened == ["ask", "gone"] * 2
    assert made == ["once"]


async def test_a_call_whose_user_does_not_sign_in_is_not_made() -> None:
    made: list[str] = []
    async with calls(made, sign_ins=1) as each:
        found = await each.call(TOOL, {}, Told("decline"))
    assert found.failed
    assert "did not do what the server wants" in found.text
    assert made == []


async def test_signing_in_for_ever_is_given_up() -> None:
    made: list[str] = []
    async with calls(made, sign_ins=1_000) as each:
        found = await each.call(TOOL, {}, Told())
    assert "asked for more and more" in found.text
    assert made == []


async def test_a_call_that_waited_for_a_sign_in_goes_on_at_another_worker() -> None:
    made: list[str] = []
    first, second = Told(), Told()
    async with calls(made, sign_ins=1) as each:
        await each.call(TOOL, {}, first)
        second.state = first.states[0]
        assert (await each.call(TOOL, {}, second)).text == "done"
    assert second.happened == ["again", "gone"]


async def test_a_worker_that_was_locked_out_makes_no_call() -> None:
    made: list[str] = []
    async with calls(made, sign_ins=1) as each:
        with pytest.raises(Fenced):
            await each.call(TOOL, {}, Told(fenced=True))
    assert made == []


@pytest.mark.parametrize("change", [{"place": "elsewhere"}, {"tool": "s__other"}])
async def test_what_a_server_gave_goes_to_no_other_and_to_no_other_tool(change: dict[str, Any]) -> None:
    made: list[str] = []
    first, second = Told(), Told()
    async with calls(made, sign_ins=1) as each:
        await each.call(TOOL, {}, first)
        second.state = CallState(**{**vars_of(first.states[0]), **change})
        assert "somewhere else" in (await each.call(TOOL, {}, second)).text
    assert made == ["once"]
    assert second.happened == []


def vars_of(state: CallState) -> dict[str, Any]:
    """What a state has."""
    return {name: getattr(state, name) for name in CallState.__dataclass_fields__}


FORM = mcp.ElicitRequestFormParams(
    message="?", requested_schema={"type": "object", "properties": {"a": {"type": "string"}}}
)


@asynccontextmanager
async def changing(made: list[str]) -> AsyncIterator[Connection]:
    """A connection whose server has changed its tool since its user accepted it, not open yet."""
    server = MCPServer("once", log_level="ERROR")
    server.add_tool(lambda: made.append("once"), name="once")
    limits = ServerLimits()

    async def admit(found: Sequence[Listed], /) -> Mapping[str, Held]:
        return {"once": Held(definition=definition_of({"name": "once", "title": "Twice"}), difference=())}

    connection = Connection(
        SERVER, lambda *_: Client(server), connect_timeout=5, tool_timeout=5, limits=limits
    )
    await connection.know(
        [Listed(mcp.Tool(name="once", input_schema={"type": "object"}), size=1, fault=None)]
    )
    connection.admit = admit
    try:
        yield connection
    finally:
        await connection.close()


async def test_what_has_changed_while_its_server_was_not_open_is_not_called() -> None:
    made: list[str] = []
    results: list[str] = []

    async def call(connection: Connection) -> None:
        results.append((await connection.call(connection.tools[0], {}, Told())).text)

    async with changing(made) as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(call, connection)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(connection.resume)
        await connection.first_attempt()
        with anyio.fail_after(5):
            await anyio.wait_all_tasks_blocked()
        await connection.close()
    assert (made, len(results)) == ([], 1)
    assert "held back" in results[0]


async def test_what_has_changed_again_meanwhile_stays_held_back() -> None:
    async with changing([]) as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(connection.resume)
        await connection.first_attempt()
        shown = dict(connection.held)
        connection.held = {"once": Held(definition=definition_of({"name": "once", "x": 1}), difference=())}
        connection.accept(shown)
        assert [tool.remote_name for tool in connection.tools] == []
        connection.accept(dict(connection.held))
        assert [tool.remote_name for tool in connection.tools] == ["once"]
        await connection.close()


async def test_a_question_about_no_call_is_refused() -> None:
    async with calls([]) as each, anyio.create_task_group():
        found = await each.elicit(_context(), FORM)
    assert isinstance(found, mcp.ErrorData)
    assert found.message == "No call is under way that this could be about."


def _context() -> Any:
    """Nothing: whoever asks does not matter."""
