"""All that answers requests, by noun."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_chat.api.approvals import Approvals
from mcp_chat.api.apps import Apps
from mcp_chat.api.auth import Auth
from mcp_chat.api.branches import Branches
from mcp_chat.api.events import Events
from mcp_chat.api.health import Health
from mcp_chat.api.llmchat import LLMChat
from mcp_chat.api.metrics import Scrape
from mcp_chat.api.oauth import OAuth
from mcp_chat.api.offers import Offers
from mcp_chat.api.questions import Questions
from mcp_chat.api.recordings import Recordings
from mcp_chat.api.servers import Servers
from mcp_chat.api.sessions import Sessions
from mcp_chat.api.uploads import Uploads
from mcp_chat.api.usage import Spending


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """One of each."""

    chat: LLMChat
    events: Events
    questions: Questions
    approvals: Approvals
    recordings: Recordings
    sessions: Sessions
    branches: Branches
    uploads: Uploads
    apps: Apps
    servers: Servers
    oauth: OAuth
    offers: Offers
    auth: Auth
    spending: Spending
    health: Health
    scrape: Scrape
