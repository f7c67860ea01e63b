"""`cpex-pii-filter`, which looks through prompts and tool calls, made to look through messages as well.

    - name: PIIRedaction
      kind: plugins.pii_redaction.PIIRedaction
      hooks: [prompt_pre_fetch, prompt_post_fetch, tool_pre_invoke, tool_post_invoke,
              cmf.llm_input, cmf.llm_output]
      config: {default_mask_strategy: redact, detect_phone: false}

`config` is that of the package: `pip install cpex-pii-filter`. For prompts and tool calls alone, use the
package's own class as `kind`: `cpex_pii_filter.pii_filter.PIIFilterPlugin`.
"""

from __future__ import annotations

from typing import Any

from cpex.framework import PluginConfig, PluginContext, PluginViolation, hook
from cpex.framework.cmf.message import TextContent, ThinkingContent
from cpex.framework.hooks.message import MessagePayload, MessageResult
from cpex_pii_filter import PIIDetectorRust, PIIFilterPlugin

SAID = (TextContent, ThinkingContent)


class PIIRedaction(PIIFilterPlugin):
    """Masks personal data in both directions, or blocks if the package is configured to."""

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self._detector = PIIDetectorRust(config.config or {})
        self._blocks = bool((config.config or {}).get("block_on_detection"))

    @hook(["cmf.llm_input", "cmf.llm_output"])
    async def message(self, payload: MessagePayload, context: PluginContext) -> MessageResult:
        """Mask what is said to the model, and what it says."""
        parts = [self._masked(part) for part in payload.message.content]
        if parts == list(payload.message.content):
            return MessageResult()
        if self._blocks:
            return MessageResult(continue_processing=False, violation=_violation())
        message = payload.message.model_copy(update={"content": parts})
        return MessageResult(modified_payload=payload.model_copy(update={"message": message}))

    def _masked(self, part: Any) -> Any:
        if not isinstance(part, SAID):
            return part
        found = self._detector.detect(part.text)
        return part.model_copy(update={"text": self._detector.mask(part.text, found)}) if found else part


def _violation() -> PluginViolation:
    return PluginViolation(
        reason="This has personal data in it.",
        description="Personal data was detected in a message.",
        code="PII_DETECTED",
    )
