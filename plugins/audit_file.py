"""Writes who asked and who called what into a file, a line of JSON each.

    - name: AuditFile
      kind: plugins.audit_file.AuditFile
      hooks: [agent_pre_invoke, agent_post_invoke, tool_pre_invoke, tool_post_invoke]
      mode: fire_and_forget
      on_error: ignore
      config: {file: data/audit.jsonl, contents: false}

Nobody waits for it in this mode, and nothing fails because of it. Workers share the file: each line is one
write at its end. It is opened for each line, so that it can be renamed at any time;
rotation is the operator's. `contents` adds what was said.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from cpex.framework import Plugin, PluginConfig, PluginContext, PluginPayload, PluginResult


class AuditFile(Plugin):
    """Writes down what happens, and changes nothing."""

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        settings = config.config or {}
        self._file = Path(settings["file"])
        self._contents = bool(settings.get("contents"))

    async def agent_pre_invoke(self, payload: PluginPayload, context: PluginContext) -> PluginResult[Any]:
        """Write down that a user has asked."""
        return await self._write("asked", payload, context)

    async def agent_post_invoke(self, payload: PluginPayload, context: PluginContext) -> PluginResult[Any]:
        """Write down that a user was answered."""
        return await self._write("answered", payload, context)

    async def tool_pre_invoke(self, payload: PluginPayload, context: PluginContext) -> PluginResult[Any]:
        """Write down that a tool is about to be called."""
        return await self._write("calling", payload, context, tool=payload.name)

    async def tool_post_invoke(self, payload: PluginPayload, context: PluginContext) -> PluginResult[Any]:
        """Write down that a tool was called."""
        return await self._write("called", payload, context, tool=payload.name)

    async def _write(
        self, what: str, payload: PluginPayload, context: PluginContext, **more: Any
    ) -> PluginResult[Any]:
        known = context.global_context
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "what": what,
            "user": known.user,
            "session": known.metadata["chat"]["session_id"],
            "request": known.request_id,
            "server": known.server_id,
            **more,
        }
        if self._contents:
            entry["contents"] = payload.model_dump(mode="json")
        await anyio.to_thread.run_sync(_append, self._file, entry)
        return PluginResult()


def _append(file: Path, entry: dict[str, Any]) -> None:
    line = json.dumps(entry, ensure_ascii=False, default=str) + "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode(errors="replace"))
    finally:
        os.close(descriptor)
