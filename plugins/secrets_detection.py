"""`cpex-secrets-detection`, which looks through tool calls and resources, made to look through messages, too.

    - name: SecretsDetection
      kind: plugins.secrets_detection.SecretsDetection
      hooks: [prompt_pre_fetch, tool_pre_invoke, tool_post_invoke, resource_post_fetch,
              cmf.llm_input, cmf.llm_output]
      config: {block_on_detection: false, redact: true}

`config` is that of the package: `pip install cpex-secrets-detection`. Without it, messages with keys are
blocked. For tool calls and resources alone, use the package's own class as `kind`:
`cpex_secrets_detection.secrets_detection.SecretsDetectionPlugin`.
"""

from __future__ import annotations

from typing import Any

from cpex.framework import PluginConfig, PluginContext, PluginViolation, hook
from cpex.framework.cmf.message import TextContent, ThinkingContent
from cpex.framework.hooks.message import MessagePayload, MessageResult
from cpex_secrets_detection import SecretsDetectionPlugin, py_scan_container

SAID = (TextContent, ThinkingContent)


class SecretsDetection(SecretsDetectionPlugin):
    """Blocks or masks credentials in both directions, as the package is configured."""

    def __init__(self, config: PluginConfig) -> None:
        super().__init__(config)
        self._settings = settings = dict(config.config or {})
        self._blocks = settings.get("block_on_detection", True)
        self._enough = settings.get("min_findings_to_block", 1)
        self._redacts = settings.get("redact", False)

    @hook(["cmf.llm_input", "cmf.llm_output"])
    async def message(self, payload: MessagePayload, context: PluginContext) -> MessageResult:
        """Look through what is said to the model, and what it says."""
        texts = [part.text if isinstance(part, SAID) else "" for part in payload.message.content]
        count, masked, findings = py_scan_container(texts, self._settings)
        if self._blocks and count >= self._enough:
            return MessageResult(continue_processing=False, violation=_violation(findings))
        if not (count and self._redacts):
            return MessageResult()
        parts = [_with(part, text) for part, text in zip(payload.message.content, masked, strict=True)]
        message = payload.message.model_copy(update={"content": parts})
        return MessageResult(modified_payload=payload.model_copy(update={"message": message}))


def _with(part: Any, text: str) -> Any:
    return part.model_copy(update={"text": text}) if isinstance(part, SAID) else part


def _violation(findings: list[dict[str, str]]) -> PluginViolation:
    kinds = sorted({each["type"] for each in findings})
    return PluginViolation(
        reason=f"This has a secret in it: {', '.join(kinds)}.",
        description="Credentials were detected in a message.",
        code="SECRETS_DETECTED",
        details={"types": kinds},
    )
