"""How values of settings are spelt in the environment: from text to value, and back."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, InstanceOf
from pydantic_settings import NoDecode

Network = IPv4Network | IPv6Network

MODES = ("demo", "jwt", "contextforge", "proxy")
ALGORITHMS = frozenset({"HS256", "RS256", "ES256"})


def _networks(value: object) -> object:
    """Read ``10.0.0.0/8, ::1/128`` as a tuple of networks."""
    if isinstance(value, str):
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
    return value


Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]


def _ports(value: object) -> object:
    """Read ``443, 8000-8999`` as ranges."""
    if not isinstance(value, str):
        return value
    pairs = [part.strip().partition("-") for part in value.split(",") if part.strip()]
    if not all(first.isdecimal() and (last or not dash) for first, dash, last in pairs):
        raise ValueError("write ports and ranges, such as 443,8000-8999")
    ranges = tuple(range(int(first), int(last or first) + 1) for first, _, last in pairs)
    if not all(each and each[0] > 0 and each[-1] < 65536 for each in ranges):
        raise ValueError("ports are from 1 to 65535, the lower one of a range first")
    return ranges


Ports = Annotated[tuple[InstanceOf[range], ...], NoDecode, BeforeValidator(_ports)]


def _words(value: object) -> object:
    """Read ``a, b`` as a tuple of texts."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


def _schemes(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value or set(value) - {"https", "http"}:
        raise ValueError("known are https and http")
    return value


Schemes = Annotated[Words, AfterValidator(_schemes)]


def _prefixes(value: tuple[Network, ...]) -> tuple[Network, ...]:
    """Refuse what RFC 6052 does not know as a prefix."""
    if any(each.version == 4 or each.prefixlen not in (32, 40, 48, 56, 64, 96) for each in value):
        raise ValueError("write IPv6 prefixes of 32, 40, 48, 56, 64 or 96 bits")
    return value


Prefixes = Annotated[Networks, AfterValidator(_prefixes)]


def _algorithms(value: object) -> object:
    """Read ``RS256,ES256``: those that are believed."""
    if isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, tuple) or not value or set(value) - ALGORITHMS:
        raise ValueError(f"known are {', '.join(sorted(ALGORITHMS))}")
    if "HS256" in value and len(value) > 1:
        raise ValueError("HS256 has a shared secret, the others have public keys: choose")
    return value


Algorithms = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_algorithms)]


def _mode(value: str) -> str:
    if value not in MODES and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):
        raise ValueError(f"known are {', '.join(MODES)}, or package.module:function")
    return value


Mode = Annotated[str, AfterValidator(_mode)]


def _claims(value: object) -> object:
    """Read ``tenant=acme, email`` as a mapping; a claim without a value only has to be there."""
    if isinstance(value, str):
        pairs = (part.strip().partition("=") for part in value.split(",") if part.strip())
        return {name.strip(): wanted.strip() for name, _, wanted in pairs}
    return value


Claims = Annotated[dict[str, str], NoDecode, BeforeValidator(_claims)]


def _hold(value: object) -> object:
    """Take ``sentence``, ``answer``, or a number of characters."""
    text = str(value).strip().lower()
    if text not in ("sentence", "answer") and not (text.isdecimal() and 1 <= int(text) <= 1_000_000):
        raise ValueError("write sentence, answer, or a number of characters from 1 to 1000000")
    return text


Hold = Annotated[str, BeforeValidator(_hold)]


_PUBLIC = re.compile(
    r"(https://[A-Za-z0-9.-]+|http://(localhost|127\.0\.0\.1|\[::1\]))(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*"
)


def _public_url(value: str) -> str:
    value = value.rstrip("/")
    if value and not _PUBLIC.fullmatch(value):
        raise ValueError("write it as https://host or https://host/path; http is for this machine only")
    return value


PublicUrl = Annotated[str, AfterValidator(_public_url)]


_SEGMENTS = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_TAKEN = frozenset({"auth", "livez", "llmchat", "metrics", "openapi.json", "readyz", "v1", "web"})


def _base_path(value: str) -> str:
    value = value.rstrip("/")
    if not _SEGMENTS.fullmatch(value) or {".", ".."} & set(value.split("/")):
        raise ValueError("write it as /chat")
    if value.split("/")[1:2] and value.split("/")[1] in _TAKEN:
        raise ValueError("the chat has pages of its own there: choose another path, as /chat")
    return value


BasePath = Annotated[str, AfterValidator(_base_path)]


def as_text(value: object) -> str:
    """Return a setting as it stands in the environment; what is secret stays masked."""
    match value:
        case None:
            return ""
        case tuple():
            return ",".join(map(as_text, value))
        case range():
            return f"{value[0]}-{value[-1]}" if len(value) > 1 else str(value[0])
        case dict():
            return ",".join(f"{key}={wanted}" if wanted else str(key) for key, wanted in value.items())
        case bool():
            return str(value).lower()
    return str(value)
