"""The tasks extension: a server that answers a call with a task is asked for its result now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import mcp_types as mcp
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from pydantic import ConfigDict, Field

TASKS = "io.modelcontextprotocol/tasks"
LONGEST_TASK_ID = 1024

Status = Literal["working", "input_required", "completed", "failed", "cancelled"]


class _Task(mcp.Result):
    model_config = ConfigDict(populate_by_name=True)
    task_id: str = Field(alias="taskId", min_length=1, max_length=LONGEST_TASK_ID)
    status: Status
    status_message: str | None = Field(None, alias="statusMessage")
    poll_interval_ms: float | None = Field(None, alias="pollIntervalMs")


class Begun(_Task):
    """A task in place of a call's result."""

    result_type: Literal["task"] = Field(alias="resultType")


class Progressed(_Task):
    """How far a task is: with its result, its error, or what it asks for."""

    result_type: Literal["complete"] = Field("complete", alias="resultType")
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    input_requests: dict[str, mcp.ElicitRequest | mcp.CreateMessageRequest | mcp.ListRootsRequest] | None = (
        Field(None, alias="inputRequests")
    )


class _Named(mcp.RequestParams):
    model_config = ConfigDict(populate_by_name=True)
    task_id: str = Field(serialization_alias="taskId")


class _Answered(_Named):
    input_responses: dict[str, Any] = Field(serialization_alias="inputResponses")


class _Get(mcp.Request[_Named, Literal["tasks/get"]]):
    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: _Named


class _Cancel(mcp.Request[_Named, Literal["tasks/cancel"]]):
    name_param = "taskId"
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: _Named


class _Update(mcp.Request[_Answered, Literal["tasks/update"]]):
    name_param = "taskId"
    method: Literal["tasks/update"] = "tasks/update"
    params: _Answered


class Tasks(ClientExtension):
    """Says that tasks are understood here; `mcp_chat.calling` follows them."""

    identifier = TASKS

    def claims(self) -> Sequence[ResultClaim[Any]]:
        """Return the one further form that a call's result may have."""
        return [ResultClaim(result_type="task", model=Begun, resolve=_nobody)]


async def _nobody(_begun: Begun, _context: ClaimContext) -> NoReturn:
    raise NotImplementedError("A call that may become a task goes through mcp_chat.calling.")


async def get(client: Client, task_id: str) -> Progressed:
    """Return how far a task is.

    Raises:
        MCPError: The server does not know it, or the connection is gone.
    """
    return await client.session.send_request(_Get(params=_Named(task_id=task_id)), Progressed)


async def update(client: Client, task_id: str, responses: Mapping[str, Any]) -> None:
    """Give a task what it has asked for."""
    params = _Answered(task_id=task_id, input_responses=dict(responses))
    await client.session.send_request(_Update(params=params), mcp.Result)


async def cancel(client: Client, task_id: str) -> None:
    """Tell the server that nobody wants the task any more."""
    await client.session.send_request(_Cancel(params=_Named(task_id=task_id)), mcp.Result)
