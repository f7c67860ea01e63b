"""An MCP server that is a command, and ends as badly as it is told to; JSON-RPC by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

MANNER = sys.argv[sys.argv.index("--manner") + 1] if "--manner" in sys.argv else "ends"
TOOLS = ("self", "child", "long-line", "endless-line")


def answered(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the result or the error."""
    match asked["method"]:
        case "initialize":
            info = {"name": "command", "version": "1"}
            capabilities: dict[str, Any] = {"tools": {}}
            return {
                "result": {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": info}
            }
        case "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            return {"result": {"tools": tools}}
        case "tools/call":
            return {"result": {"content": [{"type": "text", "text": called(asked["params"]["name"])}]}}
    return {"error": {"code": -32601, "message": "no such method"}}


def called(name: str) -> str:
    """Do what a tool does."""
    match name:
        case "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            return json.dumps({"pid": child.pid})
        case "long-line":
            return "x" * 1_000_000
        case "endless-line":
            while True:
                os.write(1, b"x" * 65_536)
    return json.dumps({"pid": os.getpid(), "env": dict(os.environ), "cwd": os.getcwd()})


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until nobody asks any more, or longer."""
    if MANNER == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        asked = json.loads(line)
        if MANNER == "chatty":
            say("what a log line would be")
        if "id" in asked:
            say(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answered(asked)}))
    while MANNER != "ends":
        time.sleep(600)


if __name__ == "__main__":
    main()
