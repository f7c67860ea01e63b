"""Where a URL leads: who gets a login token, and what the audit trail tells, is decided by its origin."""

from __future__ import annotations

from urllib.parse import urlsplit


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL: its path and query may be secret.

    Raises:
        ValueError: It has none.
    """
    parts = urlsplit(url)
    if not (parts.scheme and parts.hostname):
        raise ValueError("a URL without an origin")
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"
