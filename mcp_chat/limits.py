"""What one MCP server may send us; the numbers are those of the settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one MCP server may send.

    Attributes:
        tools: Tools of a connection; a server that lists more is not connected to.
        tool_bytes: One tool's name, description and schema as the model is shown them.
        schema_depth: Objects and lists of a schema within each other.
        result_bytes: What one call gives, before it is shortened for the model.
        event_bytes: One event of an event stream.
        answer_bytes: An HTTP answer that is no event stream.
    """

    tools: int = 256
    tool_bytes: int = 65_536
    schema_depth: int = 32
    result_bytes: int = 1_048_576
    event_bytes: int = 2_097_152
    answer_bytes: int = 8_388_608
