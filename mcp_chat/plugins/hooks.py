"""The names of the moments at which plugins are asked; docs/plugins.md says when each comes."""

from __future__ import annotations

from typing import Final

AGENT_PRE: Final = "agent_pre_invoke"
AGENT_POST: Final = "agent_post_invoke"
TOOL_PRE: Final = "tool_pre_invoke"
TOOL_POST: Final = "tool_post_invoke"
PROMPT_PRE: Final = "prompt_pre_fetch"
PROMPT_POST: Final = "prompt_post_fetch"
RESOURCE_PRE: Final = "resource_pre_fetch"
RESOURCE_POST: Final = "resource_post_fetch"
LLM_INPUT: Final = "cmf.llm_input"
LLM_OUTPUT: Final = "cmf.llm_output"
CMF_TOOL_PRE: Final = "cmf.tool_pre_invoke"
CMF_TOOL_POST: Final = "cmf.tool_post_invoke"
EVALUATE: Final = "evaluate"
IDENTITY: Final = "identity_resolve"
CHAT_PRE_CONNECT: Final = "chat_pre_connect"
CHAT_POST_CONNECT: Final = "chat_post_connect"
CHAT_PRE_DISCONNECT: Final = "chat_pre_disconnect"
CHAT_EVENT: Final = "chat_event"
CHAT_EXPORT: Final = "chat_export"

OURS: Final = (CHAT_PRE_CONNECT, CHAT_POST_CONNECT, CHAT_PRE_DISCONNECT, CHAT_EVENT, CHAT_EXPORT)
"""Those that the gateway does not have."""

HOOKS: Final = (
    *(AGENT_PRE, AGENT_POST, TOOL_PRE, TOOL_POST, PROMPT_PRE, PROMPT_POST, RESOURCE_PRE, RESOURCE_POST),
    *(LLM_INPUT, LLM_OUTPUT, CMF_TOOL_PRE, CMF_TOOL_POST, EVALUATE, IDENTITY),
    *OURS,
)
"""All that the chat asks at. A plugin may have further ones, which are never asked here."""

WRITABLE: Final[dict[str, frozenset[str]]] = {
    AGENT_PRE: frozenset({"messages", "parameters"}),
    AGENT_POST: frozenset({"messages"}),
    TOOL_PRE: frozenset({"args"}),
    TOOL_POST: frozenset({"result"}),
    PROMPT_PRE: frozenset({"args"}),
    PROMPT_POST: frozenset({"result"}),
    RESOURCE_PRE: frozenset({"uri"}),
    RESOURCE_POST: frozenset({"content"}),
    LLM_INPUT: frozenset({"message"}),
    LLM_OUTPUT: frozenset({"message"}),
    CMF_TOOL_PRE: frozenset({"message"}),
    CMF_TOOL_POST: frozenset({"message"}),
    EVALUATE: frozenset({"message"}),
    IDENTITY: frozenset(),
    **{hook: frozenset() for hook in OURS},
    CHAT_EXPORT: frozenset({"content"}),
}
"""What plugins may change of each payload: another tool's name, say, would get around its user's approval."""

ABOUT_INPUT: Final = frozenset({AGENT_PRE, LLM_INPUT})
"""Hooks that judge what goes to a model. (`evaluate` is one of these or of the model's output.)"""
