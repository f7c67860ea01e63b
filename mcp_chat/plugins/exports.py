"""What plugins are asked when a user carries a conversation away."""

from __future__ import annotations

from mcp_chat.identity import Principal
from mcp_chat.message import new_id, wellformed
from mcp_chat.plugins import hooks
from mcp_chat.plugins.base import Occasion, Plugins


async def exported(plugins: Plugins, user: Principal, session_id: str, form: str, content: str) -> str:
    """Return a file as plugins let it go.

    Args:
        form: `json` or `markdown`.
        content: The whole file.

    Raises:
        BlockedByPlugin: It does not leave.
    """
    if hooks.CHAT_EXPORT not in plugins.hooks:
        return content
    occasion = Occasion(request_id=new_id(), user=user.key, session_id=session_id)
    fields = {"session_id": session_id, "format": form, "content": content}
    changed = await plugins.ask(hooks.CHAT_EXPORT, fields, occasion)
    return wellformed(str(changed["content"])) if "content" in changed else content
