"""What is said in a message's content, whatever form a provider or LangChain has for it.

Everything here is pure. `delta` is for models that speak OpenAI's chat completions, whoever reads the lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TEXTS = frozenset({"text", "text_delta", "output_text", "refusal"})
"""Types of blocks that are for the user; a refusal is one, as its text says."""
THOUGHTS = frozenset({"thinking", "thinking_delta", "reasoning", "reasoning_content", "reasoning_text"})
"""Types of blocks in which a model thinks aloud."""

_TEXT_KEYS = ("text", "refusal")
_THOUGHT_KEYS = ("thinking", "summary", "reasoning", "reasoning_content", "text", "content")
_ALOUD = ("reasoning_content", "reasoning", "reasoning_text", "reasoning_details")
"""Under these names servers say what their models think: DeepSeek, vLLM, Qwen, Kimi; OpenRouter, Groq."""


class Said(NamedTuple):
    """What is said in one content or delta.

    Attributes:
        refused: Whether the text is the model's refusal.
    """

    text: str = ""
    thought: str = ""
    refused: bool = False


NOTHING = Said()
BREAK = "\n\n"


def said(content: Any) -> Said:
    """Return what a content says: a text, or a list of texts and blocks."""
    if isinstance(content, str):
        return Said(content)
    if not isinstance(content, Sequence) or not content:
        return NOTHING
    text, thought, refused = [], [], False
    for block in content:
        found = said_in(block)
        text.append(found.text)
        thought.append(found.thought)
        refused |= found.refused
    return Said("".join(text), "".join(thought), refused)


def said_in(block: Any) -> Said:
    """Return what one block says; most kinds are for the provider only, and say nothing."""
    if isinstance(block, str):
        return Said(block)
    if not isinstance(block, Mapping):
        return NOTHING
    kind = block.get("type", "text")
    if kind in TEXTS:
        return Said(_first(block, _TEXT_KEYS), refused=kind == "refusal")
    return Said(thought=_first(block, _THOUGHT_KEYS)) if kind in THOUGHTS else NOTHING


def delta(delta: Mapping[str, Any]) -> Said:
    """Return what a delta of OpenAI's chat completions says, or a message of one that does not stream."""
    found = said(delta.get("content"))
    thought = aloud(delta)
    refusal = delta.get("refusal")
    if not thought and not isinstance(refusal, str):
        return found
    refused = isinstance(refusal, str) and refusal != ""
    return Said(found.text + (refusal or ""), found.thought + thought, refused or found.refused)


def aloud(fields: Mapping[str, Any]) -> str:
    """Return what a model thinks where servers say it beside the content; encrypted thoughts say nothing."""
    return _first(fields, _ALOUD)


def _first(block: Mapping[str, Any], names: Sequence[str]) -> str:
    """The first of a block's values that says something: a text, a block, or a list of them."""
    for name in names:
        if name in block and (text := _flat(block[name])):
            return text
    return ""


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return _first(value, ("text", "summary", *_ALOUD)) or _opening(value)
    if not isinstance(value, Sequence):
        return ""
    between = BREAK if len(value) > 1 and _is_summary(value[0]) else ""
    return between.join(map(_flat, value))


def _opening(part: Mapping[str, Any]) -> str:
    """Each further part of a summary begins a paragraph; it is told of before it says anything."""
    return BREAK if _is_summary(part) and part.get("index") else ""


def _is_summary(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "summary_text"
