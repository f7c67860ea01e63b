"""The words in which servers ask and are answered, and ours for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sized
from typing import Any

import mcp_types as mcp
import orjson

from mcp_chat.config import ServerConfig
from mcp_chat.exceptions import ServerUnavailable
from mcp_chat.questions import Answer, Question, QuestionUnfit, address, form

AT_ONCE = 8
"""Questions of one call at the same time."""

IN_ALL = 32
"""Questions of one call."""

LONGEST_KEY = 1024


class TooManyQuestions(ServerUnavailable):
    """The server asked for more and more, and the call was given up."""

    retryable = False


class Tally:
    """Counts the questions of a call."""

    def __init__(self) -> None:
        self._asked = 0

    def add(self, more: Sized) -> None:
        """Take further questions into account.

        Raises:
            TooManyQuestions: They are too many, at once or in all.
        """
        self._asked += len(more)
        if len(more) > AT_ONCE or self._asked > IN_ALL:
            raise TooManyQuestions


def question_of(server: ServerConfig, params: mcp.ElicitRequestParams) -> Question:
    """Return what a server asks, as a question for its user.

    Raises:
        QuestionUnfit: It cannot be shown.
    """
    if isinstance(params, mcp.ElicitRequestURLParams):
        return address(server.alias, params.message, params.url, own=server.url or "")
    return form(server.alias, params.message, params.requested_schema)


def questions_of(
    server: ServerConfig, requests: Mapping[str, mcp.InputRequest], tally: Tally
) -> dict[str, Question]:
    """Return what a server asks at once, by its own names for it.

    Raises:
        QuestionUnfit: Something of it cannot be shown, or is none of a user's business.
        TooManyQuestions: It is too much.
    """
    tally.add(requests)
    questions: dict[str, Question] = {}
    for key, each in requests.items():
        if not isinstance(each, mcp.ElicitRequest):
            raise QuestionUnfit(
                "The server asked for the model or for files of its user, which it does not get."
            )
        if len(key) > LONGEST_KEY:
            raise QuestionUnfit("The server asked something under a name that is too long.")
        questions[key] = question_of(server, each.params)
    return questions


def given(answer: Answer) -> dict[str, Any]:
    """Return an answer as it is kept and sent."""
    content = None if answer.content is None else dict(answer.content)
    return {"action": answer.action, "content": content}


def response(answer: Answer) -> mcp.ElicitResult:
    """Return an answer as the server wants it."""
    return mcp.ElicitResult(**given(answer))


def failure(text: str) -> mcp.CallToolResult:
    """Return a result that says why there is none."""
    return mcp.CallToolResult(content=[mcp.TextContent(text=text)], is_error=True)


def place_of(server: ServerConfig) -> str:
    """Return a hash of where a server is."""
    return hashlib.sha256(orjson.dumps([server.url, server.command, server.args])).hexdigest()
