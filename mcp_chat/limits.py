"""What an MCP server and a model may send us; the numbers are those of the settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one MCP server may send.

    Attributes:
        tools: Tools of a connection; a server that lists more is not connected to.
        tool_bytes: One tool's name, its description as the model is shown it, and its schemas.
        tools_bytes: The same of all tools of a connection together.
        schema_depth: Objects and lists of a schema within each other.
        result_bytes: What one call gives, before it is shortened for the model.
        event_bytes: One event of an event stream.
        answer_bytes: An HTTP answer that is no event stream.
    """

    tools: int = 256
    tool_bytes: int = 65_536
    tools_bytes: int = 2_097_152
    schema_depth: int = 32
    result_bytes: int = 1_048_576
    event_bytes: int = 2_097_152
    answer_bytes: int = 8_388_608


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a model may say at once.

    Attributes:
        calls: Tool calls of one message.
        message_bytes: What one message says, thoughts and arguments of calls included.
    """

    calls: int = 64
    message_bytes: int = 1_048_576
