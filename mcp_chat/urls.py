"""Where a URL leads: who gets a login token, and what the audit trail tells, is decided by its origin."""

from __future__ import annotations

from ipaddress import ip_address
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


def is_url(url: str) -> bool:
    """Tell whether a text is an http or https URL without a user name."""
    try:
        return (
            bool(origin_of(url))
            and urlsplit(url).scheme in ("http", "https")
            and "@" not in urlsplit(url).netloc
        )
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
