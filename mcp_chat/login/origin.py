"""Whether a request that a cookie vouches for comes from our own pages."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from mcp_chat.exceptions import Forbidden

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


UNPROVEN = "Send the header Origin along, or the token as a bearer token instead of a cookie."


def require_same_origin(connection: HTTPConnection, *, proof: bool = False) -> None:
    """Refuse a change that another site's page makes the browser send with our cookie.

    Follows Fetch Metadata: `Sec-Fetch-Site` where the browser sends it, else the `Origin`. A client that
    sends neither is no browser that anybody uses.

    Args:
        proof: Refuse such a client, too: it has other ways to say who it is.

    Raises:
        Forbidden: The request came from another site, or nothing says that it did not.
    """
    if connection.scope["method"] in SAFE:
        return
    site = connection.headers.get("sec-fetch-site")
    origin = connection.headers.get("origin")
    if proof and site is None and origin is None:
        raise Forbidden(UNPROVEN)
    if site not in (None, "same-origin", "none"):
        raise Forbidden("Requests from other sites are not accepted.")
    if site is None and origin is not None and not _is_ours(origin, connection):
        raise Forbidden("Requests from other sites are not accepted.")


def _is_ours(origin: str, connection: HTTPConnection) -> bool:
    """Compare hosts, and on https the schemes: on http a proxy may have https in front and not say so."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    schemes = ("https",) if connection.scope["scheme"] == "https" else ("http", "https")
    return parts.scheme in schemes and parts.netloc == connection.headers.get("host")
