"""Real MCP servers of other people: `mcp-server-time` of PyPI, `server-everything` of npm."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import missing, need
from tests.installation import alive
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.running import wait_until

TESTS = Path(__file__).parent
CACHE = TESTS.parent / ".cache" / "everything"
PACKAGE = Path("node_modules", "@modelcontextprotocol", "server-everything")


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


# server-everything, over streamable HTTP and over the older SSE transport


@pytest.fixture(scope="session")
def everything() -> Path:
    """Install the package once, exactly as the lock file beside this file says."""
    node, npm = need("node"), need("npm")
    wanted = (TESTS / "everything" / "package-lock.json").read_text()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test run may be at it
        installed = CACHE / "installed"
        if not installed.exists() or installed.read_text() != wanted:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(TESTS / "everything" / name, CACHE)
            done = subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=CACHE,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            if done.returncode:
                missing(f"@modelcontextprotocol/server-everything (npm ci: {done.stderr.strip()[-300:]})")
            installed.write_text(wanted)
    assert Path(node).exists()
    return CACHE / PACKAGE / "dist" / "index.js"


@contextlib.contextmanager
def running_everything(script: Path, transport: str, log: Path) -> Iterator[int]:
    """Run the server; give its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [need("node"), str(script), transport],
            env={**os.environ, "PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:

        def accepts() -> bool:
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        wait_until(accepts, "server-everything listens", seconds=40)
        yield port
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(params=["streamable_http", "sse"])
def everyone(
    request: pytest.FixtureRequest,
    everything: Path,
    serve: Callable[..., str],
    tmp_path: Path,
    name: str,
) -> Iterator[Person]:
    """Someone connected to it, by either transport."""
    transport = request.param
    mode, path = {"streamable_http": ("streamableHttp", "mcp"), "sse": ("sse", "sse")}[transport]
    with running_everything(everything, mode, tmp_path / "everything.log") as port:
        url = serve(connect_timeout=30, tool_timeout=30, model_timeout=30, turn_timeout=60)
        with Person(url, name) as person:
            server = {"url": f"http://127.0.0.1:{port}/{path}", "transport": transport, "alias": "all"}
            connected = person.connect(server=server)
            assert {"all__echo", "all__get-sum", "all__get-tiny-image"} <= set(connected["tools"])
            assert person.get("config/{me}").json()["mcp_server"]["transport"] == transport
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
    assert "expected number" in refused["error"]


@pytest.mark.slow
def test_everything_that_is_no_text_is_told_to_the_model_in_words(
    everyone: Person, model: ModelServer
) -> None:
    image = call(everyone, model, "all__get-tiny-image", {})["output"].split("\n")
    assert image[0] == "Here's the image you requested:"
    assert image[1].startswith("[image/png, ")
    assert image[2] == "The image above is the MCP logo."

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
def test_everything_tells_how_far_it_is(everyone: Person, model: ModelServer) -> None:
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
