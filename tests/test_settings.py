"""Settings: what is documented, what is refused, and that no secret is shown."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from mcp_chat import cli
from mcp_chat.app import create_app
from mcp_chat.exceptions import SettingsError
from mcp_chat.parts import check_stores
from mcp_chat.safety import check_settings
from mcp_chat.settings import Settings, env_example, load_settings
from mcp_chat.spelling import as_text
from mcp_chat.urls import is_loopback

ROOT = Path(__file__).parent.parent
KEY = base64.b64encode(bytes(range(32))).decode()
SECRET = "x" * 32
VARIABLES = {str(field.alias): name for name, field in Settings.model_fields.items()}


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str
) -> tuple[int, str, str]:
    """Run the command line; return exit code, output and errors."""
    monkeypatch.setattr("sys.argv", ["mcp-chat", *args])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


# The example


def test_the_example_file_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(monkeypatch, capsys, "settings", "--env-example")
    assert code == 0
    assert out == env_example() == (ROOT / ".env.example").read_text()


def test_every_setting_is_in_the_example_with_one_line_of_help() -> None:
    blocks = env_example().split("\n\n")[1:]
    assert len(blocks) == len(VARIABLES)
    for block, variable in zip(blocks, VARIABLES, strict=True):
        help_line, value_line = block.strip().split("\n")
        assert re.fullmatch(r"# \S.{10,100}\.", help_line), help_line
        assert value_line.startswith(f"# {variable}=")


def test_every_line_of_the_example_is_the_default_when_it_is_uncommented(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = re.findall(r"^# ([A-Z0-9_]+=.*)$", env_example(), re.MULTILINE)
    assert len(lines) == len(VARIABLES)
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.setitem(Settings.model_config, "env_file", str(tmp_path / ".env"))
    assert load_settings() == Settings.model_construct(
        **{n: f.default for n, f in Settings.model_fields.items()}
    )


def test_no_secret_has_a_default() -> None:
    assert not re.search(r"^# [A-Z_]*(SECRET|KEY|REDIS_URL|DATABASE_URL)=.+$", env_example(), re.MULTILINE)


# The names


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("REDIS_URL", "redis://r:6379/1", "redis://r:6379/1"),
        ("DATABASE_URL", "postgresql://u:p@h/d", "postgresql://u:p@h/d"),
        ("JWT_SECRET_KEY", SECRET, SECRET),
        ("JWT_ALGORITHM", "HS256", ("HS256",)),
        ("JWT_AUDIENCE", "mcpgateway-api", "mcpgateway-api"),
        ("JWT_ISSUER", "mcpgateway", "mcpgateway"),
        ("GUNICORN_WORKERS", "16", 16),
        ("WORKER_ID", "host-a", "host-a"),
        ("LLMCHAT_SESSION_TTL", "300", 300),
        ("LLMCHAT_SESSION_LOCK_TTL", "30", 30),
        ("LLMCHAT_SESSION_LOCK_RETRIES", "10", 10),
        ("LLMCHAT_SESSION_LOCK_WAIT", "0.2", 0.2),
        ("LLMCHAT_CHAT_HISTORY_TTL", "3600", 3600),
        ("LLMCHAT_CHAT_HISTORY_MAX_MESSAGES", "50", 50),
    ],
)
def test_the_names_of_contextforge_mean_the_same(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
) -> None:
    monkeypatch.setenv(variable, text)
    read = getattr(load_settings(), VARIABLES[variable])
    assert (read.get_secret_value() if hasattr(read, "get_secret_value") else read) == value


def test_variables_of_others_and_empty_ones_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    monkeypatch.setenv("MCP_CHAT_NO_SUCH_THING", "1")
    monkeypatch.setenv("MCPGATEWAY_UI_ENABLED", "true")
    monkeypatch.setenv("MCP_CHAT_PORT", "")
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert load_settings() == before


def test_networks_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_CHAT_ALLOWED_NETWORKS", "10.0.0.0/8, ::1/128,192.168.1.7")
    assert [str(n) for n in load_settings().allowed_networks] == ["10.0.0.0/8", "::1/128", "192.168.1.7/32"]


def test_ports_are_a_list_of_numbers_and_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_CHAT_ALLOWED_PORTS", "443, 8000-8999,")
    read = load_settings().allowed_ports
    assert read == (range(443, 444), range(8000, 9000))
    assert as_text(read) == "443,8000-8999"


@pytest.mark.parametrize(
    "origin",
    [
        "http://gateway.example.org",
        "https://gateway.example.org/servers",
        "https://gateway.example.org/",
        "https://gateway.example.org?x",
        "https://user@gateway.example.org",
        "https://*.example.org",
        "https://gateway.example.org:0",
        "https://gateway.example.org:6379",
        "https://gateway..org",
        "gateway.example.org",
        "*",
        "null",
    ],
)
def test_what_is_no_origin_of_a_gateway_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match="MCP_CHAT_GATEWAY_ORIGINS") as refused:
        create_app(load_settings(gateway_origins=f"https://good.example.org:4444,{origin}", workers=1))
    assert str(refused.value).count(". ") == 0


@pytest.mark.parametrize("origin", ["https://g.example:8443", "http://127.0.0.1:4444", "http://[::1]:4444"])
def test_a_gateways_origin_is_encrypted_or_on_this_machine(origin: str) -> None:
    create_app(load_settings(gateway_origins=origin, workers=1))


# What is refused

BAD = [
    ("MCP_CHAT_PORT", "http"),
    ("MCP_CHAT_PORT", "65536"),
    ("MCP_CHAT_PORT", "-1"),
    ("GUNICORN_WORKERS", "0"),
    ("GUNICORN_WORKERS", "two"),
    ("GUNICORN_WORKERS", "1.5"),
    ("MCP_CHAT_AUTH", "none"),
    ("MCP_CHAT_AUTH", "DEMO"),
    ("JWT_ALGORITHM", "RS256,HS256"),
    ("JWT_ALGORITHM", "none"),
    ("MCP_CHAT_ALLOWED_NETWORKS", "internal"),
    ("MCP_CHAT_ALLOWED_NETWORKS", "10.0.0.1/8"),
    ("MCP_CHAT_ALLOWED_NETWORKS", "10.0.0.0/33"),
    ("MCP_CHAT_ALLOWED_PORTS", "http"),
    ("MCP_CHAT_ALLOWED_PORTS", "0"),
    ("MCP_CHAT_ALLOWED_PORTS", "9000-8000"),
    ("MCP_CHAT_ALLOWED_PORTS", "80-"),
    ("MCP_CHAT_ALLOWED_PORTS", "443,65536"),
    ("MCP_CHAT_ALLOWED_SCHEMES", "https,ftp"),
    ("MCP_CHAT_ALLOWED_SCHEMES", ","),
    ("MCP_CHAT_NAT64_PREFIXES", "10.0.0.0/8"),
    ("MCP_CHAT_NAT64_PREFIXES", "2001:db8::/60"),
    ("MCP_CHAT_DEMO_SERVER", "perhaps"),
    ("LLMCHAT_SESSION_TTL", "0"),
    ("LLMCHAT_SESSION_LOCK_WAIT", "0"),
    ("LLMCHAT_CHAT_HISTORY_MAX_MESSAGES", "1"),
    ("MCP_CHAT_MAX_BODY_BYTES", "12"),
    ("MCP_CHAT_TURN_TIMEOUT", "-3"),
    ("MCP_CHAT_TURN_TIMEOUT", "soon"),
    ("MCP_CHAT_TURN_TIMEOUT", "nan"),
    ("MCP_CHAT_LOG_LEVEL", "loud"),
]


@pytest.mark.parametrize(("variable", "value"), BAD)
def test_a_bad_value_is_one_sentence_that_names_the_variable_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    for command in ("settings", "serve", "migrate"):
        code, out, err = run(monkeypatch, capsys, command)
        assert code == 2
        assert out == ""
        assert re.fullmatch(rf"mcp-chat: {variable}: [^\n]+\.\n", err), err


def test_no_bad_value_of_a_secret_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as refused:
        check_settings(load_settings(auth="jwt", jwt_secret_key="short secret", encryption_key=KEY))
    assert "short secret" not in str(refused.value)
    with pytest.raises(SettingsError) as refused:
        check_settings(load_settings(encryption_key="no key at all"))
    assert "no key at all" not in str(refused.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "", "localhost.example.org"])
def test_demo_mode_listens_on_loopback_only(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(SettingsError, match="MCP_CHAT_HOST"):
        check_settings(load_settings(host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_demo_mode_starts_on_loopback(host: str) -> None:
    check_settings(load_settings(host=host))


@pytest.mark.parametrize(
    ("values", "variable"),
    [
        ({}, "JWT_SECRET_KEY"),
        ({"jwt_secret_key": "x" * 31, "encryption_key": KEY}, "JWT_SECRET_KEY"),
        ({"jwt_secret_key": SECRET}, "MCP_CHAT_ENCRYPTION_KEY"),
        ({"jwt_secret_key": SECRET, "encryption_key": "x" * 32}, "MCP_CHAT_ENCRYPTION_KEY"),
    ],
)
def test_mode_jwt_needs_good_keys(values: dict[str, str], variable: str) -> None:
    for check in (check_settings, create_app):
        with pytest.raises(SettingsError, match=variable):
            check(load_settings(auth="jwt", workers=1, **values))


def test_mode_jwt_with_good_keys_starts_anywhere() -> None:
    check_settings(load_settings(auth="jwt", host="0.0.0.0", jwt_secret_key=SECRET, encryption_key=KEY))


def test_a_bad_key_is_refused_in_demo_mode_too() -> None:
    with pytest.raises(SettingsError, match="MCP_CHAT_ENCRYPTION_KEY"):
        check_settings(load_settings(encryption_key="secret"))


def test_several_workers_without_redis_are_refused() -> None:
    with pytest.raises(SettingsError, match="REDIS_URL"):
        check_stores(load_settings(workers=2))
    check_stores(load_settings(workers=1))
    check_stores(load_settings(workers=2, redis_url="redis://localhost"))


# What is shown


def test_the_settings_are_shown_and_secrets_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("REDIS_URL", "DATABASE_URL", "JWT_SECRET_KEY", "MCP_CHAT_ENCRYPTION_KEY"):
        monkeypatch.setenv(variable, "postgresql://user:CANARY@host")
    monkeypatch.setenv("MCP_CHAT_PORT", "8123")
    monkeypatch.setenv("MCP_CHAT_ALLOWED_NETWORKS", "10.0.0.0/8,::1/128")
    code, out, err = run(monkeypatch, capsys, "settings")
    assert (code, err) == (0, "")
    lines = dict(line.split("=", 1) for line in out.splitlines())
    assert list(lines) == list(VARIABLES)
    assert "CANARY" not in out
    assert lines["JWT_SECRET_KEY"] == "**********"
    assert lines["MCP_CHAT_PORT"] == "8123"
    assert lines["MCP_CHAT_ALLOWED_NETWORKS"] == "10.0.0.0/8,::1/128"


def test_secrets_are_not_in_the_settings_text() -> None:
    assert "CANARY" not in repr(load_settings(jwt_secret_key="CANARY", database_url="CANARY"))


def test_migrate_needs_a_database(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, capsys, "migrate") == (2, "", "mcp-chat: DATABASE_URL is not set.\n")


@pytest.mark.parametrize("url", ["mysql://host/db", "chat.db", "://", "oracle://CANARY@host"])
def test_a_database_of_another_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    code, _, err = run(monkeypatch, capsys, "migrate")
    assert code == 2
    assert err.startswith("mcp-chat: DATABASE_URL must be")
    assert "CANARY" not in err


def test_migrate_says_that_it_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/chat.db")
    assert run(monkeypatch, capsys, "migrate")[:2] == (0, "The schema is this version's.\n")
