"""A chat model made of rules, so that the chat can be tried without an API key.

It is no language model and says so. The rules are pure functions from the conversation and the tools to
a ``Reply``: quote what tools answered; carry out ``/tool arguments``; find the tool that the words of a
message name; else say what there is to try.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, TypeVar
from zoneinfo import available_timezones

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from mcp_chat.demo.words import FILLER, WEAK, spell_out, words

SHORT_RESULT: Final = 120
LONG_RESULT: Final = 2_000
QUOTE: Final = 200
SUGGESTIONS: Final = 8
HEAD: Final = 1_000  # characters of a message in which a tool, numbers and places are looked for

T = TypeVar("T")

# Values


@dataclass(frozen=True)
class Call:
    """A tool, by name, and what to call it with."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the model says, and the tools it calls then."""

    text: str
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool, read from its JSON Schema."""

    name: str
    schema: Mapping[str, Any]
    required: bool

    @cached_property
    def type(self) -> str:
        """The JSON type; of several, the first that is not null."""
        for option in (self.schema, *self.schema.get("anyOf", ()), *self.schema.get("oneOf", ())):
            kinds = option.get("type", ())
            for kind in [kinds] if isinstance(kinds, str) else kinds:
                if kind != "null":
                    return str(kind)
        return "string"

    @property
    def is_number(self) -> bool:
        """Whether it takes a number."""
        return self.type in ("number", "integer")

    @property
    def is_zone(self) -> bool:
        """Whether it takes a time zone."""
        return re.search(r"time_?zone|(^|_)tz$", self.name, re.IGNORECASE) is not None

    def example(self, number: int) -> str:
        """What one could write for it."""
        for known in (*self.schema.get("enum", ()), *self.schema.get("examples", ())):
            return str(known)
        if self.is_number:
            return str(number)
        usual = {"boolean": "true", "array": "[]", "object": "{}"}
        return usual.get(self.type, "Europe/Berlin" if self.is_zone else "hello")


@dataclass(frozen=True)
class Tool:
    """A tool as the model is shown it."""

    name: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()

    @classmethod
    def from_openai(cls, form: Mapping[str, Any]) -> Tool:
        """Read a tool as OpenAI's chat completions describe it."""
        function = form["function"]
        schema = function.get("parameters") or {}
        required = schema.get("required", ())
        return cls(
            name=function["name"],
            description=function.get("description") or "",
            parameters=tuple(
                Parameter(name, part if isinstance(part, Mapping) else {}, name in required)
                for name, part in schema.get("properties", {}).items()
            ),
        )

    @property
    def short_name(self) -> str:
        """The name without the alias of its server."""
        return self.name.rpartition("__")[2] or self.name

    @cached_property
    def stems(self) -> frozenset[str]:
        """The words of its name that tell something."""
        return frozenset(word.stem for word in words(self.short_name)) - WEAK

    def missing(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the names of required parameters that have no argument."""
        return [p.name for p in self.parameters if p.required and p.name not in arguments]

    def usage(self) -> str:
        """How to write a call of it."""
        needed = [p for p in self.parameters if p.required]
        return " ".join(
            [f"/{self.short_name}", *(f"{p.name}={p.example(n)}" for n, p in enumerate(needed, 2))]
        )


# The rules


def reply(messages: Sequence[BaseMessage], tools: Sequence[Tool]) -> Reply:
    """What to answer in a conversation."""
    if results := _trailing_results(messages):
        return Reply(quote_results(results, _names_of_calls(messages)))
    earlier, text = _last_question(messages)
    if text.startswith("/"):
        return run_commands(text, tools)
    return use_best_tool(text, tools) or explain(text, earlier, tools)


def quote_results(results: Sequence[ToolMessage], names: Mapping[str, str]) -> str:
    """Say what the tools answered; as a list if there were several."""
    said = [_quote_result(one.name or names.get(one.tool_call_id, "tool"), one) for one in results]
    if len(said) == 1:
        return said[0]
    return "\n".join("- " + one.replace("\n", "\n  ") for one in said)


def run_commands(text: str, tools: Sequence[Tool]) -> Reply:
    """Carry out ``/tool arguments``; each further line that begins with a slash is a call too."""
    replies = [_run_command(command, tools) for command in re.split(r"\n(?=/)", text)]
    refusals = [one.text for one in replies if not one.calls]
    if refusals:
        return Reply("\n\n".join(refusals))
    return _announce(*(call for one in replies for call in one.calls))


def use_best_tool(text: str, tools: Sequence[Tool]) -> Reply | None:
    """Call the tool that the words of the message name, if they name one.

    The best one has more of its words named, then fewer arguments missing, then a larger part of its
    name named, then is named earlier: "add 2 and 3" adds numbers, "add milk to my list" adds to a list.
    """
    starts: dict[str, int] = {}
    for word in words(spell_out(text[:HEAD])):
        for meaning in word.meanings:
            starts.setdefault(meaning, word.start)
    best: tuple[tuple[float, ...], Tool, dict[str, Any]] | None = None
    for tool in tools:
        named = [starts[stem] for stem in tool.stems if stem in starts]
        if not named:
            continue
        arguments = find_arguments(tool, text)
        missing = len(tool.missing(arguments))
        rank = (len(named), -missing, len(named) / len(tool.stems), -min(named), len(arguments))
        if best is None or rank > best[0]:
            best = rank, tool, arguments
    return None if best is None else _call_or_ask(best[1], best[2])


def explain(text: str, earlier: Sequence[BaseMessage], tools: Sequence[Tool]) -> Reply:
    """No tool fits: answer from the conversation if that is asked for, else say what there is to try."""
    shown = f"I was shown {_count(len(earlier), 'earlier message')} of this conversation."
    if re.search(r"\bhow many (\w+ )?messages\b", text, re.IGNORECASE):
        return Reply(shown)
    if re.search(r"\bwhat did i (just )?(say|write|ask)\b|\b(previous|last) message\b", text, re.IGNORECASE):
        mine = [message for message in earlier if isinstance(message, HumanMessage)]
        return Reply(
            f"Before this you wrote: {_quote(mine[-1].text)}" if mine else "This is your first message."
        )
    parts = ["I am the demo model: a few rules, not a language model."]
    if text:
        parts.append(f"You wrote: {_quote(text)}")
    if earlier:
        parts.append(shown)
    return Reply(f"{' '.join(parts)}\n\n{_suggestions(tools)}")


def _call_or_ask(tool: Tool, arguments: Mapping[str, Any]) -> Reply:
    missing = tool.missing(arguments)
    if not missing:
        return _announce(Call(tool.name, arguments))
    names = " and ".join(f"`{name}`" for name in missing)
    verb = "is" if len(missing) == 1 else "are"
    return Reply(
        f"I would use `{tool.name}`, but {names} {verb} missing. Write for example `{tool.usage()}`."
    )


def _announce(*calls: Call) -> Reply:
    return Reply(f"Let me use {' and '.join(f'`{call.tool}`' for call in calls)}.", calls)


def _suggestions(tools: Sequence[Tool]) -> str:
    if not tools:
        return "There are no tools. Connect an MCP server, and I can call the tools it has."
    lines = [f"- `{tool.usage()}`{_summary(tool)}" for tool in tools[:SUGGESTIONS]]
    if len(tools) > SUGGESTIONS:
        lines.append(f"- and {len(tools) - SUGGESTIONS} more")
    return "\n".join(["You can try these tools:", "", *lines])


def _summary(tool: Tool) -> str:
    first = tool.description.strip().partition("\n")[0]
    return f": {_escape(first[:QUOTE])}" if first else ""


# The conversation


def _last_question(messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], str]:
    """What the user asks, and what was said before it."""
    said = [message for message in messages if not isinstance(message, SystemMessage)]
    for index in reversed(range(len(said))):
        if isinstance(said[index], HumanMessage):
            return said[:index], str(said[index].text).strip()
    return said, ""


def _trailing_results(messages: Sequence[BaseMessage]) -> list[ToolMessage]:
    results: list[ToolMessage] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        results.insert(0, message)
    return results


def _names_of_calls(messages: Sequence[BaseMessage]) -> dict[str, str]:
    asked = [call for message in messages if isinstance(message, AIMessage) for call in message.tool_calls]
    return {call["id"]: call["name"] for call in asked if call["id"]}


def _quote_result(name: str, result: ToolMessage) -> str:
    failed = result.status == "error"
    verb = "failed" if failed else "answered"
    text = str(result.text).strip()
    if not text:
        return f"`{name}` {verb} without a word."
    if len(text) <= SHORT_RESULT and "\n" not in text:
        return f"`{name}` {verb}: {_escape(text) if failed else f'**{_escape(text)}**'}"
    cut = f"\n\nThese are the first of {len(text):,} characters." if len(text) > LONG_RESULT else ""
    return f"`{name}` {verb}:\n\n{_fence(text[:LONG_RESULT])}{cut}"


# Markdown


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>&~|])", r"\\\1", text)


def _quote(text: str) -> str:
    flat = " ".join(text.split())
    return f"“{_escape(flat if len(flat) <= QUOTE else flat[:QUOTE] + '…')}”"


def _code(text: str) -> str:
    return f"`{text[:QUOTE].replace('`', '')}`"


def _fence(text: str) -> str:
    """A fenced block, with a fence longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# Commands


def _run_command(command: str, tools: Sequence[Tool]) -> Reply:
    name, *rest = command[1:].split(maxsplit=1) or [""]
    if not name:
        return Reply(_suggestions(tools))
    found = _tools_called(name, tools)
    if len(found) == 1:
        return _call_or_ask(found[0], command_arguments(found[0], "".join(rest).strip()))
    if found:
        names = " or ".join(f"`/{tool.name}`" for tool in found)
        return Reply(f"Several tools are called {_code(name)}: write {names}.")
    return Reply(f"There is no tool called {_code(name)}.\n\n{_suggestions(tools)}")


def _tools_called(name: str, tools: Sequence[Tool]) -> list[Tool]:
    """The tool of that full name, else those of that name on any server."""
    plain = _plain(name)
    return [t for t in tools if _plain(t.name) == plain] or [
        t for t in tools if _plain(t.short_name) == plain
    ]


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name).casefold()


def command_arguments(tool: Tool, text: str) -> dict[str, Any]:
    """Arguments written as ``key=value`` pairs, as a JSON object, or one after the other."""
    if pairs := _pairs(tool, text):
        return pairs
    if text.startswith("{") and isinstance(given := _json(text), dict):
        return given
    return _in_order(tool, text)


def _pairs(tool: Tool, text: str) -> dict[str, Any]:
    """``a=2 b=3``: a value reaches to the next key, so that text needs no quotes."""
    keys = "|".join(re.escape(p.name) for p in tool.parameters)
    if not keys or not re.match(rf"({keys})\s*=", text):
        return {}
    parts = re.split(rf"(?:^|(?<!\s)\s+)({keys})\s*=\s*", text)[1:]
    known = {p.name: p for p in tool.parameters}
    return {key: _value(known[key], raw) for key, raw in zip(parts[::2], parts[1::2], strict=True)}


def _in_order(tool: Tool, text: str) -> dict[str, Any]:
    """Values in the order of the parameters: a string takes quoted text or all there is, others one word."""
    arguments: dict[str, Any] = {}
    for parameter in tool.parameters:
        if not text:
            break
        quoted = re.match(r"\"[^\"]*\"|'[^']*'", text)
        if parameter.type == "string":
            raw = quoted[0] if quoted else text
        else:
            raw = text.split(maxsplit=1)[0]
            if parameter.is_number and not NUMBER.fullmatch(raw.rstrip(",")):
                continue
        arguments[parameter.name] = _value(parameter, raw)
        text = text[len(raw) :].lstrip()
    return arguments


def _value(parameter: Parameter, raw: str) -> Any:
    """The value that a text stands for; what does not fit is passed on, and the tool says what is wrong."""
    raw = raw.strip()
    if parameter.type == "string":
        is_quoted = len(raw) > 1 and raw[0] == raw[-1] and raw[0] in "\"'"
        return raw[1:-1] if is_quoted else raw
    raw = raw.rstrip(",")
    if parameter.is_number:
        return _number(raw) if NUMBER.fullmatch(raw) else raw
    value = _json(raw.lower() if parameter.type == "boolean" else raw)
    return raw if value is None else value


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or brackets without end
        return None


# What words hold

NUMBER: Final = re.compile(r"(?<![\w.])-?\d{1,15}(?:\.\d{1,15})?(?!\w)")
QUOTED: Final = re.compile(r"\"([^\"]{1,1000})\"|“([^”]{1,1000})”|(?<!\w)'([^']{1,1000})'(?!\w)")


def find_arguments(tool: Tool, text: str) -> dict[str, Any]:
    """What a message in plain words holds for the parameters of a tool."""
    quoted = [next(filter(None, groups)) for groups in QUOTED.findall(text)]
    bare = QUOTED.sub(" ", text[:HEAD])
    numbers = [_number(match) for match in NUMBER.findall(spell_out(bare))]
    zones = find_zones(bare) if any(p.is_zone for p in tool.parameters) else []
    free = [phrase] if (phrase := free_text(tool, text)) else []
    arguments: dict[str, Any] = {}
    for parameter in tool.parameters:
        value: Any
        if choices := parameter.schema.get("enum"):
            value = _mentioned(choices, bare)
        elif parameter.type == "integer":
            value = _take(numbers, lambda number: isinstance(number, int))
        elif parameter.type == "number":
            value = _take(numbers)
        elif parameter.is_zone:
            value = _take(zones)
        elif parameter.type == "string":
            value = _take(quoted) or (_take(free) if parameter.required else None)
        else:
            value = None
        if value is not None:
            arguments[parameter.name] = value
    return arguments


def _take(values: list[T], fits: Callable[[T], bool] = lambda _: True) -> T | None:
    """Remove and return the first value that fits."""
    for index, value in enumerate(values):
        if fits(value):
            return values.pop(index)
    return None


def _mentioned(choices: Sequence[Any], text: str) -> Any:
    for choice in choices:
        if re.search(rf"(?<!\w){re.escape(str(choice))}(?!\w)", text, re.IGNORECASE):
            return choice
    return None


def free_text(tool: Tool, text: str) -> str:
    """What is left of a message after the words that name the tool: "add a todo: buy milk" → "buy milk"."""
    spoken = words(text[:HEAD])
    first = next((n for n, word in enumerate(spoken) if word.meanings & tool.stems), None)
    if first is None:
        return ""
    end = spoken[first].end
    for word in spoken[first + 1 :]:
        if ":" in text[end : word.start] or not (word.stem in FILLER or word.meanings & tool.stems):
            break
        end = word.end
    rest = text[end:].lstrip(" \n\t:,–-").rstrip(" \n\t?")
    return re.sub(
        r"(?<=\S)\s+(to|on|onto|in|into) (my|the|our)( to-?do)? list[.!]*$", "", rest, flags=re.IGNORECASE
    )


def find_zones(text: str) -> list[str]:
    """The time zones that a text names, as ``Region/City`` or by the city alone."""
    known, pattern = _known_zones()
    return [known.get(match[0].casefold(), match[0]) for match in pattern.finditer(text)]


@lru_cache(maxsize=1)
def _known_zones() -> tuple[dict[str, str], re.Pattern[str]]:
    known = {"utc": "UTC", "gmt": "GMT"}
    for zone in sorted(available_timezones()):
        region, _, city = zone.partition("/")
        if city and region not in ("Etc", "SystemV", "US"):
            known[zone.casefold()] = zone
            known.setdefault(city.replace("_", " ").casefold(), zone)
    names = sorted(map(re.escape, known), key=len, reverse=True)
    return known, re.compile(rf"\b(?:{'|'.join(names)}|[a-z]+/[a-z_]+)\b", re.IGNORECASE)
