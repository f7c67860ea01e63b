"""What each provider's package raises is understood for what it means, and its words are not handed on."""

from __future__ import annotations

import importlib
import json
from typing import Any

import anthropic
import httpx2
import ollama
import openai
import pytest
from google.genai.errors import ClientError as GoogleClientError
from google.genai.errors import ServerError as GoogleServerError

from mcp_chat.exceptions import Cause, ModelFailed
from mcp_chat.models.failures import failure
from tests.faults import fit

aws: Any = importlib.import_module("botocore.exceptions")
ASKED = httpx2.Request("POST", "https://provider.example/v1")


def open_ai(status: int, message: str = "SECRET", code: str = "x", **headers: str) -> Exception:
    body = {"message": f"SECRET {message}", "code": code, "type": "x"}
    response = httpx2.Response(status, request=ASKED, headers=headers)
    return openai.APIStatusError("SECRET", response=response, body=body)


def claude(status: int, type_: str, message: str = "SECRET", **headers: str) -> Exception:
    body = {"type": "error", "error": {"type": type_, "message": f"SECRET {message}"}}
    response: Any = httpx2.Response(status, request=ASKED, headers=headers)
    return anthropic.APIStatusError("SECRET", response=response, body=body)


def bedrock(status: int, code: str, message: str = "SECRET", **headers: str) -> Exception:
    response: Any = {
        "Error": {"Code": code, "Message": f"SECRET {message}"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    error: Exception = aws.ClientError(response, "ConverseStream")
    return error


def gemini(status: int, word: str, message: str = "SECRET", *details: Any) -> Exception:
    kind = GoogleServerError if status >= 500 else GoogleClientError
    error = {"code": status, "status": word, "message": f"SECRET {message}", "details": list(details)}
    return kind(status, {"error": error})


def raised_from(cause: Exception) -> Exception:
    error = openai.APIConnectionError(request=ASKED)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (open_ai(400, "This model's maximum context length is 8192 tokens."), "too_long"),
        (open_ai(400, code="context_length_exceeded"), "too_long"),
        (open_ai(400, "Unsupported value: 'temperature'"), "bad_request"),
        (open_ai(400, code="model_not_found"), "unknown_model"),
        (open_ai(401, code="invalid_api_key"), "refused_key"),
        (open_ai(404, code="model_not_found"), "unknown_model"),
        (open_ai(413), "too_long"),
        (open_ai(429, "Rate limit reached: Request too large for gpt-4o"), "limited"),
        (open_ai(429, code="insufficient_quota"), "spent"),
        (open_ai(500, code="server_error"), "failed"),
        (open_ai(503), "overloaded"),
        (openai.APIError("SECRET", request=ASKED, body={"code": "server_error"}), "failed"),
        (openai.APIError("SECRET", request=ASKED, body={"code": "rate_limit_exceeded"}), "limited"),
        (openai.APIError("SECRET", request=ASKED, body={"code": "x", "message": "SECRET"}), "unreadable"),
        (openai.APITimeoutError(request=ASKED), "timeout"),
        (raised_from(httpx2.ConnectError("SECRET")), "unreachable"),
        (raised_from(httpx2.RemoteProtocolError("SECRET")), "broken_off"),
        (httpx2.ReadError("SECRET"), "broken_off"),
        (
            claude(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
            "too_long",
        ),
        (claude(400, "invalid_request_error", "Your credit balance is too low"), "spent"),
        (claude(400, "invalid_request_error", "messages: roles must alternate"), "bad_request"),
        (claude(401, "authentication_error"), "refused_key"),
        (claude(404, "not_found_error", "model: claude-9"), "unknown_model"),
        (claude(413, "request_too_large"), "too_long"),
        (claude(429, "rate_limit_error"), "limited"),
        (claude(529, "overloaded_error", "Overloaded"), "overloaded"),
        (claude(200, "overloaded_error", "Overloaded"), "overloaded"),
        (claude(200, "api_error", "Internal server error"), "failed"),
        (bedrock(400, "ThrottlingException", "Too many requests"), "limited"),
        (bedrock(429, "ThrottlingException", "Too many tokens, please wait before trying again"), "limited"),
        (bedrock(400, "ValidationException", "Input is too long for requested model."), "too_long"),
        (bedrock(400, "ValidationException", "malformed input request"), "bad_request"),
        (bedrock(400, "ValidationException", "too many input tokens"), "too_long"),
        (bedrock(403, "AccessDeniedException"), "refused_key"),
        (bedrock(400, "UnrecognizedClientException"), "refused_key"),
        (bedrock(404, "ResourceNotFoundException"), "unknown_model"),
        (bedrock(503, "ServiceUnavailableException"), "overloaded"),
        (bedrock(500, "InternalServerException"), "failed"),
        (aws.EndpointConnectionError(endpoint_url="https://SECRET"), "unreachable"),
        (aws.ReadTimeoutError(endpoint_url="https://SECRET"), "timeout"),
        (gemini(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota"), "limited"),
        (gemini(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), "refused_key"),
        (gemini(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum"), "too_long"),
        (gemini(400, "INVALID_ARGUMENT", "Unknown name 'x'"), "bad_request"),
        (gemini(404, "NOT_FOUND", "models/x is not found"), "unknown_model"),
        (gemini(503, "UNAVAILABLE", "The model is overloaded."), "overloaded"),
        (ollama.ResponseError("SECRET model 'x' not found", 404), "unknown_model"),
        (ollama.ResponseError("SECRET input length exceeds the context length", 400), "too_long"),
        (ollama.ResponseError("SECRET", 500), "failed"),
        (ConnectionError("SECRET"), "unreachable"),
        (TimeoutError("SECRET"), "timeout"),
        (ValueError("SECRET context length"), "unreadable"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_is_understood(error: Exception, cause: Cause) -> None:
    told = failure(error)
    assert isinstance(told, ModelFailed)
    assert told.cause == cause
    fit(str(told))


def after(error: Exception) -> float | None:
    told = failure(error)
    assert isinstance(told, ModelFailed)
    return told.retry_after


def test_the_wait_that_a_provider_wants_is_read() -> None:
    assert after(open_ai(429, **{"retry-after": "3"})) == 3
    assert after(open_ai(429, **{"retry-after": "3", "retry-after-ms": "250"})) == 0.25
    assert after(open_ai(429, **{"retry-after-ms": "soon"})) is None
    assert after(claude(529, "overloaded_error", **{"retry-after": "7"})) == 7
    assert after(bedrock(429, "ThrottlingException", **{"retry-after": "2"})) == 2
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "37s"}
    assert after(gemini(429, "RESOURCE_EXHAUSTED", "quota", delay)) == 37
    assert after(open_ai(429, **{"retry-after": "Wed, 21 Oct 2065 07:28:00 GMT"})) == 3600
    assert after(open_ai(429)) is None


@pytest.mark.parametrize("body", [None, "SECRET", b"SECRET", [], {"error": None}, json.dumps({"a": 1}), 5])
def test_whatever_a_body_is_the_status_tells(body: Any) -> None:
    response = httpx2.Response(429, request=ASKED)
    told = failure(openai.APIStatusError("SECRET", response=response, body=body))
    assert isinstance(told, ModelFailed)
    assert told.cause == "limited"
