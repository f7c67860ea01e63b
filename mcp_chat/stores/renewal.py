"""What a value that is kept becomes when keys are rotated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from mcp_chat.commands import COMMAND, SEALED_FOR, ChangeServers, Connect
from mcp_chat.exceptions import Unreadable
from mcp_chat.stores.cipher import ESCAPED, SEALED, Sealing, is_sealed
from mcp_chat.vault import Vault, key_id_of

PLAIN_TEXT = ""
"""Stands for the key of what is not sealed."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """How a sweep went.

    Attributes:
        renewed: Values that are under the newest key now.
        missed: Values that somebody else has changed meanwhile.
        unreadable: Values that no key opens.
    """

    renewed: int = 0
    missed: int = 0
    unreadable: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            renewed=self.renewed + other.renewed,
            missed=self.missed + other.missed,
            unreadable=self.unreadable + other.unreadable,
        )


@dataclass(frozen=True, slots=True)
class Renewal:
    """Brings values under the newest key; their data keys are wrapped anew, and texts stay as they are.

    Args:
        vault: Has the newest key, and those that are to go.
        seals: Whether chat texts that are not sealed are to be.
    """

    vault: Vault
    seals: bool
    cipher: Sealing = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cipher", Sealing(self.vault))

    def secret(self, user: str, name: str, kept: str) -> str | None:
        """Return a secret under the newest key; None if it is so already.

        Raises:
            Unreadable: It does not open.
        """
        self.vault.open(kept, user=user, field=name)
        return self.vault.renewed(kept, user=user)

    def text(self, user: str, name: str, kept: str) -> str | None:
        """Return a chat text under the newest key; None if it is so already, or is not to be sealed.

        Raises:
            Unreadable: It does not open.
        """
        if is_sealed(kept):
            renewed = self.secret(user, name, kept.removeprefix(SEALED))
            return SEALED + renewed if renewed else None
        return self._sealed(user, name, kept) if self.seals and kept else None

    def _sealed(self, user: str, name: str, kept: str) -> str:
        return self.cipher.seal(kept.removeprefix(ESCAPED), user=user, field=name)

    def content(self, user: str, name: str, kept: bytes) -> bytes | None:
        """Return a file's content under the newest key; None as of `text`.

        Raises:
            Unreadable: It does not open.
        """
        if is_sealed(kept):
            self.cipher.open_bytes(kept, user=user, field=name)
            renewed = self.vault.renewed_bytes(kept.removeprefix(SEALED.encode()), user=user)
            return SEALED.encode() + renewed if renewed else None
        if not self.seals or not kept:
            return None
        return self.cipher.seal_bytes(kept.removeprefix(ESCAPED.encode()), user=user, field=name)

    def command(self, user: str, name: str, kept: str) -> str | None:
        """Return a command under the newest key, with the secret that a connect holds; None as of `text`.

        Raises:
            Unreadable: It does not open, or is none.
        """
        connect = self.connect(user, name, kept)
        inner = self.secret(user, SEALED_FOR[connect.type], connect.sealed) if connect else None
        if connect is None or inner is None:
            return self.text(user, name, kept)
        changed = COMMAND.dump_json(replace(connect, sealed=inner)).decode()
        return self.cipher.seal(changed, user=user, field=name) if self.seals or is_sealed(kept) else changed

    def connect(self, user: str, name: str, kept: str) -> Connect | ChangeServers | None:
        """Return a command if it holds a secret: it is a connect, or changes servers.

        Raises:
            Unreadable: It does not open, or is none.
        """
        try:
            command = COMMAND.validate_json(self.cipher.open(kept, user=user, field=name))
        except ValidationError as error:
            raise Unreadable from error
        return command if isinstance(command, Connect | ChangeServers) else None

    def event(self, user: str, name: str, kept: str) -> str | None:
        """Return an entry of a log, whose event stands behind its command's id; None as of `text`.

        Raises:
            Unreadable: It does not open.
        """
        command_id, _, text = kept.partition(" ")
        renewed = self.text(user, name, text)
        return f"{command_id} {renewed}" if renewed else None

    def document(self, user: str, name: str, kept: str) -> str | None:
        """Return a document as Redis has it, a secret behind its version; None as of `secret`.

        Raises:
            Unreadable: It does not open.
        """
        version, _, sealed = kept.partition(" ")
        renewed = self.secret(user, name, sealed)
        return f"{version} {renewed}" if renewed else None

    def key_ids(self, user: str, name: str, kept: str) -> Counter[str]:
        """Count the keys that a command is under: its own, and that of what a connect holds."""
        found = Counter([key_of(kept)])
        try:
            connect = self.connect(user, name, kept)
        except Unreadable:
            return found
        return found + Counter([key_id_of(connect.sealed) or PLAIN_TEXT] if connect else [])


def key_of(kept: str | bytes) -> str:
    """Return the name of the key that a chat text is under, or `PLAIN_TEXT`."""
    if not is_sealed(kept):
        return PLAIN_TEXT
    text = kept if isinstance(kept, str) else kept[:64].decode("ascii", "replace")
    return key_id_of(text.removeprefix(SEALED)) or PLAIN_TEXT
