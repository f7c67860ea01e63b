"""One table from errors to status codes, and one answer for all of them."""

from __future__ import annotations

import math
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcp_chat.api.bodies import InvalidBody
from mcp_chat.events import Failed
from mcp_chat.exceptions import ChatError, LimitReached, Unexpected

log = structlog.get_logger()

STATUS = {
    "not_authenticated": 401,
    "login_unavailable": 503,
    "forbidden": 403,
    "blocked": 403,
    "not_connected": 400,
    "invalid_request": 400,
    "invalid_session": 400,
    "address_not_allowed": 400,
    "invalid_body": 422,
    "unsupported_body": 415,
    "too_large": 413,
    "too_many_tools": 422,
    "server_refused": 400,
    "not_offered": 409,
    "too_many_sessions": 422,
    "sign_in_needed": 403,
    "sign_in_failed": 400,
    "not_found": 404,
    "message_moved": 409,
    "turn_running": 409,
    "answered_already": 409,
    "question_ended": 410,
    "no_archive": 501,
    "too_many_waiting": 429,
    "too_many_requests": 429,
    "too_many_streams": 429,
    "limit_reached": 429,
    "unpriced": 422,
    "busy": 503,
    "too_many_commands": 503,
    "server_unavailable": 503,
    "answer_too_large": 503,
    "app_unusable": 422,
    "model_failed": 503,
    "model_timeout": 504,
    "store_unavailable": 503,
    "fenced": 503,
    "interrupted": 503,
    "draining": 503,
    "unexpected": 500,
}
RETRY_AFTER = {
    "login_unavailable": "2",
    "too_many_waiting": "5",
    "too_many_requests": "1",
    "too_many_streams": "5",
    "limit_reached": "60",
    "busy": "5",
    "too_many_commands": "60",
    "server_unavailable": "5",
    "answer_too_large": "60",
    "model_failed": "5",
    "store_unavailable": "2",
    "fenced": "1",
    "interrupted": "1",
    "draining": "1",
}
"""Seconds after which it may go better, where nobody knows it more exactly: for each 429 and 503."""


def on_error(_request: Request, error: Exception) -> Response:
    """Answer with an error's status and sentence."""
    assert isinstance(error, ChatError)
    more: dict[str, Any] = {"errors": error.problems} if isinstance(error, InvalidBody) else {}
    if isinstance(error, LimitReached):
        more = {"limit": error.limit}
    return _retried(answer(error.code, str(error), **more), getattr(error, "retry_after", None))


def of_failed(failed: Failed) -> Response:
    """Answer with the failure of a command; a model's failure begins as the contract's clients know it."""
    text = failed.text
    if failed.code == "model_failed":
        text = f"Chat service error. {text}"
    more = {"limit": failed.limit} if failed.limit else {}
    return _retried(answer(failed.code, text, **more), failed.retry_after)


def _retried(response: Response, seconds: float | None) -> Response:
    """Say when to try again, if that is known."""
    if seconds is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(seconds)))
    return response


def answer(code: str, detail: str, **more: Any) -> JSONResponse:
    """Return the JSON answer for an error's code."""
    headers = {"retry-after": RETRY_AFTER[code]} if code in RETRY_AFTER else {}
    if code == "not_authenticated":
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"detail": detail, "code": code, **more}, STATUS.get(code, 500), headers)


def on_http_exception(_request: Request, error: Exception) -> Response:
    """Answer for what the router refuses."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    return JSONResponse({"detail": str(error.detail), "code": code}, error.status_code, error.headers)


def on_crash(request: Request, error: Exception) -> Response:
    """Answer for a bug: the details are in the log only."""
    log.error("request.crashed", path=request.scope["path"], exc_info=error)
    return answer(Unexpected.code, str(Unexpected()))
