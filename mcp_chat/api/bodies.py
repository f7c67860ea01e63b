"""Request bodies: what is accepted, and what a caller is told about the rest.

Fields are those of ContextForge's chat. A field that nobody knows is refused and not ignored: it would
be a setting that the caller believes to be in force.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import anyio
import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from starlette.requests import ClientDisconnect, Request

from mcp_chat.exceptions import ChatError, InvalidRequest, InvalidSession, TooLarge
from mcp_chat.manner import HOTTEST, KEYS, LONGEST_PROMPT
from mcp_chat.message import ID, wellformed
from mcp_chat.models.providers.names import one_name
from mcp_chat.offers import LONGEST, fits
from mcp_chat.questions import Choice
from mcp_chat.session import plain
from mcp_chat.tools import DEEPEST, deeper
from mcp_chat.verdicts import Verdict

MAX_PROBLEMS = 20
"""More are not told: an answer is to be no larger than its question."""

BODY_SECONDS = 15
SLOWEST = 100_000
"""Bytes a second at which a large body may arrive."""

MAX_CONTEXT_KEYS = 64
MAX_CONTEXT_BYTES = 65_536
MAX_ARGUMENTS_BYTES = 65_536


class InvalidBody(ChatError):
    """The body does not have the right form.

    Attributes:
        problems: Place and text of each.
    """

    code = "invalid_body"

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        first = problems[0]
        super().__init__(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}.")
        self.problems = problems


class UnsupportedBody(ChatError):
    """Send the body as JSON, with the header `Content-Type: application/json`."""

    code = "unsupported_body"


def sized_context(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a session's context as it is, unless it is too large.

    Raises:
        ValueError: It has too many keys, is too long, or is nested too deeply to be written.
    """
    try:
        size = len(json.dumps(plain(context, ("context",)), ensure_ascii=False).encode())
    except InvalidSession as error:
        raise ValueError(str(error).removesuffix(".")) from None
    if len(context) > MAX_CONTEXT_KEYS or size > MAX_CONTEXT_BYTES:
        raise ValueError(f"a context has up to {MAX_CONTEXT_KEYS} keys and {MAX_CONTEXT_BYTES} bytes of JSON")
    return context


def _own_keys(context: dict[str, Any]) -> dict[str, Any]:
    if "pinned" in context:
        raise ValueError("messages are pinned with the field pinned")
    if set(context).intersection(KEYS):
        raise ValueError("system_prompt, temperature and model are fields of their own")
    if context.get("summary") is not None:
        raise ValueError("the chat itself writes summary; null removes it")
    return context


def _one_line(text: str) -> str:
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text):
        raise ValueError("control characters and line ends are not possible here")
    return text


SessionName = Annotated[str, Field(max_length=200), AfterValidator(_one_line), AfterValidator(str.strip)]
Context = Annotated[dict[str, Any], AfterValidator(sized_context), AfterValidator(_own_keys)]


def _default_if_null(default: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


class Body(BaseModel):
    """A JSON object without unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class UserBody(Body):
    """Names the user, as an assertion that must match the proven identity."""

    user_id: str = Field(max_length=10_000)


class AnswerBody(UserBody):
    """An answer to what a server asks."""

    action: Literal["accept", "decline", "cancel"]
    content: dict[str, Any] | None = Field(
        None, repr=False, description="What is filled into a form; fields left out have their defaults."
    )


class ApprovalBody(Body):
    """A decision about a call that waits for it."""

    user_id: str | None = Field(None, max_length=10_000)
    decision: Choice
    arguments: dict[str, Any] | None = Field(
        None, description="What the call is to be made with, instead of what the model has chosen."
    )
    reason: str | None = Field(None, max_length=2000, description="For the model, when it is denied.")

    @field_validator("arguments")
    @classmethod
    def _not_deep(cls, arguments: dict[str, Any] | None) -> dict[str, Any] | None:
        if deeper(arguments, DEEPEST):
            raise ValueError(f"arguments are nested up to {DEEPEST} levels deep")
        return arguments


class ServerBody(Body):
    """An MCP server: one of the operator's by its name, or one's own by its URL."""

    name: str | None = Field(None, max_length=64, description="An operator's server.")
    url: str | None = Field(None, max_length=2048, description="Your own server, http or https.")
    transport: Annotated[Literal["streamable_http", "sse"], _default_if_null("streamable_http")] = (
        "streamable_http"
    )
    auth_token: str | None = Field(
        None, max_length=16_384, repr=False, description="Sent to this server as a bearer token."
    )
    alias: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,31}$", description="Its name in front of its tools."
    )
    command: None = None
    args: None = None

    @model_validator(mode="after")
    def _one_of(self) -> ServerBody:
        if bool(self.name) == bool(self.url):
            raise ValueError("give either the name of an operator's server or a url")
        if self.name and (self.alias or self.auth_token or self.transport != "streamable_http"):
            raise ValueError(
                "alias, auth_token and transport belong to a url: the operator set them for a name"
            )
        return self


class ModelSettings(Body):
    """A user's own model; which of these its provider has is in docs/models.md."""

    model: str = Field(min_length=1, max_length=256)
    api_key: str | None = Field(None, max_length=4096, repr=False)
    secret_key: str | None = Field(
        None, max_length=4096, repr=False, description="The secret of an AWS access key."
    )
    session_token: str | None = Field(None, max_length=16_384, repr=False)
    base_url: str | None = Field(None, max_length=2048)
    api_version: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Azure's.")
    deployment: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,128}$", description="At Azure.")
    region: str | None = Field(None, pattern=r"^[a-z0-9-]{1,32}$", description="Of Bedrock or watsonx.")
    project_id: str | None = Field(None, pattern=r"^[A-Za-z0-9-]{1,64}$", description="Of watsonx.")
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, gt=0)
    timeout: float | None = Field(
        None, description="Accepted from the contract's clients; the operator's limits hold."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, given: Any) -> Any:
        return one_name(given) if isinstance(given, dict) else given

    @field_validator("model")
    @classmethod
    def _line(cls, text: str) -> str:  # conversations are listed with it
        return _one_line(text)

    def used(self) -> dict[str, Any]:
        """Return what a model is made of."""
        return self.model_dump(exclude={"timeout"})


class LLMBody(Body):
    """A model: `{"model": ...}` of the catalogue, or `{"provider": ..., "config": {...}}`.

    Without either it is the operator's default, where there is one.
    """

    model: str | None = Field(None, min_length=1, max_length=256)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, gt=0)
    provider: str | None = Field(None, min_length=1, max_length=64)
    config: ModelSettings | None = None

    @model_validator(mode="after")
    def _one_form(self) -> LLMBody:
        if self.model is not None and self.provider is not None:
            raise ValueError("give either a model, or a provider with its config")
        if (self.provider is None) != (self.config is None):
            raise ValueError("a provider and its config belong together, instead of a model")
        if self.config is not None and (self.temperature, self.max_tokens) != (None, None):
            raise ValueError("beside a provider, temperature and max_tokens belong into its config")
        return self


class ConnectBody(UserBody):
    """Connect to servers and a model."""

    llm: LLMBody
    server: ServerBody | None = None
    servers: list[ServerBody] | None = None
    streaming: bool = False

    @model_validator(mode="after")
    def _one_list(self) -> ConnectBody:
        if self.server is not None and self.servers is not None:
            raise ValueError("give either server or servers")
        return self

    def all_servers(self) -> list[ServerBody]:
        """Return the servers of either form."""
        return [self.server] if self.server else list(self.servers or ())


class OwnBody(Body):
    """Belongs to whoever is signed in; a user id is an assertion that may be left out."""

    user_id: str | None = Field(None, max_length=10_000)


class AddServerBody(ServerBody, OwnBody):
    """Connect to one more server."""

    def server(self) -> ServerBody:
        """Return the server."""
        return ServerBody.model_validate(self.model_dump(exclude={"user_id"}))


class SwitchBody(OwnBody):
    """Switch a server on or off."""

    enabled: bool


Tools = Annotated[str, Field(min_length=1, max_length=256)]


class ToolsBody(OwnBody):
    """Switch tools, accept changed ones, and say what may be done; what is left out stays as it is."""

    enabled: dict[Tools, bool] = Field(
        default_factory=dict, max_length=1000, description="On or off, by their names at the server."
    )
    accept: dict[Tools, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(
        default_factory=dict, max_length=1000, description="The hashes that they were shown with."
    )
    policy: dict[Tools, Verdict] = Field(
        default_factory=dict, max_length=1000, description="What may be done with them."
    )


class SettingsBody(OwnBody):
    """How a conversation is answered from its next turn on; null takes a setting back."""

    system_prompt: str | None = Field(
        None,
        max_length=LONGEST_PROMPT,
        description="What the model is told first; empty for nothing, null for the installation's own.",
    )
    temperature: float | None = Field(None, ge=0, le=HOTTEST)
    model: str | None = Field(
        None, min_length=1, max_length=256, description="Of the catalogue, instead of the connected one."
    )

    @field_validator("system_prompt")
    @classmethod
    def _clean(cls, text: str | None) -> str | None:
        return text and wellformed(text)


class NewSessionBody(SettingsBody):
    """Begin a conversation."""

    name: SessionName = ""
    context: Context = Field(default_factory=dict, description="Anything that is to be kept with it.")


class SessionBody(SettingsBody):
    """Change a conversation; what is left out stays as it is."""

    name: SessionName | None = None
    context: Context | None = Field(None, description="Keys to set; null removes one.")
    pinned: list[Annotated[str, Field(pattern=ID)]] | None = Field(
        None, max_length=100, description="Messages that the model always sees, by their ids."
    )


def _askable(text: str) -> str:
    if not fits(text):
        raise ValueError("this cannot be the name of anything at a server")
    return text


Askable = Annotated[str, Field(min_length=1, max_length=LONGEST), AfterValidator(_askable)]
Alias = Annotated[str, Field(min_length=1, max_length=64, description="A server of yours, by its alias.")]
Arguments = Annotated[
    dict[Annotated[str, Field(max_length=256)], Annotated[str, Field(max_length=LONGEST)]],
    Field(default_factory=dict, max_length=32),
    AfterValidator(sized_context),
]


class PromptOfBody(OwnBody):
    """A prompt of a server, with its arguments."""

    name: Askable
    arguments: Arguments


class CompleteBody(OwnBody):
    """An argument of a prompt or of a template of resources, as far as it is written."""

    prompt: Askable | None = None
    template: Askable | None = None
    argument: Askable
    value: str = Field("", max_length=LONGEST)
    context: Arguments = Field(description="Arguments that are known already.")

    @model_validator(mode="after")
    def _one_of(self) -> CompleteBody:
        if (self.prompt is None) == (self.template is None):
            raise ValueError("give either a prompt or a template")
        return self


class UriBody(OwnBody):
    """A resource."""

    uri: Askable


class PromptBody(Body):
    """A prompt that a message begins with."""

    server: Alias
    name: Askable
    arguments: Arguments


class ResourceBody(Body):
    """A resource that goes with a message."""

    server: Alias
    uri: Askable


IfRunning = Annotated[
    Literal["queue", "interrupt"],
    Field(description="While a turn of this conversation runs: wait for its end, or stop it."),
]


class ChatBody(UserBody):
    """Send a message."""

    message: str
    prompt: PromptBody | None = Field(None, description="What the message begins with.")
    resources: list[ResourceBody] = Field(
        default_factory=list, max_length=8, description="Read when the message is sent, and attached to it."
    )
    attachments: list[Annotated[str, Field(pattern=ID)]] = Field(
        default_factory=list, max_length=8, description="Files, by the ids that uploading has given them."
    )
    streaming: bool = False
    session_id: str | None = Field(
        None, max_length=256, description="Another conversation than the default one."
    )
    message_id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The same id again gives the same turn."
    )
    if_running: Literal["queue", "interrupt", "steer"] = Field(
        "queue", description="While a turn of this conversation runs: wait, stop it, or say this into it."
    )
    edit: str | None = Field(
        None, pattern=ID, description="A message of the user's that this one is said instead of."
    )
    record: bool = Field(False, description="Keep a recording of the turn, for `mcp-chat replay`.")


class RetryBody(UserBody):
    """Run a message again; its answer becomes a branch."""

    session_id: str | None = Field(
        None, max_length=256, description="Another conversation than the default one."
    )
    message_id: str | None = Field(None, pattern=ID, description="Another message than the last one.")
    streaming: bool = False
    if_running: IfRunning = "queue"
    model: str | None = Field(None, min_length=1, max_length=256, description="Of the catalogue, this time.")
    temperature: float | None = Field(None, ge=0, le=HOTTEST, description="This time.")


class CancelBody(UserBody):
    """Stop the turns of one session, or of all."""

    session_id: str | None = Field(None, max_length=256)


def _sendable(arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(orjson.dumps(arguments))
    except (orjson.JSONEncodeError, RecursionError):
        raise ValueError("arguments have a value that cannot be sent on") from None
    if size > MAX_ARGUMENTS_BYTES:
        raise ValueError(f"arguments have up to {MAX_ARGUMENTS_BYTES} bytes of JSON")
    return arguments


class AppCallBody(UserBody):
    """Call a tool for an app, of the same server."""

    tool: str = Field(min_length=1, max_length=128, description="The tool whose app asks.")
    name: str = Field(min_length=1, max_length=256, description="What the server calls the tool to call.")
    arguments: Annotated[dict[str, Any], AfterValidator(_sendable)] = Field(default_factory=dict)


class AppResourceBody(UserBody):
    """Read a resource for an app, of the same server."""

    tool: str = Field(min_length=1, max_length=128, description="The tool whose app asks.")
    uri: str = Field(min_length=1, max_length=2048)


class FinishBody(OwnBody):
    """End a sign-in at an MCP server, with what its authorization server has sent along."""

    state: str = Field(max_length=256)
    code: str = Field("", max_length=4096, repr=False)
    iss: str | None = Field(None, max_length=2048)
    error: str = Field("", max_length=256)


class SignInBody(Body):
    """Choose a name; only where `MCP_CHAT_AUTH=demo`."""

    user: str = Field(pattern=r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]{0,126}[^\s\x00-\x1f\x7f])?$")

    @field_validator("user")
    @classmethod
    def _no_step(cls, name: str) -> str:
        if name in (".", ".."):  # a path that ends so is another path
            raise ValueError("choose another name")
        return name


B = TypeVar("B", bound=Body)


async def read_body(request: Request, form: type[B], *, limit: int) -> B:
    """Read a JSON body.

    Raises:
        UnsupportedBody: It is not said to be JSON.
        TooLarge: It is larger than `limit` bytes.
        InvalidRequest: It is not JSON.
        InvalidBody: It is not of this form.
    """
    if media_type(request) != "application/json":
        raise UnsupportedBody
    try:
        content = orjson.loads(await read_bytes(request, limit=limit))
    except orjson.JSONDecodeError:
        raise InvalidRequest("The body is not valid JSON.") from None
    try:
        return form.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False)[:MAX_PROBLEMS]
        raise InvalidBody([_problem(each) for each in problems]) from None


def media_type(request: Request) -> str:
    """Return what the body is said to be, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_bytes(request: Request, *, limit: int, seconds: float = BODY_SECONDS) -> bytes:
    """Read a body as it is.

    Raises:
        TooLarge: It is larger than `limit` bytes.
        InvalidRequest: It does not arrive in time.
    """
    body = bytearray()
    try:
        with anyio.move_on_after(seconds) as patience:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"The request is larger than {limit} bytes. Send less at once.")
    except ClientDisconnect:  # nobody hears it, and nothing is wrong here
        raise InvalidRequest("The request broke off.") from None
    if patience.cancelled_caught:
        raise InvalidRequest(f"The request did not arrive within {seconds:.0f} seconds.")
    return bytes(body)


def patience_for(limit: int) -> float:
    """Return the seconds in which a body of up to `limit` bytes is to arrive."""
    return BODY_SECONDS + limit / SLOWEST


NO_MODEL = {
    "loc": ["body", "llm"],
    "msg": "give either a model, or a provider with its config",
    "type": "value_error",
}
"""What is wrong with a connect that names no model where the operator has set no default."""


def _problem(error: Any) -> dict[str, Any]:
    """What was sent is left out: it may be a secret. A field's name is cut: it may be long."""
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "model_type":
        message = "Send a JSON object"
    place = [part[:64] if isinstance(part, str) else part for part in error["loc"]]
    return {"loc": ["body", *place], "msg": message, "type": error["type"]}
