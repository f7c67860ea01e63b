"""The plugin of docs/plugins.md, as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_chat.plugins import hooks
from tests.model_server import ModelServer, Reply
from tests.person import Person
from tests.plugged import REPOSITORY, need_packages

DOCUMENT = (REPOSITORY / "docs/plugins.md").read_text()


def blocks() -> dict[str, str]:
    """The files that the document shows, by their names."""
    return dict(re.findall(r"`(plugins/[a-z.]+)`[^\n]*:\n\n```\w+\n(.*?)```", DOCUMENT, re.DOTALL))


def test_ten_lines_are_a_plugin(
    serve: Callable[..., str],
    model: ModelServer,
    tmp_path: Path,
    demo_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_packages("cpex")
    files = blocks()
    assert set(files) == {"plugins/careful.py", "plugins/config.yaml"}
    assert sum(bool(line.strip()) for text in files.values() for line in text.splitlines()) <= 10
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Person(serve(plugins_enabled=True), "ann") as ann:
        ann.connect(server={"url": demo_url, "alias": "demo"})
        model.will(Reply(calls=[("demo__echo", {"text": "hello", "password": "hush"})]), Reply(text="done"))
        ann.say("say it")
        (call,) = ann.history()[1]["tool_calls"]
    assert call["args"] == {"text": "hello", "password": "***"}


def rows() -> list[list[str]]:
    """The table of hooks: each with its payload, when it comes, and what a change and a block do."""
    table = DOCUMENT.partition("## When they are asked")[2].partition("\n##")[0]
    found = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return [[hook.strip("`"), *others] for hook, *others in found]


def test_each_hook_is_in_the_table() -> None:
    assert {hook for hook, *_ in rows()} == set(hooks.HOOKS)


def test_the_table_has_the_payloads_fields_and_says_when() -> None:
    need_packages("cpex")
    from cpex.framework import get_hook_registry

    from mcp_chat.plugins.payloads import register

    register()
    kinds = {"Message", "text", "thinking", "tool_call", "tool_result"}  # of what is in a `message`
    for hook, payload, when, *_ in rows():
        fields = set(get_hook_registry().get_payload_type(hook).model_fields)
        named = set(re.findall(r"`(\w+)", re.sub(r"\([^)]*\)", "", payload))) - kinds
        assert named <= fields, hook
        assert named or payload.startswith("the same"), hook
        assert len(when.split()) > 2, hook
