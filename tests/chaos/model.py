"""A model that does what the message asks: ``op-17 words=12 tool=charge``.

``python -m tests.chaos.model --port 8020 --pause 0.004``
"""

from __future__ import annotations

import argparse
import re
import secrets
from typing import Any

import uvicorn

from tests.model_server import ModelServer, Reply

_WISH = re.compile(r"(op-\d+) words=(\d+)(?: tool=(\w+))?")


def wish(op: str, words: int, tool: str = "") -> str:
    """Return the message that makes the model say so many words, after a call of the tool."""
    return f"{op} words={words}" + (f" tool={tool}" if tool else "")


def answer(text: str) -> str:
    """Return the whole answer to a message as a reader of the stream has it, if nothing cuts it short."""
    op, words, tool = _understood(text)
    return (f"{_announced(op, tool)}\n\n" if tool else "") + _said(op, words)


class ObedientModel(ModelServer):
    """Answers the last message of the user.

    The ids of its calls never repeat, not even for the same message: a model that is asked again
    makes another call.

    Args:
        pause: Seconds between two words.
        alias: The MCP server's name in front of its tools.
    """

    def __init__(self, pause: float, alias: str = "recorder") -> None:
        super().__init__()
        self._pause = pause
        self._alias = alias

    def reply_to(self, sent: dict[str, Any]) -> Reply:
        """Call the tool if that is still to be done, else talk."""
        self.requests.clear()  # nobody looks at them, and a long run would keep them all
        self.headers.clear()
        messages = sent["messages"]
        place = max(i for i, message in enumerate(messages) if message["role"] == "user")
        op, words, tool = _understood(_text(messages[place]["content"]))
        if not tool or any(message["role"] == "tool" for message in messages[place:]):
            return Reply(text=_said(op, words), pause=self._pause)
        return Reply(
            text=_announced(op, tool),
            calls=[(f"{self._alias}__{tool}", {"op": op})],
            call_ids=[f"call-{secrets.token_hex(8)}"],
            pause=self._pause,
        )


def _understood(text: str) -> tuple[str, int, str]:
    found = _WISH.match(text)
    return (found[1], int(found[2]), found[3] or "") if found else ("op-0", 1, "")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _announced(op: str, tool: str) -> str:
    return f"Calling {tool} for {op}."


def _said(op: str, words: int) -> str:
    return " ".join(f"{op}.{place}" for place in range(words))


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="tests.chaos.model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pause", type=float, default=0.004)
    options = parser.parse_args()
    uvicorn.run(ObedientModel(options.pause).app, port=options.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
