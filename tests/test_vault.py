"""Secrets at rest: what is sealed opens in its own slot, with its own key, unchanged, or not at all."""

from __future__ import annotations

import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_chat.exceptions import SettingsError, Unreadable
from mcp_chat.vault import Vault, decode_key

KEY = bytes(range(32))
VAULT = Vault(KEY)


@given(st.text(), st.text(), st.text())
def test_what_is_sealed_opens_in_its_slot(text: str, user: str, field: str) -> None:
    assert VAULT.open(VAULT.seal(text, user=user, field=field), user=user, field=field) == text


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_what_is_sealed_opens_in_no_other_slot(mine: tuple[str, str], other: tuple[str, str]) -> None:
    sealed = VAULT.seal("secret", user=mine[0], field=mine[1])
    if mine != other:
        with pytest.raises(Unreadable):
            VAULT.open(sealed, user=other[0], field=other[1])


@pytest.mark.parametrize(
    ("user", "field"),
    [("annconfig", ""), ("", "annconfig"), ("an", "nconfig"), ("config", "ann"), ("Ann", "config")],
)
def test_user_and_field_cannot_run_into_each_other(user: str, field: str) -> None:
    sealed = VAULT.seal("secret", user="ann", field="config")
    with pytest.raises(Unreadable):
        VAULT.open(sealed, user=user, field=field)


def test_every_flipped_bit_is_noticed() -> None:
    version, key_id, body = VAULT.seal("the secret", user="ann", field="config").split(".")
    raw = base64.urlsafe_b64decode(body)
    for place in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(Unreadable):
            VAULT.open(
                f"{version}.{key_id}.{base64.urlsafe_b64encode(changed).decode()}", user="ann", field="config"
            )


def test_every_changed_character_is_noticed_or_means_the_same() -> None:
    """Base64 has characters of which only some bits count."""
    sealed = VAULT.seal("the secret", user="ann", field="config")
    for place in range(len(sealed)):
        for character in "A.=é\n":
            changed = sealed[:place] + character + sealed[place + 1 :]
            try:
                opened = VAULT.open(changed, user="ann", field="config")
            except Unreadable:
                continue
            assert opened == "the secret"


@given(st.text() | st.text("v1.Aa_=-").map(lambda rest: f"v1.{rest}"))
def test_anything_else_is_refused(sealed: str) -> None:
    with pytest.raises(Unreadable):
        VAULT.open(sealed, user="ann", field="config")


@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 27, 28])
def test_what_is_cut_short_is_refused(length: int) -> None:
    version, key_id, body = VAULT.seal("secret", user="ann", field="config").split(".")
    cut = base64.urlsafe_b64encode(base64.urlsafe_b64decode(body)[:length]).decode()
    with pytest.raises(Unreadable):
        VAULT.open(f"{version}.{key_id}.{cut}", user="ann", field="config")


def test_another_key_opens_nothing() -> None:
    sealed = VAULT.seal("secret", user="ann", field="config")
    other = Vault(os.urandom(32))
    with pytest.raises(Unreadable, match="connect again"):
        other.open(sealed, user="ann", field="config")
    version, key_id, _ = other.seal("secret", user="ann", field="config").split(".")
    with pytest.raises(Unreadable):
        other.open(".".join((version, key_id, sealed.split(".")[2])), user="ann", field="config")


def test_plain_text_is_never_taken_for_sealed() -> None:
    with pytest.raises(Unreadable):
        VAULT.open('{"servers": []}', user="ann", field="config")


def test_the_same_text_is_never_sealed_alike() -> None:
    assert len({VAULT.seal("secret", user="ann", field="config") for _ in range(100)}) == 100


def test_a_sealed_text_shows_nothing_of_it_nor_of_the_key() -> None:
    sealed = VAULT.seal("the secret", user="ann", field="config")
    for part in (b"the secret", KEY):
        assert base64.b64encode(part).decode().rstrip("=") not in sealed
        assert part.hex() not in sealed
        assert part not in base64.urlsafe_b64decode(sealed.split(".")[2])


def test_a_good_key_is_read() -> None:
    assert decode_key(base64.b64encode(KEY).decode()) == KEY


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "x" * 32,
        KEY.hex(),
        base64.b64encode(KEY[:31]).decode(),
        base64.b64encode(KEY + b"x").decode(),
        base64.b64encode(KEY).decode().rstrip("="),
        base64.b64encode(KEY).decode() + "\n",
        " " + base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "é" * 44,
    ],
)
def test_a_key_in_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="MCP_CHAT_ENCRYPTION_KEY must be base64 of exactly 32 bytes"):
        decode_key(text)
