"""What Prometheus collects."""

from __future__ import annotations

from dataclasses import dataclass

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from mcp_chat.metrics import CONTENT_TYPE, Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """The endpoint for Prometheus.

    Attributes:
        metrics: This worker's, which give the sums over all workers.
    """

    metrics: Metrics

    async def text(self, _request: Request) -> Response:
        """The metrics of all workers of this master."""
        return Response(await anyio.to_thread.run_sync(self.metrics.text), media_type=CONTENT_TYPE)
