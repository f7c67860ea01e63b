"""Secrets at rest: what is sealed opens in its own slot, with its own key, unchanged, or not at all."""

from __future__ import annotations

import base64
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_chat.exceptions import SettingsError, Unreadable
from mcp_chat.vault import Vault, decode_key, key_id_of

KEY, NEW = bytes(range(32)), bytes(range(100, 132))
VAULT = Vault([KEY])


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


def parts(sealed: str) -> list[bytes]:
    """What a sealed text is made of: version, key id, wrapped data key, body."""
    version, key_id, *rest = sealed.split(".")
    return [version.encode(), key_id.encode(), *map(base64.urlsafe_b64decode, rest)]


def joined(version: bytes, key_id: bytes, *rest: bytes) -> str:
    """A sealed text, made of these."""
    texts = (base64.urlsafe_b64encode(part).decode() for part in rest)
    return ".".join((version.decode("latin-1"), key_id.decode("latin-1"), *texts))


def refuses(vault: Vault, sealed: str, *, user: str = "ann", field: str = "config") -> bool:
    try:
        vault.open(sealed, user=user, field=field)
    except Unreadable:
        return True
    return False


def test_every_flipped_bit_is_noticed() -> None:
    whole = parts(VAULT.seal("the secret", user="ann", field="config"))
    for n, part in enumerate(whole):
        for place in range(len(part) * 8):
            changed = bytearray(part)
            changed[place // 8] ^= 1 << place % 8
            assert refuses(VAULT, joined(*whole[:n], bytes(changed), *whole[n + 1 :])), (n, place)


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


@given(st.text() | st.text("v2.Aa_=-").map(lambda rest: f"v2.{rest}"))
def test_anything_else_is_refused(sealed: str) -> None:
    assert refuses(VAULT, sealed)
    for access in (VAULT.renewed, key_id_of):
        try:
            access(sealed, **({"user": "ann"} if access is not key_id_of else {}))
        except Unreadable:
            continue
    with pytest.raises(Unreadable):
        VAULT.open_bytes(sealed.encode(), user="ann", field="config")


@pytest.mark.parametrize("part", [2, 3])
@pytest.mark.parametrize("length", [0, 1, 11, 12, 13, 27, 28, 59])
def test_what_is_cut_short_is_refused(part: int, length: int) -> None:
    whole = parts(VAULT.seal("a secret of some length, not of a few letters", user="ann", field="config"))
    whole[part] = whole[part][:length]
    assert refuses(VAULT, joined(*whole))


def test_another_key_opens_nothing() -> None:
    sealed = VAULT.seal("secret", user="ann", field="config")
    other = Vault([os.urandom(32)])
    with pytest.raises(Unreadable, match="connect again"):
        other.open(sealed, user="ann", field="config")
    theirs = other.seal("secret", user="ann", field="config")
    mixed = [
        [a, b][n]
        for n, (a, b) in zip((0, 1, 0, 0), zip(parts(sealed), parts(theirs), strict=True), strict=True)
    ]
    assert refuses(other, joined(*mixed))
    assert refuses(VAULT, joined(*mixed))


# Slots: whatever is taken from where it belongs is refused in each other place


SLOTS = [("ann", "config"), ("ann", "connect"), ("bob", "config"), ("bob", "connect"), ("ann", "key")]


def test_no_part_of_a_value_can_be_exchanged_for_anothers() -> None:
    """Data keys, bodies and key ids of two users, two fields and two keys, in all mixtures."""
    old, new = Vault([KEY]), Vault([NEW, KEY])
    made = [
        (slot, parts(vault.seal("x", user=slot[0], field=slot[1]))) for vault in (old, new) for slot in SLOTS
    ]
    for (user, field), own in made:
        for _, other in made:
            for n in (1, 2, 3):
                mixed = [*own[:n], other[n], *own[n + 1 :]]
                assert mixed == own or refuses(new, joined(*mixed), user=user, field=field)
        for other_user, other_field in SLOTS:
            same = (other_user, other_field) == (user, field)
            assert same or refuses(new, joined(*own), user=other_user, field=other_field)


# Keys that come and go


def test_what_an_older_key_has_sealed_opens_as_long_as_that_key_is_there() -> None:
    sealed = Vault([KEY]).seal("secret", user="ann", field="config")
    assert Vault([NEW, KEY]).open(sealed, user="ann", field="config") == "secret"
    assert refuses(Vault([NEW]), sealed)


def test_the_newest_key_seals() -> None:
    sealed = Vault([NEW, KEY]).seal("secret", user="ann", field="config")
    assert Vault([NEW]).open(sealed, user="ann", field="config") == "secret"
    assert refuses(Vault([KEY]), sealed)
    assert key_id_of(sealed) == Vault([NEW]).newest == Vault([NEW, KEY]).key_ids[0]


def test_what_is_renewed_opens_with_the_newest_key_alone_in_its_own_slot_alone() -> None:
    sealed = Vault([KEY]).seal("secret", user="ann", field="config")
    both = Vault([NEW, KEY])
    renewed = both.renewed(sealed, user="ann")
    assert renewed is not None
    assert Vault([NEW]).open(renewed, user="ann", field="config") == "secret"
    assert both.renewed(renewed, user="ann") is None
    assert parts(renewed)[3] == parts(sealed)[3]
    assert refuses(Vault([NEW]), renewed, user="bob")
    assert refuses(Vault([NEW]), renewed, field="connect")


def test_a_content_is_sealed_and_renewed_like_a_text() -> None:
    content = b"sealed: \x00.\xff.. " * 99
    sealed = Vault([KEY]).seal_bytes(content, user="ann", field="file")
    assert content[:9] not in sealed
    both = Vault([NEW, KEY])
    assert both.open_bytes(sealed, user="ann", field="file") == content
    renewed = both.renewed_bytes(sealed, user="ann")
    assert renewed is not None
    assert both.renewed_bytes(renewed, user="ann") is None
    assert Vault([NEW]).open_bytes(renewed, user="ann", field="file") == content
    for user, field in (("bob", "file"), ("ann", "config")):
        with pytest.raises(Unreadable):
            both.open_bytes(sealed, user=user, field=field)


def test_another_spelling_of_the_same_bytes_is_refused() -> None:
    vault = Vault([KEY])
    sealed = vault.seal("123", user="ann", field="config")  # a body that ends with unused bits
    assert sealed.endswith("=")
    body = sealed.rstrip("=")
    after = chr(ord(body[-1]) + 1)
    head, _, tail = sealed.rpartition(".")
    for other in (
        f"{sealed}\n",
        f"{sealed}=",
        f"{head}.\n{tail}",
        f"{head}\n.{tail}",
        f"{body[:-1]}{after}{sealed[len(body) :]}",
    ):
        with pytest.raises(Unreadable):
            vault.open(other, user="ann", field="config")
    assert vault.open(sealed, user="ann", field="config") == "123"


@pytest.mark.parametrize("user", ["bob", "", "annkey", "an"])
def test_nothing_is_renewed_for_somebody_else(user: str) -> None:
    sealed = Vault([KEY]).seal("secret", user="ann", field="config")
    with pytest.raises(Unreadable):
        Vault([NEW, KEY]).renewed(sealed, user=user)
    with pytest.raises(Unreadable):
        Vault([NEW]).renewed(sealed, user="ann")


def test_each_user_has_a_data_key_and_no_two_vaults_have_the_same() -> None:
    def data_key(vault: Vault, user: str) -> bytes:
        return parts(vault.seal("x", user=user, field="config"))[2]

    assert data_key(VAULT, "ann") == data_key(VAULT, "ann")
    others = (data_key(VAULT, "bob"), data_key(Vault([KEY]), "ann"))
    assert data_key(VAULT, "ann") not in others


# Marks of words, for a search


def test_a_words_mark_is_its_users_and_its_keys() -> None:
    both = Vault([NEW, KEY])
    new, old = both.marks("word", user="ann")
    assert [old] == Vault([KEY]).marks("word", user="ann")
    assert [new] == Vault([NEW]).marks("word", user="ann")
    assert len({new, old, *both.marks("word", user="bob"), *both.marks("words", user="ann")}) == 6
    assert re.fullmatch("[a-z2-7]{16}", new)


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
        assert not any(part in each for each in parts(sealed))


def test_no_vault_shows_its_keys() -> None:
    shown = f"{VAULT!r} {vars(VAULT) | {'_keys': None}}"
    assert repr(KEY) not in shown
    assert KEY.hex() not in shown


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
