"""The rules of the demo model, and the model in LangChain's agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import StructuredTool, ToolException

from mcp_chat.demo.model import DemoModel
from mcp_chat.demo.rules import Reply, Tool, reply
from mcp_chat.demo.server import build
from mcp_chat.demo.words import stem, words


def tool(name: str, *, required: str = "", description: str = "", **parameters: Any) -> Tool:
    """``tool("add", required="a b", a="number", b="number")``; a parameter may be a whole schema."""
    properties = {key: {"type": one} if isinstance(one, str) else one for key, one in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": required.split()}
    return Tool.from_openai(
        {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}
    )


def demo_tools() -> list[Tool]:
    """The tools of the demo server, as the chat would show them to the model."""
    return [
        Tool.from_openai(
            {
                "type": "function",
                "function": {
                    "name": f"demo__{one.name}",
                    "description": one.description,
                    "parameters": one.input_schema,
                },
            }
        )
        for one in asyncio.run(build().list_tools())
    ]


DEMO = demo_tools()


def asked(text: str, tools: list[Tool] | None = None) -> Reply:
    return reply([HumanMessage(text)], DEMO if tools is None else tools)


def called(answer: Reply) -> list[tuple[str, Mapping[str, Any]]]:
    return [(call.tool, call.arguments) for call in answer.calls]


# Results


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ("5", "success", "`demo__add` answered: **5**"),
        ("a*b", "success", "`demo__add` answered: **a\\*b**"),
        ("no such thing", "error", "`demo__add` failed: no such thing"),
        ("", "success", "`demo__add` answered without a word."),
        ("one\ntwo", "success", "`demo__add` answered:\n\n```\none\ntwo\n```"),
        ("x" * 121, "success", f"`demo__add` answered:\n\n```\n{'x' * 121}\n```"),
        ("```\ncode\n```", "success", "`demo__add` answered:\n\n````\n```\ncode\n```\n````"),
        ("one\ntwo", "error", "`demo__add` failed:\n\n```\none\ntwo\n```"),
    ],
)
def test_a_result_is_quoted(content: str, status: str, said: str) -> None:
    result = ToolMessage(content, tool_call_id="1", name="demo__add", status=status)
    assert reply([HumanMessage("add"), result], DEMO) == Reply(said)


def test_a_very_long_result_is_cut() -> None:
    said = reply([ToolMessage("x" * 3_000, tool_call_id="1", name="big")], []).text
    assert said == f"`big` answered:\n\n```\n{'x' * 2_000}\n```\n\nThese are the first of 3,000 characters."


def test_several_results_are_a_list_and_names_come_from_the_calls() -> None:
    asks = AIMessage(
        "Let me.",
        tool_calls=[{"name": "add", "args": {}, "id": "1"}, {"name": "echo", "args": {}, "id": "2"}],
    )
    results = [ToolMessage("5", tool_call_id="1"), ToolMessage("a\nb", tool_call_id="2")]
    assert reply([HumanMessage("go"), asks, *results], []).text == (
        "- `add` answered: **5**\n- `echo` answered:\n  \n  ```\n  a\n  b\n  ```"
    )


def test_results_of_an_earlier_turn_are_not_quoted_again() -> None:
    earlier: list[BaseMessage] = [ToolMessage("5", tool_call_id="1", name="add"), AIMessage("It is 5.")]
    assert called(reply([*earlier, HumanMessage("add 2 and 3")], DEMO)) == [("demo__add", {"a": 2, "b": 3})]


# Commands


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("/add a=2 b=3", "add", {"a": 2, "b": 3}),
        ("/add a = 2, b = 3.5", "add", {"a": 2, "b": 3.5}),
        ("/add 2 3", "add", {"a": 2, "b": 3}),
        ("/ADD 2, -3", "add", {"a": 2, "b": -3}),
        ("/demo__add 2 3", "add", {"a": 2, "b": 3}),
        ("/demo-add 2 3", "add", {"a": 2, "b": 3}),
        ('/add {"a": 2, "b": 3}', "add", {"a": 2, "b": 3}),
        ("/add a=two b=3", "add", {"a": "two", "b": 3}),
        ("/echo hello world", "echo", {"text": "hello world"}),
        ("/echo\nhello world", "echo", {"text": "hello world"}),
        ("/echo text=hello world", "echo", {"text": "hello world"}),
        ('/echo text="hello world"', "echo", {"text": "hello world"}),
        ('/echo {"no json', "echo", {"text": '{"no json'}),
        ("/todolist", "todo_list", {}),
        ("/todo-add buy milk", "todo_add", {"item": "buy milk"}),
        ("/get_current_time Asia/Tokyo", "get_current_time", {"timezone": "Asia/Tokyo"}),
        ("/roll_dice sides=20", "roll_dice", {"sides": 20}),
    ],
)
def test_a_command_calls_the_tool_it_names(text: str, name: str, arguments: Mapping[str, Any]) -> None:
    answer = asked(text)
    assert called(answer) == [(f"demo__{name}", arguments)]
    assert answer.text == f"Let me use `demo__{name}`."


def test_values_of_all_kinds_can_be_written_in_a_command() -> None:
    one = tool("save", title="string", tags="array", draft="boolean", size={"type": ["null", "integer"]})
    text = '/save title=My file tags=["a", "b"] draft=True size=7'
    assert called(asked(text, [one])) == [
        ("save", {"title": "My file", "tags": ["a", "b"], "draft": True, "size": 7})
    ]
    in_order = tool("move", file="string", speed={"anyOf": [{"type": "number"}, {"type": "null"}]})
    assert called(asked("/move 'my file' 3", [in_order])) == [("move", {"file": "my file", "speed": 3})]


def test_lines_that_begin_with_a_slash_are_calls_of_one_answer() -> None:
    answer = asked("/add 1 2\n/echo one\ntwo")
    assert called(answer) == [("demo__add", {"a": 1, "b": 2}), ("demo__echo", {"text": "one\ntwo"})]
    assert answer.text == "Let me use `demo__add` and `demo__echo`."
    assert not asked("/add 1 2\n/nope").calls


def test_an_unknown_command_is_answered_with_the_tools_there_are() -> None:
    answer = asked("/nope 1 2")
    assert not answer.calls
    assert answer.text.startswith("There is no tool called `nope`.")
    assert "- `/add a=2 b=3`: Add two numbers." in answer.text
    assert "- and 6 more" in answer.text
    assert "`/add a=2 b=3`" in asked("/").text


def test_a_name_that_two_servers_have_is_asked_back() -> None:
    both = [tool("one__ping"), tool("two__ping")]
    assert asked("/ping", both) == Reply(
        "Several tools are called `ping`: write `/one__ping` or `/two__ping`."
    )
    assert called(asked("/two__ping", both)) == [("two__ping", {})]


def test_a_missing_argument_is_named_with_an_example() -> None:
    assert asked("/add 2").text == (
        "I would use `demo__add`, but `b` is missing. Write for example `/add a=2 b=3`."
    )
    zone = tool("clock__time_in", required="timezone unit", timezone="string", unit={"enum": ["s", "ms"]})
    assert asked("what time is it", [zone]).text == (
        "I would use `clock__time_in`, but `timezone` and `unit` are missing. "
        "Write for example `/time_in timezone=Europe/Berlin unit=s`."
    )


# Words


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("add 2 and 3", "add", {"a": 2, "b": 3}),
        ("Can you add 2.5 to -3?", "add", {"a": 2.5, "b": -3}),
        ("adding two and three", "add", {"a": 2, "b": 3}),
        ("what is 2 + 3?", "add", {"a": 2, "b": 3}),
        ("10 - 3", "subtract", {"a": 10, "b": 3}),
        ("subtract 3 from 10", "subtract", {"a": 10, "b": 3}),
        ("3 times 4", "multiply", {"a": 3, "b": 4}),
        ("divide 1 by 0", "divide", {"a": 1, "b": 0}),
        ("add milk to my list", "todo_add", {"item": "milk"}),
        ("Please add milk to my to-do list.", "todo_add", {"item": "milk"}),
        ("add a todo: buy milk", "todo_add", {"item": "buy milk"}),
        ("add a to-do: buy 2 pints and 3 eggs", "todo_add", {"item": "buy 2 pints and 3 eggs"}),
        ("put “bread and butter” on my list", "todo_add", {"item": "bread and butter"}),
        ("remind me to call mum", "todo_add", {"item": "call mum"}),
        ("what's on my list?", "todo_list", {}),
        ("show my todos", "todo_list", {}),
        ("clear my list", "todo_clear", {}),
        ("mark 2 as done", "todo_done", {"number": 2}),
        ("I finished 1", "todo_done", {"number": 1}),
        ("what time is it?", "get_current_time", {}),
        ("what time is it in Tokyo?", "get_current_time", {"timezone": "Asia/Tokyo"}),
        ("time in new york please", "get_current_time", {"timezone": "America/New_York"}),
        ("the time in UTC", "get_current_time", {"timezone": "UTC"}),
        ("the time in Mars/Olympus", "get_current_time", {"timezone": "Mars/Olympus"}),
        ("echo hello world", "echo", {"text": "hello world"}),
        ("repeat: to be or not", "echo", {"text": "to be or not"}),
        ('echo "to be or not to be"', "echo", {"text": "to be or not to be"}),
        ("roll two dice with 20 sides", "roll_dice", {"count": 2, "sides": 20}),
        ("roll a die", "roll_dice", {}),
        ("count slowly to 3", "slow_count", {"steps": 3}),
        ("please fail", "always_fails", {}),
        ("book a table", "book_table", {}),
    ],
)
def test_words_find_the_tool_and_its_arguments(text: str, name: str, arguments: Mapping[str, Any]) -> None:
    assert called(asked(text)) == [(f"demo__{name}", arguments)]
    assert called(asked(text, DEMO[::-1])) == [(f"demo__{name}", arguments)]


def test_tools_of_any_server_are_found() -> None:
    convert = tool(
        "clock__convertTime",
        required="source_timezone time target_timezone",
        source_timezone="string",
        time="string",
        target_timezone="string",
    )
    weather = tool(
        "get_weather", required="city", city="string", unit={"enum": ["Celsius", "Kelvin"]}, days="integer"
    )
    text = 'Convert the time "16:30" from Paris to America/Los_Angeles'
    assert called(asked(text, [weather, convert])) == [
        (
            "clock__convertTime",
            {"source_timezone": "Europe/Paris", "time": "16:30", "target_timezone": "America/Los_Angeles"},
        )
    ]
    assert called(asked("weather in Oslo", [weather, convert])) == [("get_weather", {"city": "Oslo"})]
    assert called(asked("weather for 'Oslo' in kelvin, 1.5 or 3 days", [weather])) == [
        ("get_weather", {"city": "Oslo", "unit": "Kelvin", "days": 3})
    ]


def test_the_tool_whose_whole_name_is_said_is_preferred() -> None:
    assert called(asked("ping", [tool("ping_all"), tool("ping")])) == [("ping", {})]


def test_a_word_that_says_nothing_finds_no_tool() -> None:
    assert not asked("get me to the current place", [tool("get_current_weather")]).calls


def test_a_long_message_is_answered_at_once() -> None:
    """No rule may take a time that grows with the square of a message's length."""
    began = time.process_time()
    for text in ("1" * 200_000, "add " + " " * 200_000 + "x", "“" * 200_000, '{"a":' * 50_000, "`" * 200_000):
        asked(text)
        asked(f"/add a={text} b")
        asked(f"/echo {text}")
        reply([ToolMessage(text, tool_call_id="1", name="x")], [])
    assert time.process_time() - began < 5


def test_words_and_stems() -> None:
    assert [word.text for word in words("getHTTPStatus_of to_do-list 42")] == [
        "get", "HTTP", "Status", "of", "to_do", "list", "42",
    ]  # fmt: skip
    assert {stem(word) for word in ("add", "adds", "Added", "adding")} == {"add"}
    assert {stem(word) for word in ("divide", "divided", "dividing")} == {"divid"}
    assert {stem(word) for word in ("to-do", "todos", "To do")} == {"todo"}


# No tool


def test_a_greeting_is_answered_with_what_there_is_to_try() -> None:
    text = asked("Hello *there*").text
    assert text.startswith("I am the demo model: a few rules, not a language model.")
    assert "You wrote: “Hello \\*there\\*”" in text
    assert "- `/todo_add item=hello`: " in text
    assert "earlier" not in text


def test_without_tools_it_says_how_to_get_some() -> None:
    assert asked("add 2 and 3", []).text.endswith(
        "There are no tools. Connect an MCP server, and I can call the tools it has."
    )
    assert "There are no tools." in reply([], []).text


def test_it_knows_what_it_was_shown() -> None:
    earlier: list[BaseMessage] = [
        SystemMessage("Be kind."),
        HumanMessage("My name is Ann"),
        AIMessage("Hello."),
        HumanMessage([{"type": "text", "text": "I like tea"}]),
        AIMessage("I see."),
    ]
    assert "I was shown 4 earlier messages" in reply([*earlier, HumanMessage("hi")], []).text
    assert reply([*earlier, HumanMessage("How many messages are there?")], DEMO).text == (
        "I was shown 4 earlier messages of this conversation."
    )
    assert reply([*earlier, HumanMessage("what did I say before?")], DEMO).text == (
        "Before this you wrote: “I like tea”"
    )
    assert asked("what did I just say?").text == "This is your first message."


# The model


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


def fail() -> str:
    """Fail."""
    raise ToolException("no luck")


TOOLS = [
    StructuredTool.from_function(add, name="demo__add"),
    StructuredTool.from_function(fail, name="demo__fail", handle_tool_error=True),
]


def test_the_agent_streams_words_calls_the_tool_and_quotes_its_result() -> None:
    async def story() -> None:
        agent = create_agent(DemoModel(delay=0), TOOLS)
        chunks: list[AIMessageChunk] = []
        updates: list[dict[str, Any]] = []
        stream = agent.astream(
            {"messages": [HumanMessage("/add 2 3\n/add 4 5\n/fail")]}, stream_mode=["messages", "updates"]
        )
        async for mode, part in stream:
            if mode == "updates":
                assert isinstance(part, dict)
                updates.append(part)
            elif isinstance(part[0], AIMessageChunk):
                chunks.append(part[0])
        assert "".join(str(chunk.text) for chunk in chunks) == (
            "Let me use `demo__add` and `demo__add` and `demo__fail`."
            "- `demo__add` answered: **5.0**\n- `demo__add` answered: **9.0**\n- `demo__fail` failed: no luck"
        )
        assert [chunk.text for chunk in chunks[:3]] == ["Let ", "me ", "use "]
        calls = [call for chunk in chunks for call in chunk.tool_call_chunks]
        assert [call["index"] for call in calls] == [0, 1, 2]
        assert len({call["id"] for call in calls}) == 3
        assert [chunk.usage_metadata is not None for chunk in chunks].count(True) == 2
        assert sum(len(update["tools"]["messages"]) for update in updates if "tools" in update) == 3

    asyncio.run(story())


def test_it_answers_at_once_too() -> None:
    async def story() -> None:
        model = DemoModel().bind_tools(TOOLS)
        said = await model.ainvoke("add 2 and 3")
        assert said.text == "Let me use `demo__add`."
        assert [(call["name"], call["args"]) for call in said.tool_calls] == [("demo__add", {"a": 2, "b": 3})]
        assert said.usage_metadata is not None
        assert said.usage_metadata["total_tokens"] > said.usage_metadata["input_tokens"] > 0

    asyncio.run(story())
    assert DemoModel().invoke("hello").text.startswith("I am the demo model")


def test_it_streams_without_an_event_loop_too() -> None:
    chunks = list(DemoModel(delay=0).bind_tools(TOOLS).stream("add 2 and 3"))
    assert "".join(str(chunk.text) for chunk in chunks) == "Let me use `demo__add`."
    assert chunks[-1].usage_metadata is not None
    assert chunks[-1].tool_calls[0]["args"] == {"a": 2, "b": 3}
