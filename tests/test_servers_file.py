"""The operator's servers, in the shape that others use too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import InvalidRequest, SettingsError
from mcp_chat.servers import distinct, own_server, read_servers, shown, with_login
from mcp_chat.urls import origin_of


def read(tmp_path: Path, servers: Any, **environ: str) -> dict[str, ServerConfig]:
    """Read servers from a file."""
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    return read_servers(path, environ)


def test_without_a_file_there_are_no_servers(tmp_path: Path) -> None:
    assert read_servers(tmp_path / "servers.json") == {}


def test_the_file_that_comes_with_the_product_is_valid() -> None:
    assert read_servers(Path(__file__).parent.parent / "config" / "servers.json") == {}


def test_the_common_shapes_are_understood(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "web": {"url": "https://example.org/mcp", "description": "The web."},
            "typed": {"type": "streamable-http", "url": "https://example.org/mcp"},
            "old": {"type": "sse", "url": "https://example.org/sse"},
            "time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TZ": "UTC"}},
        },
    )
    assert {name: server.transport for name, server in found.items()} == {
        "web": "streamable_http",
        "typed": "streamable_http",
        "old": "sse",
        "time": "stdio",
    }
    assert found["time"] == ServerConfig(
        alias="time",
        transport="stdio",
        command="uvx",
        args=("mcp-server-time",),
        env={"TZ": "UTC"},
        operator=True,
    )
    assert all(server.operator for server in found.values())


def test_placeholders_stand_for_the_environment(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "web": {"url": "https://${HOST_1}/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}},
            "run": {"command": "run", "args": ["--key=${TOKEN}"], "env": {"KEY": "${TOKEN}"}},
        },
        HOST_1="example.org",
        TOKEN="CANARY",
    )
    assert found["web"].url == "https://example.org/mcp"
    assert found["web"].headers == {"Authorization": "Bearer CANARY"}
    assert found["run"].args == ("--key=CANARY",)
    assert found["run"].env == {"KEY": "CANARY"}


def test_what_stands_for_a_placeholder_is_not_filled_again(tmp_path: Path) -> None:
    found = read(tmp_path, {"web": {"url": "https://e/${A}"}}, A="${B}", B="no")
    assert found["web"].url == "https://e/${B}"


def test_a_placeholder_for_nothing_refuses_the_start_and_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="NO_SUCH_TOKEN"):
        read(tmp_path, {"web": {"url": "https://e", "headers": {"Authorization": "Bearer ${NO_SUCH_TOKEN}"}}})


def test_users_see_names_and_descriptions_but_no_address_and_no_command(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {
            "web": {"url": "https://CANARY/mcp", "headers": {"X": "CANARY"}, "description": "The web."},
            "run": {"command": "CANARY", "args": ["CANARY"], "env": {"K": "CANARY"}},
        },
    )
    assert shown(found) == [
        {"name": "web", "description": "The web.", "transport": "streamable_http"},
        {"name": "run", "description": "", "transport": "stdio"},
    ]


@pytest.mark.parametrize("name", ["", "a b", "a_b", "-a", "ä", "a/b", "a:b", "x" * 33, "a\n", "../a"])
def test_a_name_that_cannot_stand_before_a_tool_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="letters, digits and hyphens"):
        read(tmp_path, {name: {"url": "https://example.org"}})


@pytest.mark.parametrize("server", [{}, {"url": "https://e", "command": "x"}, {"url": ""}, {"args": ["x"]}])
def test_a_server_needs_an_address_or_a_command(tmp_path: Path, server: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="either a url or a command"):
        read(tmp_path, {"web": server})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cannot be read as JSON"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[]", "the whole file"),
        (b'{"servers": {}}', "servers: Extra"),
        (b'{"mcpServers": []}', "mcpServers"),
        (b'{"mcpServers": {"web": "https://e"}}', "mcpServers.web"),
        (b'{"mcpServers": {"web": {"url": "https://e", "header": {}}}}', "mcpServers.web.header"),
        (b'{"mcpServers": {"web": {"url": 7}}}', "mcpServers.web.url"),
        (b'{"mcpServers": {"web": {"command": "x", "args": "y"}}}', "mcpServers.web.args"),
        (b'{"mcpServers": {"web": {"url": "https://e", "headers": {"X": ["CANARY"]}}}}', "web.headers.X"),
    ],
)
def test_a_file_that_is_not_valid_is_one_sentence_that_says_where(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "servers.json"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=problem) as refused:
        read_servers(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
    assert "CANARY" not in str(refused.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        read_servers(tmp_path)


# Servers that users name


@pytest.mark.parametrize(
    ("url", "alias"),
    [
        ("https://mcp.example.org/mcp", "example"),
        ("https://www.example.org", "example"),
        ("https://tools.example.org", "tools"),
        ("http://127.0.0.1:3001/mcp", "server"),
        ("http://[::1]/mcp", "server"),
        ("http://localhost:1", "localhost"),
    ],
)
def test_a_server_without_an_alias_is_called_after_its_host(url: str, alias: str) -> None:
    assert own_server(url, transport="streamable_http", auth_token=None, alias=None).alias == alias


@pytest.mark.parametrize(
    ("header", "value"),
    [("Authorization", "Bearer ${TOKEN}"), ("X:", "y"), ("X Y", "z"), ("", "x"), ("X", "a\nb"), ("Ä", "x")],
)
def test_a_header_that_cannot_be_sent_is_one_sentence_without_its_value(
    tmp_path: Path, header: str, value: str
) -> None:
    """A token that was read from a file has its line end with it."""
    path = tmp_path / "servers.json"
    path.write_text(json.dumps({"mcpServers": {"a": {"url": "https://e.org", "headers": {header: value}}}}))
    with pytest.raises(SettingsError, match="the server a has a header that cannot be sent") as refused:
        read_servers(path, {"TOKEN": "CANARY\n"})
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize("token", ["a\r\nX: y", "a\nb", "ä", "\x00", "a\x7fb", " a", "a ", "a\n"])
def test_a_token_that_no_header_may_have_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest):
        own_server("https://e.org", transport="streamable_http", auth_token=token, alias=None)


def test_a_login_that_no_header_may_have_is_refused() -> None:
    gateway = own_server("https://e.org/mcp", transport="sse", auth_token=None, alias=None)
    assert with_login(gateway, "abc", {"https://e.org"}).login
    with pytest.raises(InvalidRequest, match="your login"):
        with_login(gateway, "a\r\nX: y", {"https://e.org"})


@pytest.mark.parametrize("url", ["", "mcp", "//e.org", "https://", "https://[::1/", "https://e.org:99999/"])
def test_what_has_no_origin_gets_no_login(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        origin_of(url)
    assert with_login(ServerConfig(alias="a", url=url), "abc", {"?", "https://e.org"}).auth_token is None


def test_a_user_names_no_command() -> None:
    with pytest.raises(InvalidRequest):
        own_server("https://e.org", transport="stdio", auth_token=None, alias=None)


def test_an_empty_token_is_no_token() -> None:
    assert own_server("https://e.org", transport="sse", auth_token="", alias=None).all_headers() == {}


def test_two_servers_of_one_alias_are_refused_also_when_case_differs() -> None:
    one, other = (ServerConfig(alias=alias, url="https://e.org") for alias in ("Time", "time"))
    with pytest.raises(InvalidRequest, match="alias"):
        distinct([one, other])
    assert distinct([one]) == (one,)
