"""Real MCP servers of other people: `mcp-server-time` of PyPI, `server-everything` of npm."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.installation import alive
from tests.model_server import ModelServer, Reply
from tests.other_servers import running_everything
from tests.packages import node, script
from tests.person import Person
from tests.running import wait_until


def call(person: Person, model: ModelServer, tool: str, args: dict[str, Any]) -> dict[str, Any]:
    """Let the model call a tool; return the frame that ended the call, having checked all the others."""
    model.will(Reply(calls=[(tool, args)]), Reply(text="Done."))
    start, *progress, end, token, final = person.stream(f"use {tool}")
    assert (start[0], start[1]["tool"], start[1]["input"]) == ("tool_start", tool, args)
    assert {event for event, _ in progress} <= {"tool_progress"}
    assert end[0] in ("tool_end", "tool_error")
    assert end[1]["id"] == start[1]["id"]
    assert token[1]["content"].strip() == "Done."
    assert final[1]["tools"] == [tool]
    told = model.requests[-1]["messages"][-1]
    assert (told["role"], told["content"]) == ("tool", end[1].get("output", end[1].get("error")))
    return {**end[1], "progress": [data for _, data in progress]}


# mcp-server-time, over stdio


@pytest.fixture
def time_server(serve: Callable[..., str], tmp_path: Path, name: str) -> Iterator[Person]:
    """Someone in front of an application whose operator has defined the server."""
    servers = tmp_path / "time.json"
    entry = {
        "command": sys.executable,
        "args": ["-m", "mcp_server_time", "--local-timezone", "${TIME_ZONE}"],
        "env": {"MARK": name},
        "description": "The time anywhere.",
    }
    servers.write_text(json.dumps({"mcpServers": {"time": entry}}))
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("TIME_ZONE", "Asia/Tokyo")
        url = serve(servers_file=servers, connect_timeout=40, tool_timeout=40, model_timeout=40)
    with Person(url, name) as person:
        yield person


def started_for(name: str) -> list[psutil.Process]:
    """The time servers that were started for a user."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.environ().get("MARK") == name and "mcp_server_time" in process.cmdline():
                found.append(process)
    return found


def test_the_time_is_asked_of_a_server_that_is_a_command(time_server: Person, model: ModelServer) -> None:
    person = time_server
    assert person.get("servers").json()["servers"] == [
        {"name": "time", "description": "The time anywhere.", "transport": "stdio"}
    ]
    connected = person.connect(server={"name": "time"})
    assert connected["tools"] == ["time__get_current_time", "time__convert_time"]
    assert len(started_for(person.name)) == 1

    now = call(person, model, "time__get_current_time", {"timezone": "Europe/Berlin"})
    assert json.loads(now["output"])["timezone"] == "Europe/Berlin"

    args = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    converted = json.loads(call(person, model, "time__convert_time", args)["output"])
    assert converted["target"]["datetime"].endswith("T21:00:00+09:00")
    assert converted["time_difference"] == "+9.0h"

    wrong = call(person, model, "time__get_current_time", {"timezone": "Mars/Olympus"})
    assert wrong["type"] == "tool_error"
    assert "Mars/Olympus" in wrong["error"]

    shown = person.get("config/{me}")
    assert shown.json()["mcp_server"]["name"] == "time"
    assert sys.executable not in shown.text  # the operator's command is the operator's business
    assert len(started_for(person.name)) == 1  # the same one for all calls
    person.post("disconnect").raise_for_status()
    wait_until(lambda: not started_for(person.name), "the command has ended")


def test_the_schema_of_a_tool_reaches_the_model(time_server: Person, model: ModelServer) -> None:
    time_server.connect(server={"name": "time"})
    time_server.say("hello")
    tools = {tool["function"]["name"]: tool["function"] for tool in model.requests[0]["tools"]}
    convert = tools["time__convert_time"]
    assert convert["description"].startswith("Convert time between timezones")
    assert set(convert["parameters"]["required"]) == {"source_timezone", "time", "target_timezone"}
    assert "Asia/Tokyo" in convert["parameters"]["properties"]["source_timezone"]["description"]


def test_a_command_that_died_is_started_again(time_server: Person, model: ModelServer) -> None:
    time_server.connect(server={"name": "time"})
    (first,) = started_for(time_server.name)
    first.kill()
    wait_until(lambda: not alive(first), "the server is dead")  # not first.wait(): the application reaps it
    now = call(time_server, model, "time__get_current_time", {"timezone": "UTC"})
    if now["type"] == "tool_error":  # the call was faster than the news of its death
        now = call(time_server, model, "time__get_current_time", {"timezone": "UTC"})
    assert json.loads(now["output"])["timezone"] == "UTC"
    (second,) = started_for(time_server.name)
    assert second != first


def test_a_user_cannot_name_a_command(time_server: Person) -> None:
    llm = {"model": "openai:scripted"}
    server = {"url": "http://127.0.0.1:9/mcp", "transport": "stdio"}
    refused = time_server.post("connect", llm=llm, server=server)
    assert refused.status_code == 422
    assert "'streamable_http' or 'sse'" in refused.json()["detail"]
    refused = time_server.post("connect", llm=llm, server={"url": "http://x/", "command": sys.executable})
    assert refused.status_code == 422
    assert started_for(time_server.name) == []


# server-everything, over streamable HTTP, the older SSE transport and stdio


@contextlib.contextmanager
def everything(transport: str, place: Path) -> Iterator[tuple[Path | None, dict[str, Any]]]:
    """Run it as far as nobody else does; give the operator's file of servers, and what a user connects to."""
    if transport == "stdio":
        servers = place / "everything.json"
        entry = {"command": str(node()), "args": [str(script("server-everything")), "stdio"]}
        servers.write_text(json.dumps({"mcpServers": {"all": entry}}))
        yield servers, {"name": "all"}
        return
    mode, path = {"streamable_http": ("streamableHttp", "mcp"), "sse": ("sse", "sse")}[transport]
    with running_everything(mode, place / "everything.log") as port:
        url = f"http://127.0.0.1:{port}/{path}"
        yield None, {"url": url, "transport": transport, "alias": "all"}


@pytest.fixture(params=["streamable_http", "sse", "stdio"])
def everyone(
    request: pytest.FixtureRequest,
    serve: Callable[..., str],
    tmp_path: Path,
    name: str,
) -> Iterator[Person]:
    """Someone connected to it, by each transport."""
    limits = {"connect_timeout": 30, "tool_timeout": 30, "model_timeout": 30, "turn_timeout": 60}
    with everything(request.param, tmp_path) as (servers, server):
        url = serve(**limits, **({"servers_file": servers} if servers else {}))
        with Person(url, name) as person:
            connected = person.connect(server=server)
            assert {"all__echo", "all__get-sum", "all__get-tiny-image"} <= set(connected["tools"])
            assert person.get("config/{me}").json()["mcp_server"]["transport"] == request.param
            yield person
            assert person.post("disconnect").json()["status"] == "disconnected"


@pytest.mark.slow
def test_everything_answers_in_text(everyone: Person, model: ModelServer) -> None:
    echoed = call(everyone, model, "all__echo", {"message": 'Grüße, 世界 \u2028 "quoted"'})
    assert echoed["output"] == 'Echo: Grüße, 世界 \u2028 "quoted"'
    assert (
        call(everyone, model, "all__get-sum", {"a": 2, "b": 3.5})["output"] == "The sum of 2 and 3.5 is 5.5."
    )
    refused = call(everyone, model, "all__get-sum", {"a": "two", "b": 3})
    assert refused["type"] == "tool_error"
    assert 'At /a: the value is not of type "number"' in refused["error"]


@pytest.mark.slow
def test_everything_that_is_no_text_is_told_to_the_model_in_words(
    everyone: Person, model: ModelServer
) -> None:
    image = call(everyone, model, "all__get-tiny-image", {})["output"].split("\n")
    assert image[0] == "Here's the image you requested:"
    assert image[1] == "The image above is the MCP logo."
    assert image[2].startswith("[image.png: image/png, ")
    [picture] = [part for each in everyone.history() if each["role"] == "tool" for part in each["parts"]]
    assert picture["media_type"] == "image/png"
    stored = everyone.get(f"uploads/{picture['upload_id']}")
    assert stored.content.startswith(b"\x89PNG")

    weather = call(everyone, model, "all__get-structured-content", {"location": "Chicago"})["output"]
    assert json.loads(weather) == {
        "temperature": 36,
        "conditions": "Light rain / drizzle",
        "humidity": 82,
    }

    resource = call(
        everyone, model, "all__get-resource-reference", {"resourceType": "Text", "resourceId": 1}
    )["output"]
    assert resource.startswith("Returning resource reference for Resource 1:\n")
    assert "This is a plaintext resource" in resource

    links = call(everyone, model, "all__get-resource-links", {"count": 2})["output"].split("\n")
    assert [link.startswith("[resource ") for link in links[1:]] == [True, True]


@pytest.mark.slow
def test_everything_tells_how_far_it_is(
    everyone: Person, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_chat.progress.PROGRESS_EVERY", 0)  # on a busy machine several come at once
    ended = call(everyone, model, "all__trigger-long-running-operation", {"duration": 2, "steps": 4})
    assert ended["output"] == "Long running operation completed. Duration: 2 seconds, Steps: 4."
    assert [(data["progress"], data["total"]) for data in ended["progress"]] == [(n, 4) for n in (1, 2, 3, 4)]
    assert {data["id"] for data in ended["progress"]} == {ended["id"]}


@pytest.mark.slow
def test_a_long_operation_is_stopped(everyone: Person, model: ModelServer) -> None:
    tool, args = "all__trigger-long-running-operation", {"duration": 60, "steps": 60}
    model.will(Reply(text="Working.", calls=[(tool, args)]), Reply(text="Never said."))
    with everyone.streaming("work") as frames:
        while next(frames)[0] != "tool_progress":
            pass
        with Person(str(everyone.http.base_url), everyone.name) as other:
            assert other.post("cancel").json()["status"] == "cancelled"
        *_, (event, final) = frames
    assert (event, final["stopped"]) == ("final", True)
    assert len(model.requests) == 1
    assert call(everyone, model, "all__echo", {"message": "still here"})["output"] == "Echo: still here"
    assert model.requests[-1]["messages"][-3]["content"] == "use all__echo"


@pytest.mark.slow
def test_several_calls_at_once_each_get_their_own_result(everyone: Person, model: ModelServer) -> None:
    calls = [("all__get-sum", {"a": n, "b": n}) for n in range(6)]
    model.will(Reply(calls=calls), Reply(text="Done."))
    answer = everyone.say("add them all")
    ends = {frame["id"]: frame["output"] for frame in answer["tool_invocations"] if "output" in frame}
    starts = {f["id"]: f["input"]["a"] for f in answer["tool_invocations"] if f["type"] == "tool_start"}
    assert len(starts) == len(ends) == 6
    for call_id, n in starts.items():
        assert ends[call_id] == f"The sum of {n} and {n} is {2 * n}."


def asked(person: Person, path: str, **body: Any) -> Any:
    """Ask the server something outside of a turn."""
    url = f"/llmchat/servers/all/{path}"
    answer = person.http.post(url, json=body) if body else person.http.get(url)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.slow
def test_everything_has_prompts_whose_arguments_are_completed(everyone: Person, model: ModelServer) -> None:
    listed = {each["name"]: each for each in asked(everyone, "prompts")["prompts"]}
    assert [each["name"] for each in listed["completable-prompt"]["arguments"]] == ["department", "name"]
    question = {"prompt": "completable-prompt", "argument": "department", "value": "S"}
    assert asked(everyone, "complete", **question)["values"] == ["Sales", "Support"]
    question = {"prompt": "completable-prompt", "argument": "name", "value": ""}
    known = {"department": "Sales"}
    assert asked(everyone, "complete", **question, context=known)["values"] == ["David", "Eve", "Frank"]
    prompt = {"name": "completable-prompt", "arguments": {"department": "Sales", "name": "Eve"}}
    everyone.say("Today.", prompt={"server": "all", **prompt})
    last = model.requests[-1]["messages"][-1]["content"]
    assert last == "Please promote Eve to the head of the Sales team.\n\nToday."


@pytest.mark.slow
def test_everything_has_resources_and_templates(everyone: Person, model: ModelServer) -> None:
    listed = {each["uri"]: each for each in asked(everyone, "resources")["resources"]}
    uri = "demo://resource/static/document/features.md"
    assert uri in listed
    [features] = asked(everyone, "resources/read", uri=uri)["contents"]
    assert "Features" in features["text"]
    templates = {each["template"] for each in asked(everyone, "resource-templates")["templates"]}
    assert "demo://resource/dynamic/text/{resourceId}" in templates
    everyone.say("See.", resources=[{"server": "all", "uri": "demo://resource/dynamic/text/7"}])
    [text, resource] = model.requests[-1]["messages"][-1]["content"]
    assert text["text"] == "See."
    assert "Resource 7: This is a plaintext resource" in resource["text"]


@pytest.mark.slow
def test_everything_asks_its_user(everyone: Person, model: ModelServer) -> None:
    model.will(Reply(calls=[("all__trigger-elicitation-request", {})]), Reply(text="Thanks."))
    with everyone.streaming("ask me") as frames:
        question = next(data for event, data in frames if event == "question")
        assert (question["server"], question["kind"]) == ("all", "form")
        assert question["message"] == "Please provide inputs for the following fields:"
        assert question["schema"]["properties"]["check"]["type"] == "boolean"
        content = {"name": "Ann", "check": True}
        with Person(str(everyone.http.base_url), everyone.name) as elsewhere:
            sent = elsewhere.post(f"questions/{question['id']}", action="accept", content=content)
        assert sent.status_code == 200, sent.text
        ended = dict(frames)
    assert "User provided the requested information" in ended["tool_end"]["output"]
    assert "- Name: Ann" in ended["tool_end"]["output"]
    assert "It was a dark and stormy night." in ended["tool_end"]["output"]


@pytest.mark.slow
def test_everything_sends_its_user_elsewhere_and_they_decline(everyone: Person, model: ModelServer) -> None:
    url = "https://example.org/where?to=go"
    args = {"url": url, "message": "Open this."}
    model.will(Reply(calls=[("all__trigger-url-elicitation", args)]), Reply(text="As you like."))
    with everyone.streaming("send me") as frames:
        question = next(data for event, data in frames if event == "question")
        assert (question["kind"], question["url"], question["host"]) == ("url", url, "example.org")
        with Person(str(everyone.http.base_url), everyone.name) as elsewhere:
            sent = elsewhere.post(f"questions/{question['id']}", action="decline")
        assert sent.status_code == 200, sent.text
        ended = dict(frames)
    assert "declin" in ended["tool_end"]["output"].lower()
