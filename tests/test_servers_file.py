"""The operator's servers, in the shape that others use too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_chat.config import OAuthClient, ServerConfig
from mcp_chat.exceptions import InvalidRequest, SettingsError
from mcp_chat.servers import (
    current,
    distinct,
    filled_in,
    for_user,
    own_server,
    read_servers,
    shown,
    with_login,
)
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


# What other products write


@pytest.mark.parametrize(
    ("kind", "transport"),
    [
        ("http", "streamable_http"),
        ("streamable-http", "streamable_http"),
        ("streamable_http", "streamable_http"),
        ("streamableHttp", "streamable_http"),
        ("SSE", "sse"),
    ],
)
@pytest.mark.parametrize("key", ["type", "transport"])
def test_transports_have_all_their_usual_names(tmp_path: Path, key: str, kind: str, transport: str) -> None:
    assert read(tmp_path, {"web": {"url": "https://e", key: kind}})["web"].transport == transport


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ({"type": "ws", "url": "https://e"}, "the server web has a type that there is not; there are http"),
        ({"type": "stdio", "url": "https://e"}, "the server web is of type stdio and needs a command"),
        ({"type": "http", "command": "x"}, "the server web is of type http and needs a url"),
        (
            {"url": "https://e", "autoApprove": []},
            "web.autoApprove: there is no such key; there are type, url",
        ),
        (
            {"url": "https://e", "oauth": {"id": 1, "client_id": "x"}},
            "oauth.id: there is no such key; there are",
        ),
        ({"url": "https://e", "timeout": 0}, "timeout"),
        ({"url": "https://e", "timeout": 1e9}, "timeout"),
        ({"url": "https://e/${user.name}"}, r"wants \${user.name}, but there are only \${user.id} and"),
        ({"url": "https://e/${user.token}"}, r"may have \${user.token} in headers and env only"),
        (
            {"command": "x", "args": ["--key=${user.token}"]},
            r"may have \${user.token} in headers and env only",
        ),
        ({"command": "x", "cwd": "/data/${user.token}"}, r"may have \${user.token} in headers and env only"),
    ],
)
def test_what_cannot_be_meant_refuses_the_start_and_says_what_can(
    tmp_path: Path, server: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told) as refused:
        read(tmp_path, {"web": server})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("off", [{"enabled": False}, {"disabled": True}])
def test_a_server_that_is_switched_off_is_not_offered(tmp_path: Path, off: dict[str, bool]) -> None:
    assert set(read(tmp_path, {"web": {"url": "https://e", **off}, "on": {"url": "https://e"}})) == {"on"}


def test_what_the_operator_says_of_a_server_is_read(tmp_path: Path) -> None:
    entry = {
        "url": "https://e",
        "disabledTools": ["drop"],
        "timeout": 120,
        "apps": True,
        "oauth": {
            "client_id": "us",
            "client_secret": "${SECRET}",
            "issuer": "https://login.example",
            "scopes": ["read"],
        },
    }
    found = read(tmp_path, {"web": entry}, SECRET="CANARY")["web"]
    assert (found.barred_tools, found.timeout, found.apps) == (("drop",), 120, True)
    assert found.oauth == OAuthClient(
        client_id="us", client_secret="CANARY", issuer="https://login.example", scopes=("read",)
    )
    assert "CANARY" not in repr(found)
    assert read(tmp_path, {"run": {"command": "x", "cwd": "${HOME}/x"}}, HOME="/h")["run"].cwd == "/h/x"


# The users' own


def chosen(tmp_path: Path, server: dict[str, Any], user_id: str = "ann", token: str = "") -> ServerConfig:
    """What is opened for a user who has chosen the server."""
    listed = read(tmp_path, {"s": server})
    return current(for_user(listed["s"], user_id, token), listed, ())


def test_what_is_a_users_own_is_filled_in_when_it_is_opened(tmp_path: Path) -> None:
    url = "https://e/of/${user.id}"
    headers = {"Authorization": "Bearer ${user.token}", "X-User": "${user.id}"}
    found = chosen(tmp_path, {"url": url, "headers": headers}, "ann@e.org", "the-token")
    assert found.url == "https://e/of/ann%40e.org"
    assert found.all_headers() == {"Authorization": "Bearer the-token", "X-User": "ann@e.org"}
    command = {
        "command": "run",
        "args": ["--user=${user.id}"],
        "env": {"TOKEN": "${user.token}", "PLACE": "/data/${user.id}"},
        "cwd": "/home/${user.id}",
    }
    started = chosen(tmp_path, command, "ann", "to/ken")
    assert (started.args, started.cwd) == (("--user=ann",), "/home/ann")
    assert started.env == {"TOKEN": "to/ken", "PLACE": "/data/ann"}


def test_it_is_not_filled_in_where_it_is_stored_and_nobody_else_has_it(tmp_path: Path) -> None:
    listed = read(tmp_path, {"s": {"url": "https://e", "headers": {"X": "${user.token} ${user.id}"}}})
    stored = for_user(listed["s"], "ann", "CANARY")
    assert stored.headers == {"X": "${user.token} ${user.id}"}
    assert "CANARY" not in repr(stored)
    assert listed["s"].user_token is None
    assert filled_in(for_user(listed["s"], "bob", "other")).headers == {"X": "other bob"}


def test_a_server_that_wants_nothing_of_a_user_gets_nothing(tmp_path: Path) -> None:
    listed = read(tmp_path, {"s": {"url": "https://e", "headers": {"X": "y"}}})
    assert for_user(listed["s"], "ann", "CANARY") == listed["s"]


def test_who_has_no_token_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="needs the token of your login, and your login has none"):
        chosen(tmp_path, {"url": "https://e", "headers": {"X": "${user.token}"}})


def test_a_server_that_wants_more_than_before_wants_a_new_connect(tmp_path: Path) -> None:
    before = for_user(read(tmp_path, {"s": {"url": "https://e"}})["s"], "ann", "token")
    now = read(tmp_path, {"s": {"url": "https://e", "headers": {"X": "${user.token}"}}})
    with pytest.raises(InvalidRequest, match="needs more of your login than before"):
        current(before, now, ())


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\x00", "ä", "a\n", " a"])
@pytest.mark.parametrize("name", ["id", "token"])
def test_what_no_header_may_have_is_refused(tmp_path: Path, name: str, value: str) -> None:
    user_id, token = (value, "t") if name == "id" else ("u", value)
    with pytest.raises(InvalidRequest, match="has characters that the server s cannot be given") as refused:
        chosen(tmp_path, {"url": "https://e", "headers": {"X": f"${{user.{name}}}"}}, user_id, token)
    assert value.strip() not in str(refused.value) or len(value.strip()) < 2


@pytest.mark.parametrize("user_id", ["..", ".", "../bob", "a/b", "a\\b", "-rf", "a\x00b", "a\nb"])
@pytest.mark.parametrize(
    "server",
    [
        {"command": "x", "args": ["/data/${user.id}"]},
        {"command": "x", "args": ["${user.id}"]},
        {"command": "x", "env": {"PLACE": "/data/${user.id}"}},
        {"command": "x", "cwd": "/data/${user.id}"},
        {"url": "https://e/of/${user.id}/mcp"},
    ],
)
def test_a_name_that_would_be_a_path_or_an_option_is_refused(
    tmp_path: Path, server: dict[str, Any], user_id: str
) -> None:
    with pytest.raises(InvalidRequest, match="your name has characters"):
        chosen(tmp_path, server, user_id)
