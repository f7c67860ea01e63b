"""The doors of a turn: what goes to its model and comes from it, and to and from its tools."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import BlockedByPlugin
from mcp_chat.message import Message, new_id
from mcp_chat.models.base import Piece, Request
from mcp_chat.plugins import forms, hooks
from mcp_chat.plugins.base import NONE, Occasion, Plugins
from mcp_chat.plugins.blocks import at, unfit
from mcp_chat.plugins.held import Hear, Whole, cut_of, heard, held, nothing
from mcp_chat.plugins.tools import ToolDoor, server_id
from mcp_chat.upload import Upload

OUTPUT = frozenset({hooks.LLM_OUTPUT, hooks.EVALUATE})

MOST = 2**22
"""Bytes of an answer that are held back at most, if nothing else is said."""

Today = Callable[[], Awaitable[Mapping[str, float]]]
"""Tells what a user has used since midnight: tokens, dollars and calls."""

TELLING_ROLES = ("system", "user", "assistant")


class AgentDoor:
    """The hooks around a turn.

    Args:
        plugins: The operator's.
        occasion: The turn.
    """

    def __init__(self, plugins: Plugins, occasion: Occasion) -> None:
        self._plugins = plugins
        self._occasion = occasion
        self._texts: dict[str, str] = {}
        self._dropped: set[str] = set()
        self._added: list[Message] = []
        self._fields: Mapping[str, Any] = {}
        self._today: Today | None = None

    @property
    def holds(self) -> bool:
        """Whether an answer must be seen as a whole before anybody is told of it."""
        return hooks.AGENT_POST in self._plugins.changing

    async def before(
        self,
        messages: Sequence[Message],
        *,
        servers: Sequence[ServerConfig],
        tools: Sequence[str],
        model: str,
        temperature: float | None,
        today: Today,
    ) -> tuple[list[Message], float | None]:
        """Return what the model is shown, and how warm it is to be.

        Args:
            today: Tells what the user has used since midnight.

        Raises:
            BlockedByPlugin: The turn is not to be.
        """
        if len(servers) == 1:  # else a turn is at no server of its own
            self._occasion.server = server_id(servers[0])
        if hooks.AGENT_PRE not in self._plugins.hooks:
            return list(messages), temperature
        self._today = today
        await self._renew()
        system = next((message.content for message in messages if message.role == "system"), None)
        fields = {
            "agent_id": forms.AGENT,
            "tools": list(tools),
            "model": model or None,
            "system_prompt": system,
            "parameters": {} if temperature is None else {"temperature": temperature},
        }
        changed = await self._asked(fields, messages)
        warmth = changed.get("parameters", {}).get("temperature", temperature)
        return self.shown(messages), warmth if isinstance(warmth, int | float) else temperature

    async def joined(self, messages: Sequence[Message]) -> list[Message]:
        """Return what the user has said into the turn as the model is shown it.

        Raises:
            BlockedByPlugin: The turn does not go on.
        """
        if not messages or hooks.AGENT_PRE not in self._plugins.hooks:
            return list(messages)
        known = len(self._added)
        await self._renew()
        await self._asked(self._fields, messages)
        return [*self._added[known:], *self._own(messages)]

    async def _renew(self) -> None:
        """Have plugins know what the user has used until now."""
        if self._today:
            self._occasion.details = {**self._occasion.details, "today": await self._today()}

    async def _asked(self, fields: Mapping[str, Any], messages: Sequence[Message]) -> Mapping[str, Any]:
        self._fields = {**fields, "messages": [forms.for_agent(message) for message in messages]}
        changed = await self._plugins.ask(hooks.AGENT_PRE, self._fields, self._occasion)
        if "messages" in changed:
            self._note(messages, changed["messages"])
        return changed

    def _note(self, messages: Sequence[Message], changed: Sequence[Mapping[str, Any]]) -> None:
        """Take down what plugins have changed: the same holds when the model is shown less."""
        left = {message.id: message for message in messages}
        try:
            for each in changed:
                text, role = forms.agent_text(each), str(each.get("role"))
                own = left.pop(str(each.get("id")), None)
                if own is None and role in TELLING_ROLES:
                    self._added.append(Message(role=role, content=text, id=f"plugin-{new_id()}"))  # type: ignore[arg-type]
                elif own and text != own.content:  # what is as it was may still be shown shorter
                    self._texts[own.id] = text
        except (ValueError, AttributeError):
            raise unfit(hooks.AGENT_PRE) from None
        self._dropped |= set(left)

    def shown(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages as plugins have changed them; what they have added comes first."""
        return [*self._added, *self._own(messages)]

    def _own(self, messages: Sequence[Message]) -> list[Message]:
        kept = [message for message in messages if message.id not in self._dropped]
        return [
            replace(message, content=self._texts[message.id]) if message.id in self._texts else message
            for message in kept
        ]

    async def after(self, whole: Whole) -> str:
        """Return what may be told of an answer that has come to its end.

        Raises:
            BlockedByPlugin: Nothing of it.
        """
        if hooks.AGENT_POST not in self._plugins.hooks:
            return whole.text
        answer = forms.for_agent(Message(role="assistant", content=whole.text, id=self._occasion.request_id))
        calls = _calls(whole)
        fields = {"agent_id": forms.AGENT, "messages": [answer], "tool_calls": calls or None}
        changed = await self._plugins.ask(hooks.AGENT_POST, fields, self._occasion)
        try:
            found = changed.get("messages")
            return whole.text if found is None else "\n\n".join(map(forms.agent_text, found))
        except (ValueError, AttributeError):
            raise unfit(hooks.AGENT_POST) from None


def _calls(whole: Whole) -> list[dict[str, Any]]:
    """Return an answer's tool calls, with what is known of their arguments as text."""
    found: dict[Any, dict[str, Any]] = {}
    for n, piece in enumerate(whole.calls):
        place = ("", n) if piece.index is None else piece.index
        call = found.setdefault(place, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or piece.id
        call["name"] = call["name"] or piece.name
        call["arguments"] += piece.args
    return list(found.values())


class ModelDoor:
    """What goes to a model, and what comes from it.

    Args:
        plugins: The operator's.
        occasion: What the model is asked for.
        hold: What plugins see of an answer at a time.
        most: Bytes of an answer that are held back at most.
        agent: The hooks around the turn; without it there is none.
    """

    def __init__(
        self,
        plugins: Plugins,
        occasion: Occasion,
        *,
        hold: str = "sentence",
        most: int = MOST,
        agent: AgentDoor | None = None,
    ) -> None:
        self._plugins = plugins
        self._occasion = occasion
        self._hold = hold
        self._most = most
        self._agent = agent
        self._seen: dict[tuple[str, str], Message] = {}
        self._files: dict[str, Upload] = {}

    async def asked(self, request: Request) -> Request:
        """Return what the model may be asked; each message is looked at once.

        Raises:
            BlockedByPlugin: It may not be asked this.
        """
        if not self._plugins.hooks & {hooks.LLM_INPUT, hooks.EVALUATE}:
            return request
        messages = [await self._looked_at(each) for each in request.messages]
        files = {name: await self._file(name, upload) for name, upload in request.files.items()}
        return replace(request, messages=messages, files=files)

    async def _file(self, name: str, upload: Upload) -> Upload:
        """Return a file that goes with a message; of one that is a text the text is looked at, too."""
        if upload.media_type.startswith("image/") or upload.media_type == "application/pdf":
            return upload
        if name not in self._files:
            said = Message(role="user", content=upload.content.decode(errors="replace"), id=name)
            seen = await self._looked_at(said)
            same = seen.content == said.content
            self._files[name] = upload if same else replace(upload, content=seen.content.encode())
        return self._files[name]

    async def _looked_at(self, message: Message) -> Message:
        key = (message.id, message.content)
        if key not in self._seen:
            before = forms.of_message(message)
            after = await self._judged(hooks.LLM_INPUT, before)
            try:
                told = message if after is before else forms.with_changes(message, after)
            except (ValueError, KeyError, AttributeError):
                raise unfit(hooks.LLM_INPUT) from None
            self._seen[key] = told
        return self._seen[key]

    async def _judged(self, hook: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask at a hook, and at the one that is asked about all messages."""
        where = hook.partition(".")[2]
        for each in (hook, hooks.EVALUATE):
            if each in self._plugins.hooks:
                fields = {"message": message, "hook": where}
                try:
                    changed = await self._plugins.ask(each, fields, self._occasion)
                except BlockedByPlugin as blocked:
                    raise at(hook, blocked) from None
                message = changed.get("message", message)
        return message

    async def _judge(self, text: str, thought: bool) -> str:
        before = forms.of_answer(text, thought=thought)
        after = await self._judged(hooks.LLM_OUTPUT, before)
        try:
            return text if after is before else forms.text_in(after)
        except (ValueError, AttributeError):
            raise unfit(hooks.LLM_OUTPUT) from None

    async def _finish(self, whole: Whole) -> str:
        return await self._agent.after(whole) if self._agent else whole.text

    def answered(self, pieces: AsyncGenerator[Piece], hear: Hear) -> AsyncGenerator[Piece]:
        """Return an answer as it may be told: held back only if a plugin may change or block it.

        Args:
            hear: Hears the pieces of one that is held back as the model says them.
        """
        whole = self._agent is not None and self._agent.holds
        judged = bool(OUTPUT & self._plugins.changing)
        if whole or judged:
            cut = nothing if whole else cut_of(self._hold)
            most, judge, finish = self._most, self._judge, self._finish
            return held(pieces, judge, finish, cut, most=most, hear=hear, aloud=judged)
        if OUTPUT & self._plugins.hooks or (self._agent and hooks.AGENT_POST in self._plugins.hooks):
            return heard(pieces, self._finish, self._judge)
        return pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """All doors of a turn."""

    agent: AgentDoor
    model: ModelDoor
    tools: ToolDoor


def doors_of(plugins: Plugins, occasion: Occasion, *, hold: str, most: int) -> Doors:
    """Return the doors of a turn."""
    agent = AgentDoor(plugins, occasion)
    return Doors(
        agent=agent,
        model=ModelDoor(plugins, occasion, hold=hold, most=most, agent=agent),
        tools=ToolDoor(plugins, occasion),
    )


def open_doors() -> Doors:
    """Return the doors of a turn that no plugin looks at."""
    return doors_of(NONE, Occasion(request_id=""), hold="sentence", most=MOST)
