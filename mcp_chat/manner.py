"""How one conversation is answered: what its user has set for it, kept in its context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

SYSTEM_PROMPT, TEMPERATURE, MODEL = "system_prompt", "temperature", "model"
KEYS: Final = (SYSTEM_PROMPT, TEMPERATURE, MODEL)
"""The keys of a context that are settings."""

LONGEST_PROMPT = 16_000
"""Characters of a system prompt."""
HOTTEST = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a conversation is answered.

    Attributes:
        system_prompt: What the model is told first; None for the installation's own, empty for nothing.
        temperature: None for the one of the user's model.
        model: Of the operator's catalogue, as ``provider:model``; empty for the user's model.
    """

    system_prompt: str | None = None
    temperature: float | None = None
    model: str = ""


def manner_of(context: Mapping[str, Any]) -> Manner:
    """Return what a context sets; what cannot be a setting is none."""
    prompt, temperature, model = (context.get(key) for key in KEYS)
    return Manner(
        system_prompt=prompt if isinstance(prompt, str) and len(prompt) <= LONGEST_PROMPT else None,
        temperature=_temperature(temperature),
        model=model if isinstance(model, str) and all(model.partition(":")) else "",
    )


def settings_in(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a context that can be in force: one that was brought along may have others."""
    manner = manner_of(context)
    return {key: context[key] for key in KEYS if key in context and context[key] == getattr(manner, key)}


def _temperature(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= HOTTEST:
        return float(value)
    return None
