"""The keys that tokens are checked with: one that was set, or those at a JWKS address."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.to_thread
import httpx
import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from mcp_chat.exceptions import LoginUnavailable, SettingsError

log = structlog.get_logger()

FRESH = 300.0
"""Seconds for which the keys of a JWKS address are believed without asking again."""

STALE = 3600.0
"""Seconds for which they are when the address does not answer."""

ASK_AGAIN = 30.0
"""Least seconds between two requests, however many tokens name a key that is not known."""

MOST_BYTES = 262_144
LIMIT = 5.0

Key = Any
"""What PyJWT takes as a key."""


class Keys(Protocol):
    """Finds the keys that may have signed a token."""

    async def named(self, kid: str | None) -> Sequence[Key]:
        """Return the keys for a `kid`, which is compared and nothing else; all for none.

        Raises:
            LoginUnavailable: There are none that could be believed now.
        """
        ...


class FixedKey:
    """One key, whatever a token's `kid` says."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def named(self, kid: str | None) -> Sequence[Key]:
        """Return the key."""
        return (self._key,)


def public_key(path: Path) -> Key:
    """Read a public key from a PEM file.

    Raises:
        SettingsError: There is none.
    """
    try:
        return load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"JWT_PUBLIC_KEY_PATH: {path} has no public key in PEM.") from None


class JWKS:
    """The keys at an address of the operator's, asked for when they are needed and not too often.

    Follows RFC 7517. A key that is new there is found when the first token names it, one that is gone
    is believed for `FRESH` seconds more, and all are for `STALE` when the address does not answer.

    Args:
        url: Where they are.
        algorithms: What keys are used with.
        fetch: Returns what is at the address.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        url: str,
        algorithms: Sequence[str],
        *,
        fetch: Callable[[str], Awaitable[bytes]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._algorithms = algorithms
        self._fetch = fetch or fetched
        self._clock = clock
        self._keys: dict[str | None, list[Key]] = {}
        self._read = -STALE
        self._asked = -ASK_AGAIN
        self._asking = anyio.Lock()

    async def named(self, kid: str | None) -> Sequence[Key]:
        """Return the keys for a `kid`; who has none to go on with waits for an answer that is on its way."""
        if self._is_due(kid) or (self._asking.locked() and self._lacks(kid)):
            async with self._asking:
                if self._is_due(kid):
                    await self._ask()
        if self._is_stale():
            raise LoginUnavailable
        if kid is None:
            return [key for keys in self._keys.values() for key in keys]
        return self._keys.get(kid, [])

    def _is_due(self, kid: str | None) -> bool:
        old = self._clock() - self._read > FRESH
        return (old or self._lacks(kid)) and self._clock() - self._asked > ASK_AGAIN

    def _lacks(self, kid: str | None) -> bool:
        return self._is_stale() or (kid is not None and kid not in self._keys)

    def _is_stale(self) -> bool:
        return self._clock() - self._read > STALE

    async def _ask(self) -> None:
        before, self._asked = self._asked, self._clock()
        try:
            found = keys_of(await self._fetch(self._url), self._algorithms)
        except (httpx.HTTPError, OSError, ValueError) as error:
            log.warning("jwks.failed", error=type(error).__name__)
            return
        except anyio.get_cancelled_exc_class():  # nobody was answered: the next one asks
            self._asked = before
            raise
        self._keys, self._read = found, self._asked


def keys_of(text: bytes, algorithms: Sequence[str]) -> dict[str | None, list[Key]]:
    """Read a JWKS: the keys that may sign tokens by one of these algorithms, by their `kid`.

    Raises:
        ValueError: It is none.
    """
    document = json.loads(text)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no JWKS")
    found: dict[str | None, list[Key]] = {}
    for each in listed:
        if isinstance(each, dict) and each.get("use", "sig") == "sig" and each.get("kty") in ("RSA", "EC"):
            kid = each.get("kid")
            key = _key_of(each)
            if key and key.algorithm_name in algorithms and isinstance(kid, str | None):
                found.setdefault(kid, []).append(key.key)
    return found


def _key_of(listed: dict[str, Any]) -> jwt.PyJWK | None:
    try:
        return jwt.PyJWK(listed)
    except Exception:  # noqa: BLE001 - whatever it makes of an odd one, that is none of the others'
        return None


_tls = cache(partial(httpx.create_ssl_context, trust_env=False))  # takes 40 ms: once per process


async def fetched(url: str, **headers: str) -> bytes:
    """Return what is at an address of the operator's: no redirect, no proxy, not much and not slowly.

    Raises:
        httpx.HTTPError: It is not to be had.
        TimeoutError: It takes too long.
        ValueError: It is too large.
    """
    tls = await anyio.to_thread.run_sync(_tls)  # the first one reads many files
    async with httpx.AsyncClient(
        verify=tls, trust_env=False, follow_redirects=False, timeout=LIMIT
    ) as client:
        with anyio.fail_after(2 * LIMIT):
            async with client.stream("GET", url, headers=headers) as response:
                response.raise_for_status()
                content = b""
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MOST_BYTES:
                        raise ValueError("too large")
                return content
