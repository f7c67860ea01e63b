"""A provider's refusal, as it was answered: packages retry it or make a riddle of it if they see it first."""

from __future__ import annotations

from typing import Any

from mcp_chat.exceptions import ChatError

_LONGEST = 2000
"""Characters of a refusal that are kept, to find out what kind it is."""


class Refused(Exception):
    """A provider has answered with an HTTP error.

    Attributes:
        status_code: The HTTP status.
        response: What has the headers.
    """

    def __init__(self, status_code: int, response: Any, text: str = "") -> None:
        super().__init__(text[:_LONGEST])
        self.status_code = status_code
        self.response = response


async def refuse(response: Any) -> None:
    """Raise what a response refuses, if it does.

    Raises:
        Refused: It is an error.
    """
    if response.status_code < 400:
        return
    try:
        await response.aread()
        text = str(response.text)
    except ChatError:  # larger than may be read
        text = ""
    raise Refused(response.status_code, response, text)
