"""The hooks around a server's prompts and resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import mcp_types as mcp
from pydantic import ValidationError

from mcp_chat.plugins import hooks
from mcp_chat.plugins.base import NONE, Occasion, Plugins
from mcp_chat.plugins.blocks import unfit
from mcp_chat.plugins.tools import lighter, restored


class OfferDoor:
    """Lets plugins look at what is fetched of one server.

    Args:
        plugins: The operator's.
        occasion: The request.
    """

    def __init__(self, plugins: Plugins, occasion: Occasion) -> None:
        self._plugins = plugins
        self._occasion = occasion

    async def before_prompt(self, name: str, arguments: Mapping[str, str]) -> dict[str, str]:
        """Return the arguments that a prompt is fetched with.

        Raises:
            BlockedByPlugin: It is not to be fetched.
        """
        fields = {"prompt_id": name, "args": dict(arguments)}
        changed = await self._plugins.ask(hooks.PROMPT_PRE, fields, self._occasion)
        return {str(key): str(value) for key, value in (changed.get("args", arguments) or {}).items()}

    async def after_prompt(self, name: str, found: mcp.GetPromptResult) -> mcp.GetPromptResult:
        """Return a prompt as it may be shown.

        Raises:
            BlockedByPlugin: Nothing of it.
        """
        if hooks.PROMPT_POST not in self._plugins.hooks:
            return found
        told, files = lighter(found.model_dump(mode="json", by_alias=True, exclude_none=True))
        fields = {"prompt_id": name, "result": told}
        changed = await self._plugins.ask(hooks.PROMPT_POST, fields, self._occasion)
        if "result" not in changed:
            return found
        try:
            return mcp.GetPromptResult.model_validate(restored(changed["result"], files))
        except ValidationError:
            raise unfit(hooks.PROMPT_POST) from None

    async def before_resource(self, uri: str) -> str:
        """Return the address of the resource that is fetched.

        Raises:
            BlockedByPlugin: It is not to be fetched.
        """
        fields = {"uri": uri, "metadata": {}}
        changed = await self._plugins.ask(hooks.RESOURCE_PRE, fields, self._occasion)
        return str(changed.get("uri", uri))

    async def after_resource(self, uri: str, found: mcp.ReadResourceResult) -> mcp.ReadResourceResult:
        """Return a resource as it may be shown; each of its contents is looked at.

        Raises:
            BlockedByPlugin: Nothing of it.
        """
        if hooks.RESOURCE_POST not in self._plugins.hooks:
            return found
        told = found.model_dump(mode="json", by_alias=True, exclude_none=True)
        contents = [await self._content(uri, content) for content in told["contents"]]
        try:
            return mcp.ReadResourceResult.model_validate({**told, "contents": contents})
        except ValidationError:
            raise unfit(hooks.RESOURCE_POST) from None

    async def _content(self, uri: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return one content, in between in the gateway's form: a text, or a file that is not shown."""
        light, files = lighter(dict(content))
        shown = {
            "type": "resource",
            "id": content["uri"],
            "uri": content["uri"],
            "mime_type": content.get("mimeType"),
            "text": light.get("text"),
            "blob": light.get("blob"),
        }
        fields = {"uri": uri, "content": shown}
        changed = await self._plugins.ask(hooks.RESOURCE_POST, fields, self._occasion)
        if "content" not in changed:
            return dict(content)
        kept = changed["content"]
        if not isinstance(kept, Mapping):
            raise unfit(hooks.RESOURCE_POST)
        new = {name: kept[name] for name in ("text", "blob") if kept.get(name) is not None}
        others = {name: value for name, value in content.items() if name not in ("text", "blob")}
        told: dict[str, Any] = restored({**others, **new}, files)
        return told


OPEN_DOOR: Final = OfferDoor(NONE, Occasion(request_id=""))
"""Where no plugin looks."""
