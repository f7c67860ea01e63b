"""Plugins that others have published for the gateway, in our chat with a tool: the packages as they are."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml
from mcp.server.mcpserver import MCPServer

from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.plugged import REPOSITORY, example, need_packages, texts, written
from tests.running import running, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("packages")]

Serve = Callable[..., str]

MAIL, OTHER, KEY = "bob@example.org", "eve@example.org", "AKIAIOSFODNN7EXAMPLE"
USERS = ("alpha-7341", "omega-2856")
CONFIG = REPOSITORY / "tests/gateway_plugins.yaml"


class Registry:
    """An MCP server that remembers what it was asked, and answers with what must not be told.

    Attributes:
        asked: The texts.
        url: Where it is.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.server = MCPServer("registry")
        self.server.tool()(self.find)

    async def find(self, text: str) -> str:
        """Find somebody."""
        self.asked.append(text)
        return f"found {OTHER} with {KEY}" if "key" in text else f"found {OTHER}"


@pytest.fixture(scope="module")
def packages() -> None:
    """What is tested."""
    need_packages("cpex", "cpex_pii_filter", "cpex_secrets_detection")


@pytest.fixture
def registry() -> Iterator[Registry]:
    """The tool's far side."""
    registry = Registry()
    with running(registry.server.streamable_http_app(), grace=0) as url:
        registry.url = f"{url}/mcp"
        yield registry


@pytest.fixture
def chat(registry: Registry, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serve with that server; gives the base URL."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    servers = tmp_path / "registry.json"
    servers.write_text(json.dumps({"mcpServers": {"people": {"url": registry.url}}}))
    return lambda **settings: serve(servers_file=servers, **settings)


def connected(url: str, name: str) -> Person:
    """Someone who may call the server's tool."""
    person = Person(url, name)
    person.connect(servers=[{"name": "people"}])
    return person


def talk(person: Person, message: str, *, streaming: bool) -> tuple[str, str]:
    """Say something; return what was answered, and everything that was told on the way."""
    if not streaming:
        answer = person.say(message)
        return answer["response"], json.dumps(answer)
    frames = person.stream(message)
    told = "".join(data["content"] for event, data in frames if event == "token")
    return told, json.dumps(frames)


def finds(text: str, answer: str) -> tuple[Reply, Reply]:
    """A model that calls the tool, and then speaks."""
    return Reply(calls=[("people__find", {"text": text})]), Reply(text=answer)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_gateways_configuration_protects_calls_unchanged(
    chat: Serve, model: ModelServer, registry: Registry, streaming: bool
) -> None:
    url = chat(plugins_enabled=True, plugins_config_file=CONFIG)
    with connected(url, "ann") as ann:
        model.will(*finds(f"who is {MAIL}", "Nobody."))
        answer, told = talk(ann, "who is it", streaming=streaming)
        known = json.dumps(ann.history())
    assert answer == "Nobody."
    assert registry.asked == ["who is [PII]"], "the arguments"
    assert texts(model.requests[1], "tool") == ["found [PII]"], "the result"
    assert OTHER not in told + known


@pytest.mark.parametrize("streaming", [False, True])
def test_a_call_with_a_secret_is_not_made(
    chat: Serve, model: ModelServer, registry: Registry, streaming: bool
) -> None:
    url = chat(plugins_enabled=True, plugins_config_file=CONFIG)
    with connected(url, "ann") as ann:
        model.will(*finds(f"who has {KEY}", "I may not."))
        answer, _ = talk(ann, "who has it", streaming=streaming)
    assert answer == "I may not."
    assert registry.asked == []
    assert "SecretsDetection" in texts(model.requests[1], "tool")[-1]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_result_with_a_secret_is_told_to_nobody(
    chat: Serve, model: ModelServer, registry: Registry, streaming: bool
) -> None:
    url = chat(plugins_enabled=True, plugins_config_file=CONFIG)
    with connected(url, "ann") as ann:
        model.will(*finds("who has the key", "I may not tell."))
        _, told = talk(ann, "who has it", streaming=streaming)
        known = json.dumps(ann.history())
    assert registry.asked == ["who has the key"]
    assert KEY not in json.dumps(model.requests) + told + known


def test_the_environment_is_in_a_configuration_as_at_the_gateway(
    chat: Serve, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_REDACTS", "true")
    monkeypatch.setenv("GATEWAY_BLOCKS", "false")
    with connected(chat(plugins_enabled=True, plugins_config_file=CONFIG), "ann") as ann:
        model.will(*finds("who has the key", "There."))
        ann.say("who has it")
    assert texts(model.requests[1], "tool") == ["found [PII] with ***REDACTED***"]


@pytest.mark.parametrize("streaming", [False, True])
def test_messages_are_masked_in_both_directions(
    chat: Serve, model: ModelServer, registry: Registry, tmp_path: Path, streaming: bool
) -> None:
    """The packages' own code, asked about messages, too, by the examples' few lines."""
    url = chat(**written(tmp_path, example("PIIRedaction"), example("SecretsDetection")))
    with connected(url, "ann") as ann:
        model.will(*finds(f"who is {MAIL}", f"It is {OTHER}. The key is {KEY}. Well."))
        answer, told = talk(ann, f"Who is {MAIL}? My key: {KEY}", streaming=streaming)
        known = json.dumps(ann.history()[1:])
    assert answer == "It is [REDACTED]. The key is ***REDACTED***. Well."
    assert texts(model.requests[0], "user") == ["Who is [REDACTED]? My key: ***REDACTED***"]
    assert registry.asked == ["who is [REDACTED]"]
    assert not any(each in json.dumps(model.requests) for each in (MAIL, OTHER, KEY))
    assert not any(each in told + known for each in (OTHER, KEY))


def free_port() -> int:
    """Return one that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def plugin_server(config: Path, port: int = 0) -> Iterator[str]:
    """Run the framework's own server with plugins; gives the URL."""
    port = port or free_port()
    env = {**os.environ, "PLUGINS_TRANSPORT": "http", "PLUGINS_CONFIG_PATH": str(config)}
    env |= {"PLUGINS_SERVER_HOST": "127.0.0.1", "PLUGINS_SERVER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "cpex.framework.external.mcp.server.runtime"],
        env=env,
        cwd=config.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"), "the plugins' server", seconds=60)
        yield f"http://localhost:{port}/mcp"  # the framework takes no addresses of this machine
    finally:
        process.kill()
        process.wait(20)


def answers(url: str) -> bool:
    """Return whether somebody does."""
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def remote(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """Return what the chat is told of a plugin elsewhere, and the configuration there."""
    there = tmp_path / "there.yaml"
    listed = [each for each in yaml.safe_load(plain_config()) if each["name"] == "PIIFilterPlugin"]
    there.write_text(yaml.safe_dump({"plugins": listed, "plugin_dirs": []}))
    hooks = ["tool_pre_invoke", "tool_post_invoke"]
    return {"name": "PIIFilterPlugin", "kind": "external", "hooks": hooks}, there


def plain_config() -> str:
    """The gateway's list of plugins, with nothing of the environment in it."""
    text = "".join(line for line in CONFIG.read_text().splitlines(True) if "{{" not in line)
    return yaml.safe_dump(yaml.safe_load(text)["plugins"])


def test_a_plugin_in_a_process_of_its_own(
    chat: Serve, model: ModelServer, registry: Registry, tmp_path: Path
) -> None:
    plugin, there = remote(tmp_path)
    with plugin_server(there) as address:
        url = chat(**written(tmp_path, {**plugin, "mcp": {"proto": "STREAMABLEHTTP", "url": address}}))
        with connected(url, "ann") as ann:
            model.will(*finds(f"who is {MAIL}", "Nobody."))
            ann.say("who is it")
    assert registry.asked == ["who is [PII]"]
    assert texts(model.requests[1], "tool") == ["found [PII]"]


def test_a_plugin_that_is_not_there_yet_keeps_what_it_guards(
    chat: Serve, model: ModelServer, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat serves, and asks the plugin as soon as it is there."""
    monkeypatch.setattr("mcp_chat.plugins.away.EVERY", 0.2)
    plugin, there = remote(tmp_path)
    port = free_port()
    at = {"proto": "STREAMABLEHTTP", "url": f"http://localhost:{port}/mcp"}
    with connected(chat(**written(tmp_path, {**plugin, "mcp": at})), "ann") as ann:

        def asked() -> list[str]:
            model.will(*finds(f"who is {MAIL}", "Nobody."))
            assert ann.say("who is it")["response"] == "Nobody."
            return registry.asked

        assert asked() == []
        away = "Blocked by the plugin PIIFilterPlugin: The plugin is not there. Please try again later."
        assert texts(model.requests[1], "tool") == [away]
        with plugin_server(there, port):
            wait_until(asked, "the plugin lets calls through")
    assert registry.asked == ["who is [PII]"]


def test_a_plugins_process_is_not_given_secrets(
    chat: Serve, model: ModelServer, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OPENAI_API_KEY", "hush")
    monkeypatch.setenv("PLUGINS_CLIENT_MTLS_KEYFILE_PASSWORD", "hush")
    telltale = {"name": "telltale", "kind": "tests.plugins_bridge.Telltale", "hooks": ["tool_pre_invoke"]}
    there = written(tmp_path, telltale)["plugins_config_file"].rename(tmp_path / "there.yaml")
    env = {"PLUGINS_TRANSPORT": "stdio", "PLUGINS_CONFIG_PATH": str(there), "ITS_OWN": "own"}
    command = [sys.executable, "-m", "cpex.framework.external.mcp.server.runtime"]
    plugin = {**telltale, "kind": "external", "mcp": {"proto": "STDIO", "cmd": command, "env": env}}
    with connected(chat(**written(tmp_path, plugin)), "ann") as ann:
        model.will(*finds("OPENAI_API_KEY PLUGINS_CLIENT_MTLS_KEYFILE_PASSWORD ITS_OWN TZ", "There."))
        ann.say("what is there")
    assert registry.asked[0].split() == ["own", *filter(None, [os.environ.get("TZ")])]


@pytest.mark.parametrize("bare", [False, True], ids=["as it is", "bare"])
def test_a_plugin_that_is_a_command(
    chat: Serve, model: ModelServer, registry: Registry, tmp_path: Path, bare: bool
) -> None:
    plugin, there = remote(tmp_path)
    command = [sys.executable, "-m", "cpex.framework.external.mcp.server.runtime"]
    env = {"PLUGINS_TRANSPORT": "stdio", "PLUGINS_CONFIG_PATH": str(there)}
    mcp: dict[str, Any] = {"proto": "STDIO", "cmd": command, "env": env}
    if bare:  # it is given nothing of the worker's environment
        given = [f"{variable}={value}" for variable, value in env.items()]
        mcp = {"proto": "STDIO", "cmd": ["env", "-i", *given, *command]}
    with connected(chat(**written(tmp_path, {**plugin, "mcp": mcp})), "ann") as ann:
        model.will(*finds(f"who is {MAIL}", "Nobody."))
        ann.say("who is it")
    assert registry.asked == ["who is [PII]"]


def test_no_plugin_sees_another_users_data(chat: Serve, model: ModelServer, tmp_path: Path) -> None:
    """One plugin serves two users at once, and asks for whatever it was given of either."""
    from tests import spying_plugin

    hooks = list(spying_plugin.HOOKS)
    spy = {"kind": "tests.spying_plugin.Spy", "hooks": hooks, "mode": "sequential"}
    also = {"kind": "tests.spying_plugin.Other", "hooks": hooks, "mode": "sequential", "priority": 200}
    url = chat(**written(tmp_path, spy, also))
    spying_plugin.SEEN.clear()
    model.reply_to = both  # type: ignore[method-assign]
    people = [connected(url, name) for name in USERS]
    turns = [  # both name their turns alike
        Thread(target=lambda each=each: each.say(f"I am {each.name}", message_id="same")) for each in people
    ]
    for turn in turns:
        turn.start()
    for turn in turns:
        turn.join(60)
    for each in people:
        each.http.close()
    assert {seen.user for seen in spying_plugin.SEEN} == set(USERS)
    assert {seen.hook for seen in spying_plugin.SEEN} == set(hooks)
    for seen in spying_plugin.SEEN:
        (other,) = set(USERS) - {seen.user}
        assert other not in seen.everything, seen


def both(sent: dict[str, Any]) -> Reply:
    """A model that is slow enough for the turns to run beside each other, and calls a tool in each."""
    name = texts(sent, "user")[0].removeprefix("I am ")
    if texts(sent, "tool"):
        return Reply(text=f"Hello {name}.", before=0.3)
    return Reply(calls=[("people__find", {"text": name})], before=0.3)
