"""Why answers end, in one word for all providers, and what a user is told when nothing was said."""

from __future__ import annotations

from typing import Literal

ENDED = "ended"
"""In the metadata of a model's message: how it ended, if it did not come to its end by itself."""

Ended = Literal["", "length", "content_filter", "refusal"]

_WORDS: dict[str, Ended] = {
    "length": "length",
    "max_tokens": "length",  # Anthropic, Bedrock, Google
    "max_output_tokens": "length",  # OpenAI's Responses API
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "incomplete": "length",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "safety": "content_filter",  # from here on Google
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "image_safety": "content_filter",
    "language": "content_filter",
    "refusal": "refusal",
}

_EMPTY: dict[str, str] = {
    "": "The model gave an empty answer. Please try again.",
    "length": "The model came to its limit of length before it said anything. Ask for less at once.",
    "content_filter": "The provider's content filter held the answer back. Ask in other words.",
    "refusal": "The model refused to answer. Ask in other words.",
}


def ended(word: str) -> Ended:
    """Return a provider's word for the end as ours; empty for an answer that is complete."""
    return _WORDS.get(word.lower(), "")


def nothing_said(how: object) -> str:
    """Return the sentence for an answer in which nothing was said."""
    return _EMPTY.get(str(how), _EMPTY[""])
