"""Says in each exported conversation who has exported it, and when.

    - name: ExportWatermark
      kind: plugins.export_watermark.ExportWatermark
      hooks: [chat_export]
      mode: transform
      config: {text: "Confidential. Exported by {user} on {day}."}

Markdown has it as its last paragraph, JSON as `watermark` in the conversation's `context`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from cpex.framework import Plugin, PluginConfig, PluginContext, PluginPayload, PluginResult

DEFAULT = "Exported by {user} on {day}."


class ExportWatermark(Plugin):
    """Marks what leaves."""

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self._text = str((config.config or {}).get("text", DEFAULT))

    async def chat_export(self, payload: PluginPayload, context: PluginContext) -> PluginResult[Any]:
        """Add the mark."""
        mark = self._text.format(user=context.global_context.user, day=datetime.now(UTC).date())
        content = marked(payload.format, payload.content, mark)
        return PluginResult(modified_payload=payload.model_copy(update={"content": content}))


def marked(form: str, content: str, mark: str) -> str:
    """Return a file's content with a mark in it, wherever its form has room for one."""
    if form == "markdown":
        return f"{content}\n---\n\n{mark}\n"
    exported = json.loads(content)
    exported["context"]["watermark"] = mark
    return json.dumps(exported, ensure_ascii=False)
