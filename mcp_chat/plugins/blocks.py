"""What becomes of what plugins have blocked: an event, and a note in the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mcp_chat.events import Blocked
from mcp_chat.exceptions import BlockedByPlugin, PluginFailed
from mcp_chat.message import Message
from mcp_chat.plugins import hooks
from mcp_chat.session import Session

BLOCKED: Final = "blocked"
"""In the metadata of a message: who has blocked what would have followed, or stood there instead."""

BLOCKED_CALLS: Final = "blocked_calls"
"""In the metadata of a model's message: who has blocked calls of it, by their ids."""


UNSEEN_CALLS: Final = "unseen_calls"
"""In the metadata of a model's message: calls that no plugin could look at: their tools were not there."""


def noted(blocked: BlockedByPlugin) -> dict[str, str]:
    """Return what the history keeps of a block."""
    return {
        "hook": blocked.hook,
        "plugin": blocked.plugin,
        "reason": blocked.reason,
        "code": blocked.violation,
    }


def block_of(note: Any) -> BlockedByPlugin | None:
    """Return the block that a note tells of."""
    match note:
        case {"hook": str(hook), "plugin": str(plugin), "reason": str(reason), "code": str(code)}:
            return BlockedByPlugin(hook=hook, plugin=plugin, reason=reason, violation=code)
    return None


def blocked_calls(message: Message) -> dict[str, BlockedByPlugin]:
    """Return the blocks of a message's calls, by the calls' ids."""
    notes = message.metadata.get(BLOCKED_CALLS)
    found = notes.items() if isinstance(notes, Mapping) else ()
    return {call_id: block for call_id, note in found if (block := block_of(note))}


def with_blocked(message: Message, blocked: Mapping[str, BlockedByPlugin]) -> Message:
    """Return a model's message with a note of its calls that are blocked."""
    if not blocked:
        return message
    notes = {call_id: noted(each) for call_id, each in blocked.items()}
    return replace(message, metadata={**message.metadata, BLOCKED_CALLS: notes})


def unseen_calls(message: Message) -> frozenset[str]:
    """Return the ids of a message's calls that no plugin could look at."""
    return frozenset(map(str, message.metadata.get(UNSEEN_CALLS, ())))


def with_unseen(message: Message, unseen: Sequence[str]) -> Message:
    """Return a model's message with a note of its calls that no plugin could look at."""
    return replace(message, metadata={**message.metadata, UNSEEN_CALLS: list(unseen)}) if unseen else message


def unseen(hook: str) -> BlockedByPlugin:
    """Return the block of a call whose tool was not there when plugins were to look at it, and is now."""
    reason = "The tool was not there when plugins were to look at this call."
    return BlockedByPlugin(hook=hook, plugin="", reason=reason, violation="unseen")


def told_of(blocked: BlockedByPlugin, call_id: str = "") -> Blocked:
    """Return the event that tells of a block."""
    return Blocked(
        hook=blocked.hook,
        plugin=blocked.plugin,
        reason=blocked.reason,
        code=blocked.violation,
        call_id=call_id,
    )


def at(hook: str, blocked: BlockedByPlugin) -> BlockedByPlugin:
    """Return a block as one of this hook: `evaluate` alone does not say what was looked at."""
    return BlockedByPlugin(
        hook=hook, plugin=blocked.plugin, reason=blocked.reason, violation=blocked.violation
    )


def unfit(hook: str) -> BlockedByPlugin:
    """Return the block of what plugins have made into something that cannot be used."""
    reason = "What a plugin has made of this cannot be used."
    return BlockedByPlugin(hook=hook, plugin="", reason=reason, violation="plugin_unusable")


def let_through(session: Session) -> Session:
    """Return a session as a model is shown it: without what plugins have kept from models, and empty answers.

    Else the next turn would come with it again, and be blocked as well.
    """
    messages = session.messages
    dropped = {message.id for message in messages if BLOCKED in message.metadata and _says_nothing(message)}
    for message in messages:
        if turned_away(message):
            dropped |= {each.id for each in _kept_back(message, messages)}
    if not dropped:
        return session
    return replace(session, messages=tuple(message for message in messages if message.id not in dropped))


def _kept_back(note: Message, messages: Sequence[Message]) -> Sequence[Message]:
    """Return what a note keeps from models: what was said into its turn last, if it was that, or the turn."""
    run = [message for message in messages if message.id.startswith(_run(note))]
    said = run[: run.index(note)]
    done = max((place for place, each in enumerate(said, 1) if _done(each, note)), default=0)
    last = said[done:]
    if note.metadata[BLOCKED]["hook"] == hooks.AGENT_PRE and done and last:
        return [*last, note]
    return run


def _done(message: Message, note: Message) -> bool:
    """Tell whether a turn has brought a message about; a prompt said into it may have answers, too."""
    return message.role in ("assistant", "tool") and not message.id.startswith(f"{_run(note)}s")


def _says_nothing(message: Message) -> bool:
    return message.role == "assistant" and not message.content and not message.tool_calls


def _run(message: Message) -> str:
    """Return what the ids of all messages of a turn begin with."""
    return f"{message.id.rpartition('-')[0]}-"


def turned_away(message: Message) -> bool:
    """Tell whether a message says that the question before it was not let through to a model.

    A plugin that has failed, or is not there, has judged nothing: it is asked again with the next one.
    """
    block = block_of(message.metadata.get(BLOCKED))
    judged = (
        block is not None
        and block.hook in hooks.ABOUT_INPUT
        and block.violation != PluginFailed.violation_code
    )
    return message.role == "assistant" and judged
