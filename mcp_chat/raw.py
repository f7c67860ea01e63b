"""The definitions of tools as they came: the SDK's own models drop what they do not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import mcp_types as mcp
from mcp import Client
from pydantic import ModelWrapValidatorHandler, PrivateAttr, model_validator


class _WholeTool(mcp.Tool):
    """A tool that remembers the object that it was made of."""

    _raw: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _remembering(cls, value: Any, handler: ModelWrapValidatorHandler[_WholeTool]) -> _WholeTool:
        tool = handler(value)
        if isinstance(value, Mapping):
            tool._raw = value
        return tool


class _WholeTools(mcp.ListToolsResult):
    tools: list[_WholeTool]  # type: ignore[assignment]


def keep_raw(client: Client) -> None:
    """Let the tools that a client lists remember what they were made of."""
    session: Any = client.session  # one more attribute of the instance, which the class looks up first
    send = session.send_request

    async def send_request(request: Any, result_type: Any, *args: Any, **options: Any) -> Any:
        wanted = _WholeTools if result_type is mcp.ListToolsResult else result_type
        return await send(request, wanted, *args, **options)

    session.send_request = send_request


def raw_of(tool: mcp.Tool) -> Mapping[str, Any]:
    """Return a tool's definition as it came, or what the SDK has of it."""
    if isinstance(tool, _WholeTool) and tool._raw:
        return tool._raw
    return tool.model_dump(by_alias=True, mode="json", exclude_none=True)


def cut_lists(client: Client, most: int) -> None:
    """Take one tool more than are possible from a page of a list: the SDK makes models of each, twice.

    Args:
        most: Tools that are possible; one more tells that there are too many.
    """
    dispatcher: Any = cast(Any, client.session)._dispatcher
    ask = dispatcher.send_raw_request

    async def send_raw_request(method: str, *args: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await ask(method, *args)
        if method == "tools/list" and isinstance(tools := answer.get("tools"), list):
            return {**answer, "tools": tools[: most + 1]}
        return answer

    dispatcher.send_raw_request = send_raw_request
