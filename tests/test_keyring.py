"""The keys as an operator sets them, and that nothing secret shows itself."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mcp_chat import logs
from mcp_chat.api.bodies import ModelSettings, ServerBody
from mcp_chat.app import create_app
from mcp_chat.config import ModelConfig, ServerConfig, UserConfig
from mcp_chat.embedded import DataDir
from mcp_chat.exceptions import SettingsError
from mcp_chat.keyring import check_strength, new_key
from mcp_chat.parts import vault_of
from mcp_chat.safety import check_settings, encryption_keys
from mcp_chat.serve import demo_values
from mcp_chat.settings import Settings, load_settings

NEW, OLD = (base64.b64encode(bytes(range(n, n + 32))).decode() for n in (0, 100))
KEYS = [bytes(range(32)), bytes(range(100, 132))]
JWT = {"auth": "jwt", "jwt_secret_key": "x" * 32, "workers": 1}


def refused(settings: Settings) -> str:
    """The sentence with which they are refused, which holds no key."""
    with pytest.raises(SettingsError) as error:
        check_settings(settings)
    assert not any(part in str(error.value) for part in (NEW, OLD, "CANARY"))
    with pytest.raises(SettingsError):
        create_app(settings)
    return str(error.value)


@pytest.mark.parametrize(
    "text", [f"{NEW},{OLD}", f" {NEW} , {OLD} ,", f"{NEW}\n{OLD}\n", f"{NEW}\r\n\n,{OLD}"]
)
def test_several_keys_are_read_the_newest_first_from_the_environment_and_from_a_file(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o600)
    for settings in (
        load_settings(encryption_key=text, **JWT),
        load_settings(encryption_key_file=path, **JWT),
    ):
        check_settings(settings)
        assert encryption_keys(settings) == KEYS


@pytest.mark.parametrize("text", ["CANARY", f"{NEW},CANARY", f"{NEW} {OLD}", f"{NEW};{OLD}", NEW[:-4]])
@pytest.mark.parametrize("auth", ["demo", "jwt"])
def test_a_key_in_another_form_is_refused_in_each_mode_wherever_it_stands(
    text: str, auth: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    others = {**JWT, "auth": auth}
    assert "32 bytes" in refused(load_settings(encryption_key=text, **others))
    assert "MCP_CHAT_ENCRYPTION_KEY_FILE" in refused(load_settings(encryption_key_file=path, **others))


def test_a_file_without_keys_is_refused_and_so_is_none_and_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for path in (tmp_path / "empty", tmp_path / "absent", tmp_path):
        for auth in ("demo", "jwt"):
            settings = load_settings(**{**JWT, "auth": auth}, encryption_key_file=path)
            assert "MCP_CHAT_ENCRYPTION_KEY_FILE" in refused(settings)
    assert "must be set outside demo mode" in refused(load_settings(**JWT))


def test_keys_in_both_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(NEW)
    settings = load_settings(encryption_key=NEW, encryption_key_file=tmp_path / "keys", **JWT)
    assert refused(settings).endswith("not both.")


@pytest.mark.parametrize("weak", [bytes(32), b"k" * 32, b"ab" * 16, bytes(range(8)) * 4])
def test_a_key_that_nobody_made_by_chance_is_refused_outside_demo_mode(weak: bytes) -> None:
    text = base64.b64encode(weak).decode()
    assert "made by chance" in refused(load_settings(encryption_key=f"{NEW},{text}", **JWT))
    check_settings(load_settings(encryption_key=text))


def test_keys_made_by_chance_pass() -> None:
    check_strength([base64.b64decode(new_key()) for _ in range(1000)])


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_file_that_all_can_read_is_warned_of(mode: int, warned: bool, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(NEW)
    path.chmod(mode)
    logs.set_up("info")  # another test's application may have been told to say less
    with capture_logs() as lines:
        vault_of(load_settings(encryption_key_file=path))
    assert [line["event"] for line in lines] == ["encryption_key_file.open_to_all"] * warned
    assert NEW not in str(lines)


def test_demo_mode_makes_no_key_beside_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(NEW)
    with DataDir(tmp_path / "data") as data:
        assert "encryption_key" not in demo_values(load_settings(encryption_key_file=tmp_path / "keys"), data)
        assert not (tmp_path / "data/encryption.key").exists()


def test_no_configuration_and_no_body_shows_its_secrets() -> None:
    server = ServerConfig(
        alias="a",
        url="https://example.org",
        auth_token="CANARY",
        headers={"X-Key": "CANARY"},
        env={"KEY": "CANARY"},
    )
    config = UserConfig(
        servers=(server,), model=ModelConfig(provider="openai", model="m", api_key="CANARY", base_url="u")
    )
    bodies = [
        ServerBody(url="https://e.org", auth_token="CANARY"),
        ModelSettings(model="m", api_key="CANARY"),
    ]
    for value in (config, *bodies, load_settings(encryption_key="CANARY")):
        assert "CANARY" not in f"{value!r} {value}"
