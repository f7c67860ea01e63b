"""`mcp-chat plugins`, and what Prometheus is told of plugins: sums over real workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_chat.plugins.base import Described
from mcp_chat.plugins_cli import lines, measured, scraped
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.plugged import REPOSITORY, example, need_packages, written
from tests.running import wait_until

pytestmark = pytest.mark.slow

BUDGET = {"budgets": [{"users": ["poor"], "tokens": 1}]}


@pytest.fixture(autouse=True)
def packages() -> None:
    """What is shown."""
    need_packages("cpex")


@pytest.fixture
def configured(tmp_path: Path) -> dict[str, str]:
    """The environment in which two plugins are loaded, and a third is not."""
    plugins = (
        example("ToolAllowList", priority=90, conditions=[{"tools": ["add"]}]),
        example("DayBudget", config=BUDGET, on_error="ignore"),
        example("ExportWatermark", mode="disabled"),
    )
    path = written(tmp_path, *plugins)["plugins_config_file"]
    return {"PLUGINS_ENABLED": "true", "PLUGINS_CONFIG_FILE": str(path), "PYTHONPATH": str(REPOSITORY)}


def told(*options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does."""
    command = [str(Path(sys.executable).with_name("mcp-chat")), "plugins", *options]
    clean = {"PATH": os.environ["PATH"], "MCP_CHAT_PORT": "9", **env}
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=False)


def listed(*options: str, **env: str) -> list[dict[str, Any]]:
    """Return what the command says as JSON."""
    done = told("--json", *options, **env)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_plugins_are_shown_in_their_order(configured: dict[str, Any]) -> None:
    budget, tools, mark = listed(**configured)
    assert (budget["name"], budget["priority"], budget["on_error"]) == ("DayBudget", 20, "ignore")
    assert (tools["name"], tools["mode"]) == ("ToolAllowList", "sequential")
    assert tools["kind"] == "plugins.tool_allow_list.ToolAllowList"
    assert (tools["conditions"], tools["version"]) == ([{"tools": ["add"]}], "1.0.0")
    assert (mark["name"], mark["mode"], list(mark["hooks"])) == (
        "ExportWatermark",
        "disabled",
        ["chat_export"],
    )
    shown = told(**configured).stdout
    assert "DayBudget: sequential, priority 20, on_error ignore (plugins.day_budget.DayBudget 1.0.0)" in shown
    assert '  only for {"tools": ["add"]}\n  tool_pre_invoke\n' in shown


def test_what_plugins_took_is_shown() -> None:
    labels = '{plugin="Slow",hook="tool_pre_invoke"}'
    counted = f"mcp_chat_plugin_seconds_count{labels} 4\nmcp_chat_plugin_seconds_sum{labels} 2\n"
    times = measured(f"# TYPE mcp_chat_plugin_seconds histogram\n{counted}")
    known: dict[str, Any] = {"kind": "a.B", "mode": "audit", "priority": 7, "on_error": "fail"}
    slow = Described(name="Slow", hooks=("tool_pre_invoke", "evaluate"), **known)
    first, asked, not_asked = lines(slow, times)
    assert first == "Slow: audit, priority 7, on_error fail (a.B)"
    assert asked == "  tool_pre_invoke: asked 4 times, 2.000 s, 500.00 ms each"
    assert not_asked == "  evaluate"


def test_a_plugin_that_is_not_there_is_shown_as_such(tmp_path: Path) -> None:
    at = {"proto": "STREAMABLEHTTP", "url": "http://localhost:9/mcp"}
    plugin = {"name": "Far", "kind": "external", "hooks": ["tool_pre_invoke"], "mcp": at}
    path = str(written(tmp_path, plugin)["plugins_config_file"])
    env = {"PLUGINS_ENABLED": "true", "PLUGINS_CONFIG_FILE": path, "PYTHONPATH": str(REPOSITORY)}
    done = told(**env)
    assert (done.returncode, "  not there: " in done.stdout) == (0, True), done.stderr
    assert [each["away"] for each in listed(**env)] == [True]


def test_without_plugins_it_says_so() -> None:
    done = told()
    assert (done.returncode, done.stdout) == (0, "")
    assert "PLUGINS_ENABLED is not set" in done.stderr


def test_a_plugin_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    broken = {"name": "Broken", "kind": "plugins.nowhere.Nothing", "hooks": ["tool_pre_invoke"]}
    path = str(written(tmp_path, broken)["plugins_config_file"])
    done = told(PLUGINS_ENABLED="true", PLUGINS_CONFIG_FILE=path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 2
    assert "Broken" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_at_which_nobody_answers_is_an_error(configured: dict[str, Any]) -> None:
    done = told("--url", "http://127.0.0.1:9", **configured)
    assert done.returncode == 2
    assert "No chat answers at http://127.0.0.1:9" in done.stderr


@pytest.fixture
def installation(tmp_path: Path, model_url: str, configured: dict[str, Any]) -> Iterator[Installation]:
    """Two workers with those plugins."""
    with Installation(tmp_path, model_url, **configured) as chat:
        yield chat


@pytest.mark.slow
def test_what_plugins_do_is_summed_over_workers(
    installation: Installation, model: ModelServer, configured: dict[str, Any]
) -> None:
    for worker in installation.workers():
        for name in ("rich", "poor"):
            with installation.person(name, worker) as person:
                person.connect()
                model.will(Reply(text="one two"))
                person.post("chat", message="hello")

    def both() -> bool:
        return measured(scraped(installation.url, asked_for=True))["DayBudget", "agent_pre_invoke"].asked == 4

    wait_until(both, "four turns are counted")
    budget, *_ = listed("--url", installation.url, **configured)
    at_turns = budget["hooks"]["agent_pre_invoke"]
    assert (at_turns["asked"], at_turns["blocks"], at_turns["errors"]) == (4, 1, 0)
    assert at_turns["seconds"] > 0
    assert "asked 4 times" in told("--url", installation.url, **configured).stdout
