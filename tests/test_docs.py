"""The documents tell the truth: their commands are run, their settings and operations exist."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mcp_chat.api.errors import STATUS
from mcp_chat.catalogue import read_catalogue
from mcp_chat.message import Usage
from mcp_chat.metrics import Metrics
from mcp_chat.models.providers.table import PROVIDERS
from mcp_chat.prices import PriceList
from mcp_chat.servers import read_servers
from mcp_chat.settings import Settings
from mcp_chat.stores.client import open_client
from mcp_chat.stores.database import migrate
from mcp_chat.vault import Vault
from tests.conftest import need
from tests.guards.table import GUARDS
from tests.installation import Installation
from tests.model_server import ModelServer, Reply
from tests.packages import node, script
from tests.running import running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGES = (
    *("operations", "identity", "secrets", "audit", "security"),
    *("models", "scaling", "http-api", "architecture", "history", "mcp", "oauth"),
    *("usage", "turns", "approvals", "embedding"),
)
USUAL: dict[str, Any] = {"MCP_CHAT_APPROVALS": "on"}
"""What an operator has who sets nothing, where the tests set something else."""

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The code blocks of a page: language and text."""
    return BLOCK.findall((ROOT / page).read_text())


def shape(value: Any) -> Any:
    """A JSON value without what differs from run to run: its fields, their types, known texts."""
    match value:
        case dict():
            return {name: shape(each) for name, each in value.items()}
        case list():
            return [shape(each) for each in value]
        case bool() | None:
            return value
        case str() if re.fullmatch(r"[0-9a-f]{32}(-\w+)?|call_\w+|\d{4}-\d\d-\d\dT.*", value):
            return "varies"
        case str():
            return value
        case _:
            return "number"


def run(command: str, directory: Path, url: str) -> str:
    """Run a command of a page against another address."""
    command = command.replace("http://127.0.0.1:8000", url)
    done = subprocess.run(
        ["sh", "-ec", command], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def frames(text: str) -> list[Any]:
    """A stream as it is shown: events and the shapes of their data, neighbouring tokens as one."""
    out: list[Any] = []
    for event, data in re.findall(r"event: (\w+)\ndata: (.*)\n", text):
        value = json.loads(data)
        if event == "token" and out and out[-1][0] == "token":
            out[-1][1]["content"] += value["content"]
        else:
            out.append([event, value])
    return [[event, shape(value)] for event, value in out]


def test_the_readmes_commands_answer_what_it_shows(tmp_path: Path) -> None:
    need("curl")
    found = blocks("README.md")
    assert found[0] == ("sh", "make serve   # then open http://127.0.0.1:8000\nmake test\n")
    examples = list(zip(found[1::2], found[2::2], strict=True))
    assert len(examples) == 6
    with Installation(tmp_path, "http://127.0.0.1:9/v1", **USUAL) as installation:
        for (_, command), (language, shown) in examples:
            answered = run(command, tmp_path, installation.url)
            if language == "text":
                assert frames(answered) == frames(shown + "\n")
                continue
            wanted, got = json.loads(shown), json.loads(answered)
            if "..." in wanted.get("tools", ()):
                got["tools"] = [*got["tools"][:2], "..."]
            assert shape(got) == shape(wanted)


def test_the_models_pages_commands_answer_what_it_shows(tmp_path: Path) -> None:
    need("curl")
    found = blocks("docs/models.md")
    ((_, listed),) = (each for each in found if each[0] == "yaml")
    models = tmp_path / "listed.yaml"
    models.write_text(listed)
    assert [entry.fallbacks for entry in read_catalogue(models)] == [("openai:small-model",), ()]
    env: dict[str, Any] = {"MCP_CHAT_MODELS_FILE": str(models), "MCP_CHAT_ALLOWED_NETWORKS": "127.0.0.0/8"}
    with Installation(tmp_path, "http://127.0.0.1:9/v1", workers=1, **env) as installation:
        for (language, command), (_, shown) in itertools.pairwise(found):
            if language == "sh":
                answered = json.loads(run(command, tmp_path, installation.url))
                assert shape(answered) == shape(json.loads(shown))


def test_the_models_page_has_all_there_is_to_know_of_a_provider() -> None:
    page = (ROOT / "docs/models.md").read_text()
    for known in PROVIDERS.values():
        (row,) = re.findall(rf"^\| `{known.name}`.*$", page, re.MULTILINE)
        named = set(re.findall(r"`(\w+)`", row))
        assert {*known.brings, *known.keys[:1]} - {"base_url"} <= named | {"WATSONX_APIKEY"}
        assert f"`mcp-chat[{known.extra}]`" in row or "always there" in row


@pytest.mark.slow
def test_the_mcp_pages_commands_answer_what_it_shows(tmp_path: Path) -> None:
    need("curl")
    everything = {"command": str(node()), "args": [str(script("server-everything")), "stdio"]}
    servers = {"all": {**everything, "tools": {"*": "allow"}}}
    found = [*blocks("docs/mcp.md"), ("sh", "")]
    shown_after = {each: after for each, after in itertools.pairwise(found) if each[0] == "sh"}
    assert len(shown_after) == 6
    with Installation(tmp_path, "http://127.0.0.1:9/v1", servers=servers, **USUAL) as installation:
        run(blocks("README.md")[1][1], tmp_path, installation.url)
        for (_, command), (language, shown) in shown_after.items():
            answered = run(command, tmp_path, installation.url)
            if language == "text":
                assert answered == shown.rstrip("\n")
            elif language == "json":
                assert json.loads(answered) == json.loads(shown)
            else:
                assert "detail" not in json.loads(answered), answered


def test_the_usage_pages_commands_answer_what_it_shows(tmp_path: Path) -> None:
    need("curl")
    (_, say), (_, said), (_, ask), (_, told), (_, report), _ = blocks("docs/usage.md")
    with Installation(tmp_path, "http://127.0.0.1:9/v1", **USUAL) as installation:
        for _, command in blocks("README.md")[1:4:2]:
            run(command, tmp_path, installation.url)
        before = json.loads(run(ask, tmp_path, installation.url))["total"]["steps"]
        assert shape(json.loads(run(say, tmp_path, installation.url))) == shape(json.loads(said))
        answered = json.loads(run(ask, tmp_path, installation.url))
        assert days_aside(answered) == days_aside(json.loads(told))
        assert answered["total"]["steps"] == before + json.loads(said)["steps"]
    program = f"MCP_CHAT_DATA_DIR={installation.data} '{sys.executable}' -m mcp_chat"
    written = run(report.replace("mcp-chat", program).replace("ann@example.org", "alice"), tmp_path, "")
    heads, line, *rest = written.splitlines()
    assert heads.startswith("user,model,input_tokens,output_tokens,")
    assert line.startswith("alice,demo:demo,")
    assert [json.loads(each)["user"] for each in rest] == ["alice"]


def test_the_usage_pages_prices_are_what_the_file_means(tmp_path: Path) -> None:
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/usage.md").read_text(), re.DOTALL)
    assert shown is not None
    (tmp_path / "models.yaml").write_text(textwrap.dedent(shown[1]))
    bill = PriceList(read_catalogue(tmp_path / "models.yaml")).bill("openai:gpt-4o-mini")
    assert bill.tariff.cost(Usage(input_tokens=1_000_000, cached_tokens=500_000)) == 112_500_000


def days_aside(answer: dict[str, Any]) -> Any:
    """An answer's shape without the days in it."""
    return {**shape(answer), "since": "day", "until": "day", "limits": sorted(answer["limits"])}


def test_the_turns_pages_commands_answer_what_it_shows(tmp_path: Path) -> None:
    need("curl")
    model, found = ModelServer(), blocks("docs/turns.md")
    commands = [text for language, text in found if language == "sh"]
    shown = [text for language, text in found if language == "text"]
    limited = Reply(status=429, headers={"retry-after": "2"})
    scripts = [
        [Reply(text="one two", pause=2), Reply(text="three four")],
        [limited, Reply(text="Hello to you.")],
    ]
    with running(model.app) as url, Installation(tmp_path, f"{url}/v1") as installation:
        for command in [text for _, text in blocks("README.md")[1:4:2]]:
            run(command.replace("demo:demo", "openai:scripted"), tmp_path, installation.url)
        for command, text, script in zip(commands, shown, scripts, strict=True):
            model.will(*script)
            assert frames(run(command, tmp_path, installation.url)) == frames(text + "\n")


def test_the_turns_pages_models_file_is_valid(tmp_path: Path) -> None:
    [shown] = [text for language, text in blocks("docs/turns.md") if language == "yaml"]
    path = tmp_path / "models.yaml"
    path.write_text(shown)
    assert read_catalogue(path)[0].fallbacks == ("openai:gpt-5.2-mini", "ollama:qwen3")


def test_the_replay_pages_commands_show_what_they_show(tmp_path: Path) -> None:
    need("curl")
    (_, have), (_, again), (_, shown), (language, test) = blocks("docs/replay.md")
    with Installation(tmp_path, "http://127.0.0.1:9/v1", **USUAL) as installation:
        for _, command in blocks("README.md")[1:4:2]:
            run(command, tmp_path, installation.url)
        run(have, tmp_path, installation.url)
    program = f"'{sys.executable}' -m mcp_chat"
    printed = run(again.replace("mcp-chat", program), tmp_path, "")
    ids = re.compile(r"call_\w+")
    assert ids.sub("call", printed) == ids.sub("call", shown)
    assert language == "python"
    (tmp_path / "test_it.py").write_text(test)
    run(f"'{sys.executable}' -m pytest -q -p no:cacheprovider test_it.py", tmp_path, "")


def test_the_approvals_pages_commands_answer_what_it_shows(tmp_path: Path) -> None:
    need("curl")
    found = [*blocks("docs/approvals.md"), ("sh", "")]
    assert len([language for language, _ in found if language == "sh"]) == 11
    with Installation(tmp_path, "http://127.0.0.1:9/v1", **USUAL) as installation:
        for (language, command), (form, shown) in itertools.pairwise(found):
            answered = run(command, tmp_path, installation.url) if language == "sh" else ""
            if language == "sh" and form == "text":
                assert answered == shown
            elif language == "sh" and form == "json":
                assert shape(json.loads(answered)) == shape(json.loads(shown))


def test_the_approvals_pages_servers_file_is_what_it_says(tmp_path: Path) -> None:
    shown = next(text for language, text in blocks("docs/approvals.md") if language == "json")
    path = tmp_path / "servers.json"
    path.write_text(shown)
    shop = read_servers(path)["shop"]
    assert shop.rules == {"*": "ask", "search_*": "allow", "delete_*": "deny"}
    assert (shop.safe_tools, shop.always) == (("find",), False)


def test_the_readme_begins_with_the_two_commands_and_a_picture() -> None:
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert "make serve" in screen
    assert "make test" in screen
    picture = re.search(r"!\[.+\]\((.+\.png)\)", screen)
    assert picture is not None
    assert (ROOT / picture[1]).stat().st_size > 10_000


@pytest.mark.parametrize(
    "page", [*sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md")), "README.md"]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    here = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert (here / target).exists(), f"{page} links to {target}"


def test_each_setting_that_a_page_names_exists() -> None:
    known = {str(field.alias) for field in Settings.model_fields.values()}
    prefixes = r"MCP_CHAT_|LLMCHAT_|JWT_|GUNICORN_|WORKER_|REDIS_|DATABASE_|OLLAMA_"
    for page in ("README.md", *(f"docs/{name}.md" for name in PAGES)):
        named = set(re.findall(rf"\b(?:{prefixes})[A-Z0-9_]+\b", (ROOT / page).read_text()))
        assert named <= known, f"{page}: {named - known}"


def test_each_status_code_is_documented() -> None:
    page = (ROOT / "docs/http-api.md").read_text()
    for status in set(STATUS.values()) - {500}:
        assert f"| {status} |" in page


def test_the_documented_servers_file_is_valid(tmp_path: Path) -> None:
    [shown] = [text for language, text in blocks("docs/operations.md") if language == "json"]
    path = tmp_path / "servers.json"
    path.write_text(shown)
    servers = read_servers(path, {"GATEWAY_TOKEN": "t"})
    assert servers["gateway"].headers == {"Authorization": "Bearer t"}
    assert servers["time"].transport == "stdio"


def test_the_scaling_pages_safe_tools_are_what_the_file_means(tmp_path: Path) -> None:
    [shown] = [text for language, text in blocks("docs/scaling.md") if language == "json"]
    path = tmp_path / "servers.json"
    path.write_text(shown)
    shop = read_servers(path)["shop"]
    assert shop.safe_tools == ("find_article",)
    assert shop.trust_read_only is False


def test_each_test_that_the_security_page_names_exists() -> None:
    page = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.\w+)(?:::(\w+))?`", page)
    assert len({test for _, test in named if test}) >= 28
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), (
            test
        )


def test_each_guard_is_taken_out_before_a_test_that_the_security_page_names() -> None:
    page = (ROOT / "docs/security.md").read_text()
    rows = dict(re.findall(r"^\| (R\d+) \|.*\| (.*) \|$", page, re.MULTILINE))
    for item in {guard.item for guard in GUARDS}:
        assert any(guard.test in rows[item] for guard in GUARDS if guard.item == item), item


def test_each_metric_that_is_to_be_watched_exists() -> None:
    named = set(re.findall(r"mcp_chat_[a-z_]+", (ROOT / "docs/scaling.md").read_text()))
    counted = Metrics().text().decode()
    assert len(named) > 8
    assert [name for name in named if f"\n# TYPE {name} " not in counted] == []


def test_each_log_line_that_is_to_be_watched_is_written() -> None:
    (line,) = re.findall(r"The log lines are (.*?),\neach", (ROOT / "docs/scaling.md").read_text(), re.DOTALL)
    source = "".join(path.read_text() for path in (ROOT / "mcp_chat").glob("*.py"))
    named = re.findall(r"`([a-z.]+)`", line)
    assert len(named) > 6
    assert [event for event in named if f'"{event}"' not in source] == []


@pytest.mark.anyio
async def test_each_form_of_a_redis_url_that_is_shown_is_one() -> None:
    page = (ROOT / "docs/scaling.md").read_text()
    urls = re.findall(r"^(redis\S*://\S+)  ", page, re.MULTILINE)
    assert len(urls) == 3
    for url in urls:
        async with open_client(url):
            pass  # nothing is dialled before the first command


def test_the_history_pages_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valkey_url: str
) -> None:
    ((_, code),) = [block for block in blocks("docs/history.md") if block[0] == "python"]
    code = code.replace("redis://localhost:6379/0", valkey_url)
    imports, _, rest = code.partition("\n\nmigrate(")
    body = "".join(f"    {line}\n" if line else "\n" for line in f"migrate({rest}".splitlines())
    script = (
        f"{imports}\n\nasync def main():\n{body}    print(await history.get_history('alice@example.com'))\n"
    )
    (tmp_path / "example.py").write_text(f"import asyncio\n{script}\nasyncio.run(main())\n")
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "example.py"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "content='hello'" in done.stdout


def test_the_secrets_pages_rotation_does_what_it_shows(tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path}/chat.db")
    [(_, script)] = [block for block in blocks("docs/secrets.md") if block[0] == "sh"]
    _, shown = (text for language, text in blocks("docs/secrets.md") if language == "text")
    vault = Vault([bytes(range(32))])
    with sqlite3.connect(tmp_path / "chat.db") as connection:
        config = vault.seal("secret", user="ann", field="config")
        connection.execute("INSERT INTO chat_user VALUES ('ann', 1, ?, '2026-01-01')", (config,))
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": f"sqlite:///{tmp_path}/chat.db",
        "MCP_CHAT_ENCRYPTION_KEY": base64.b64encode(bytes(range(32))).decode(),
    }
    done = subprocess.run(
        ["sh", "-ec", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *table = done.stdout.splitlines()
    assert first == "Renewed: 1. Left under older keys or unsealed: 0. Unreadable: 0."
    assert [re.sub(r"[0-9a-f]{16}|\d+$", "*", line).split() for line in table] == [
        re.sub(r"[0-9a-f]{16}|\d+$", "*", line).split() for line in shown.splitlines()
    ]


def test_make_help_lists_each_target() -> None:
    need("make")
    if shutil.which("awk") is None:
        pytest.skip("awk is missing")
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("serve", "test", "lint", "coverage", "bench", "lock", "vendor"):
        assert f"make {target} " in listed
