"""The users' configurations: sealed, in the archive if there is one, with a copy in the store."""

from __future__ import annotations

import contextlib

import structlog

from mcp_chat.config import CONFIG, UserConfig, config_of
from mcp_chat.exceptions import StoreUnavailable, Unreadable
from mcp_chat.stores.base import Archive, Configs
from mcp_chat.vault import Vault

log = structlog.get_logger()

FIELD = "config"


class UserConfigs:
    """Reads and writes configurations; only the owner of a user writes, one thing after the other.

    Args:
        copies: The fast copies, which may vanish; all there is without an archive.
        archive: The record, or None.
        vault: Seals them: they hold keys and tokens.
    """

    def __init__(self, copies: Configs, archive: Archive | None, vault: Vault) -> None:
        self._copies = copies
        self._archive = archive
        self._vault = vault

    async def exists(self, user: str) -> bool:
        """Tell whether the user is connected."""
        return await self.get(user) is not None

    async def stored(self, user: str) -> bool:
        """Tell whether there is something of the user's, be it that nobody can open it."""
        return await self._sealed(user) is not None

    async def get(self, user: str) -> UserConfig | None:
        """Return the user's configuration, or None if they are not connected.

        One that was sealed with a lost key, or by a version that this one does not know, is none.
        """
        sealed = await self._sealed(user)
        config = None if sealed is None else self._opened(user, sealed)
        if config or sealed is None or self._archive is None:
            return config
        record = await self._archive.get(user)  # a copy may be older than what was sealed anew
        return self._opened(user, record) if record and record != sealed else None

    def _opened(self, user: str, sealed: str) -> UserConfig | None:
        try:
            return config_of(self._vault.open(sealed, user=user, field=FIELD))
        except Unreadable:
            log.warning("config.unreadable", user=user)
            return None

    async def put(self, user: str, config: UserConfig, *, epoch: int) -> None:
        """Set it: wholly, or not at all when this raises.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        sealed = self._vault.seal(CONFIG.dump_json(config).decode(), user=user, field=FIELD)
        if self._archive is None:
            return await self._copies.put(user, sealed, epoch=epoch)
        await self._copies.delete(user, epoch=epoch)  # first, so that no old copy outlives the new record
        await self._archive.put(user, sealed, epoch=epoch)
        return await self._copy(user, sealed, epoch)

    async def touch(self, user: str, *, epoch: int) -> None:
        """Let the copy live on, or come back.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        sealed = await self._sealed(user)
        if sealed is not None:
            await self._copy(user, self._renewed(user, sealed), epoch)

    def _renewed(self, user: str, sealed: str) -> str:
        """The copy that is written goes under the newest key, so that none under an old one lives on."""
        with contextlib.suppress(Unreadable):
            return self._vault.renewed(sealed, user=user) or sealed
        return sealed

    async def forget(self, user: str, *, epoch: int) -> None:
        """Delete it: if this raises, there may be a record, but no copy without one.

        Raises:
            Fenced: A higher epoch owns the user.
        """
        await self._copies.delete(user, epoch=epoch)
        if self._archive:
            await self._archive.delete(user, epoch=epoch)
            await self._copies.delete(user, epoch=epoch)  # whatever has come meanwhile

    async def _sealed(self, user: str) -> str | None:
        if self._archive is None:
            return await self._copies.get(user)
        with contextlib.suppress(StoreUnavailable):
            if sealed := await self._copies.get(user):
                return sealed
        return await self._archive.get(user)

    async def _copy(self, user: str, sealed: str, epoch: int) -> None:
        """The record is written; without a copy it is only read more slowly."""
        try:
            await self._copies.put(user, sealed, epoch=epoch)
        except StoreUnavailable:
            log.warning("config.not_copied", user=user)
