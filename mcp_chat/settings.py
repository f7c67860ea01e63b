"""Every knob, one line of help each. Read once, by the application and the command line only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dotenv import load_dotenv
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mcp_chat.exceptions import SettingsError
from mcp_chat.spelling import (
    Algorithms,
    BasePath,
    Claims,
    Hold,
    Mode,
    Networks,
    Ports,
    Prefixes,
    PublicUrl,
    Schemes,
    Words,
    as_text,
)


class Settings(BaseSettings):
    """What an operator can set, from the environment or a ``.env`` file.

    The names are the aliases, and not those of the fields: `HOST` is many shells' own. Names that
    ContextForge has too mean the same here.
    """

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    # Where it listens
    host: str = Field("127.0.0.1", alias="MCP_CHAT_HOST", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, alias="MCP_CHAT_PORT", description="Port to listen on.")
    workers: int = Field(2, ge=1, le=64, alias="GUNICORN_WORKERS", description="Worker processes.")
    public_url: PublicUrl = Field(
        "",
        alias="MCP_CHAT_PUBLIC_URL",
        description="Where browsers reach the chat, for sign-ins at MCP servers: https://chat.example.org.",
    )
    base_path: BasePath = Field(
        "",
        alias="MCP_CHAT_BASE_PATH",
        description="Where it stands below its host, if a proxy leaves that in the path: /chat.",
    )
    frame_origins: Words = Field(
        (),
        alias="MCP_CHAT_FRAME_ORIGINS",
        description="Origins whose pages may show the chat in a frame: `https://admin.example.org`.",
    )
    worker_id: str = Field(
        "",
        alias="WORKER_ID",
        description="Name of this host's workers; the process is added. Empty: the host name.",
    )

    # Where it keeps things
    redis_url: SecretStr = Field(
        SecretStr(""),
        alias="REDIS_URL",
        description="redis://host:6379/0, or redis+cluster:// or redis+sentinel://. Empty: a private Valkey.",
    )
    database_url: SecretStr = Field(
        SecretStr(""),
        alias="DATABASE_URL",
        description="A postgresql:// or sqlite:/// URL. Empty: `mcp-chat serve` uses SQLite.",
    )
    data_dir: Path = Field(
        Path("data"),
        alias="MCP_CHAT_DATA_DIR",
        description="Directory of the embedded Valkey, SQLite and keys.",
    )

    # Who asks
    auth: Mode = Field(
        "demo",
        alias="MCP_CHAT_AUTH",
        description="demo (loopback only), jwt, contextforge, proxy, or package.module:function.",
    )
    jwt_secret_key: SecretStr = Field(
        SecretStr(""), alias="JWT_SECRET_KEY", description="Secret of HS256 tokens, 32 bytes or more."
    )
    jwt_public_key_path: Path | None = Field(
        None,
        alias="JWT_PUBLIC_KEY_PATH",
        description="PEM file with the public key of the tokens.",
    )
    jwks_url: str = Field(
        "", alias="MCP_CHAT_JWKS_URL", description="Address of a JWKS with the public keys of the tokens."
    )
    jwt_algorithms: Algorithms = Field(
        ("HS256",),
        alias="JWT_ALGORITHM",
        description="Algorithm of the tokens: HS256, or RS256 and ES256 with commas.",
    )
    jwt_audience: str = Field("", alias="JWT_AUDIENCE", description="Audience a token must name. Empty: any.")
    jwt_issuer: str = Field("", alias="JWT_ISSUER", description="Issuer a token must name. Empty: any.")
    jwt_claims: Claims = Field(
        {},
        alias="MCP_CHAT_JWT_CLAIMS",
        description="Claims a token must have, and their values if given: `tenant=acme,email`.",
    )
    jwt_user_claim: str = Field(
        "sub", alias="MCP_CHAT_JWT_USER_CLAIM", description="Claim that names the user."
    )
    gateway_url: str = Field(
        "", alias="MCP_CHAT_GATEWAY_URL", description="ContextForge's origin, for mode contextforge."
    )
    proxy_peers: Networks = Field(
        (), alias="MCP_CHAT_PROXY_PEERS", description="CIDRs the proxy of mode proxy connects from."
    )
    proxy_secret: SecretStr = Field(
        SecretStr(""),
        alias="MCP_CHAT_PROXY_SECRET",
        description="What it sends along, 32 bytes or more.",
    )
    proxy_user_header: str = Field(
        "X-Forwarded-User",
        alias="MCP_CHAT_PROXY_USER_HEADER",
        description="Header that names the user.",
    )
    proxy_secret_header: str = Field(
        "X-Proxy-Secret",
        alias="MCP_CHAT_PROXY_SECRET_HEADER",
        description="Header that has the secret.",
    )

    # Secrets and addresses
    encryption_key: SecretStr = Field(
        SecretStr(""),
        alias="MCP_CHAT_ENCRYPTION_KEY",
        description="Base64 of 32 bytes that seals secrets; several with commas, newest first.",
    )
    encryption_key_file: Path | None = Field(
        None,
        alias="MCP_CHAT_ENCRYPTION_KEY_FILE",
        description="A file with these keys instead, one on a line.",
    )
    encrypt_history: bool = Field(
        False,
        alias="MCP_CHAT_ENCRYPT_HISTORY",
        description="Seal what is said, files and names too. A search then finds whole words only.",
    )
    allowed_networks: Networks = Field(
        (),
        alias="MCP_CHAT_ALLOWED_NETWORKS",
        description="CIDRs that users' server and model URLs may reach besides public ones, with commas.",
    )
    allowed_ports: Ports = Field(
        (),
        alias="MCP_CHAT_ALLOWED_PORTS",
        description="The only ports of such URLs: `443,8000-8999`. Empty: all that web servers may have.",
    )
    allowed_schemes: Schemes = Field(
        ("https", "http"),
        alias="MCP_CHAT_ALLOWED_SCHEMES",
        description="The schemes of such URLs: https, http or both.",
    )
    nat64_prefixes: Prefixes = Field(
        (),
        alias="MCP_CHAT_NAT64_PREFIXES",
        description="Your own NAT64 prefixes: the IPv4 address in an address of these is what counts.",
    )
    gateway_origins: Words = Field(
        (),
        alias="MCP_CHAT_GATEWAY_ORIGINS",
        description="Origins whose MCP servers get the user's login token: `https://gateway.example.org`.",
    )

    # Models and servers of the operator
    models_file: Path = Field(
        Path("config/models.yaml"), alias="MCP_CHAT_MODELS_FILE", description="The operator's models."
    )
    default_model: str = Field(
        "",
        alias="MCP_CHAT_DEFAULT_MODEL",
        description="`provider:model` of those who connect without naming one. Empty: one must be named.",
    )
    servers_file: Path = Field(
        Path("config/servers.json"), alias="MCP_CHAT_SERVERS_FILE", description="The operator's MCP servers."
    )
    apps_origin: str = Field(
        "",
        alias="MCP_CHAT_APPS_ORIGIN",
        description="Where apps of MCP servers are shown, on another host than the chat. Empty: nowhere.",
    )
    ollama_url: str = Field(
        "http://127.0.0.1:11434",
        alias="OLLAMA_BASE_URL",
        description="Ollama, listed when it answers. `off`: never.",
    )
    demo_server: bool = Field(
        True, alias="MCP_CHAT_DEMO_SERVER", description="`mcp-chat serve` starts a demo MCP server."
    )

    # Plugins
    plugins_enabled: bool = Field(
        False,
        alias="PLUGINS_ENABLED",
        description="Whether ContextForge plugins are loaded, as the gateway's.",
    )
    plugins_config_file: Path = Field(
        Path("plugins/config.yaml"), alias="PLUGINS_CONFIG_FILE", description="Which plugins, and how."
    )
    plugin_hold: Hold = Field(
        "sentence",
        alias="MCP_CHAT_PLUGIN_HOLD",
        description="How much of an answer plugins see before anybody does: sentence, answer, or a number of "
        "characters.",
    )

    # Lifetimes of what Redis holds, in seconds
    session_ttl: int = Field(
        300,
        ge=10,
        alias="LLMCHAT_SESSION_TTL",
        description="Time to live of a user's connection keys in Redis.",
    )
    session_lock_ttl: int = Field(
        30,
        ge=1,
        alias="LLMCHAT_SESSION_LOCK_TTL",
        description="Time to live of the lock while connections are built.",
    )
    session_lock_retries: int = Field(
        10, ge=0, alias="LLMCHAT_SESSION_LOCK_RETRIES", description="Attempts to get that lock."
    )
    session_lock_wait: float = Field(
        0.2, gt=0, alias="LLMCHAT_SESSION_LOCK_WAIT", description="Seconds between two attempts."
    )
    history_ttl: int = Field(
        3600,
        ge=10,
        alias="LLMCHAT_CHAT_HISTORY_TTL",
        description="Time to live of the recent messages in Redis.",
    )
    history_max_messages: int = Field(
        50,
        ge=2,
        alias="LLMCHAT_CHAT_HISTORY_MAX_MESSAGES",
        description="Recent messages kept in Redis and shown to the model.",
    )
    keep_history: bool = Field(
        True,
        alias="MCP_CHAT_KEEP_HISTORY",
        description="A disconnect leaves the conversation in the archive. false: it deletes it.",
    )

    # What the model is shown
    context_tokens: int = Field(
        64_000,
        ge=256,
        alias="MCP_CHAT_CONTEXT_TOKENS",
        description="Tokens of a conversation it is shown, about.",
    )
    tool_result_characters: int = Field(
        32_000,
        ge=256,
        alias="MCP_CHAT_TOOL_RESULT_CHARACTERS",
        description="Characters of one tool result it is shown; a longer one is shortened.",
    )
    summary: bool = Field(
        False,
        alias="MCP_CHAT_SUMMARY",
        description="Let the user's model sum up what no longer fits, and show it that.",
    )

    system_prompt: str = Field(
        "",
        max_length=16_000,
        alias="MCP_CHAT_SYSTEM_PROMPT",
        description="What models are told first, in conversations whose users set nothing else.",
    )

    # Limits
    max_message_bytes: int = Field(
        32_768, ge=1, alias="MCP_CHAT_MAX_MESSAGE_BYTES", description="Longest message of a user, in bytes."
    )
    max_body_bytes: int = Field(
        262_144, ge=1024, alias="MCP_CHAT_MAX_BODY_BYTES", description="Largest request body, in bytes."
    )
    max_import_bytes: int = Field(
        67_108_864,
        ge=1024,
        alias="MCP_CHAT_MAX_IMPORT_BYTES",
        description="Largest conversation that can be imported, in bytes.",
    )
    max_upload_bytes: int = Field(
        10_485_760, ge=1, alias="MCP_CHAT_MAX_UPLOAD_BYTES", description="Largest file of a user, in bytes."
    )
    upload_quota_bytes: int = Field(
        209_715_200,
        ge=1,
        alias="MCP_CHAT_UPLOAD_QUOTA_BYTES",
        description="All files of a user together, in bytes.",
    )
    max_header_bytes: int = Field(
        65_536,
        ge=1024,
        alias="MCP_CHAT_MAX_HEADER_BYTES",
        description="Largest head of a request, line and headers, in bytes.",
    )
    max_sessions: int = Field(
        10_000, ge=1, alias="MCP_CHAT_MAX_SESSIONS", description="Most conversations of a user."
    )
    max_servers: int = Field(
        8, ge=1, alias="MCP_CHAT_MAX_SERVERS", description="Most MCP servers a user is connected to."
    )
    max_commands: int = Field(
        32,
        ge=1,
        alias="MCP_CHAT_MAX_COMMANDS",
        description="MCP servers that are commands, running at one worker.",
    )
    max_tools: int = Field(256, ge=1, alias="MCP_CHAT_MAX_TOOLS", description="Most tools of one server.")
    max_tool_bytes: int = Field(
        65_536,
        ge=256,
        alias="MCP_CHAT_MAX_TOOL_BYTES",
        description="Largest definition of one tool, in bytes.",
    )
    max_tools_bytes: int = Field(
        2_097_152,
        ge=256,
        alias="MCP_CHAT_MAX_TOOLS_BYTES",
        description="Largest definitions of all tools of one server, in bytes.",
    )
    max_schema_depth: int = Field(
        32, ge=1, alias="MCP_CHAT_MAX_SCHEMA_DEPTH", description="Deepest nesting of a tool's schema."
    )
    max_result_bytes: int = Field(
        1_048_576,
        ge=1024,
        alias="MCP_CHAT_MAX_RESULT_BYTES",
        description="Largest result of a tool call, in bytes.",
    )
    max_app_bytes: int = Field(
        1_048_576,
        ge=1024,
        alias="MCP_CHAT_MAX_APP_BYTES",
        description="Largest app of an MCP server, in bytes.",
    )
    max_event_bytes: int = Field(
        2_097_152,
        ge=1024,
        alias="MCP_CHAT_MAX_EVENT_BYTES",
        description="Largest event of an MCP server's event stream, in bytes.",
    )
    max_answer_bytes: int = Field(
        8_388_608,
        ge=1024,
        alias="MCP_CHAT_MAX_ANSWER_BYTES",
        description="Largest answer of an MCP or model server, in bytes.",
    )
    max_model_bytes: int = Field(
        1_048_576,
        ge=1024,
        alias="MCP_CHAT_MAX_MODEL_BYTES",
        description="Largest message of a model, in bytes.",
    )
    max_calls: int = Field(
        64, ge=1, alias="MCP_CHAT_MAX_CALLS", description="Tool calls in one message of a model."
    )
    parallel_calls: int = Field(
        8, ge=1, alias="MCP_CHAT_PARALLEL_CALLS", description="Tool calls of one turn at a time."
    )
    server_calls: int = Field(
        4, ge=1, alias="MCP_CHAT_SERVER_CALLS", description="Tool calls of one turn at a time at one server."
    )
    queue_length: int = Field(
        16, ge=1, alias="MCP_CHAT_QUEUE_LENGTH", description="Messages of a user that may wait."
    )
    requests_per_minute: int = Field(
        600,
        ge=0,
        alias="MCP_CHAT_REQUESTS_PER_MINUTE",
        description="Requests of a user in a minute. 0: any number.",
    )
    max_streams: int = Field(
        32, ge=1, alias="MCP_CHAT_MAX_STREAMS", description="Streams of one user open at one worker."
    )
    max_turns: int = Field(
        256, ge=1, alias="MCP_CHAT_MAX_TURNS", description="Turns that one worker runs at a time."
    )
    max_user_turns: int = Field(
        4, ge=1, alias="MCP_CHAT_MAX_USER_TURNS", description="Turns of one user that run at a time."
    )
    connect_timeout: float = Field(
        15,
        gt=0,
        alias="MCP_CHAT_CONNECT_TIMEOUT",
        description="Seconds an MCP server may take to answer a connect.",
    )
    tool_timeout: float = Field(
        60, gt=0, alias="MCP_CHAT_TOOL_TIMEOUT", description="Seconds a tool call may show no progress."
    )
    tool_limit: float = Field(
        240, gt=0, alias="MCP_CHAT_TOOL_LIMIT", description="Seconds a tool call may take with progress."
    )
    model_timeout: float = Field(
        60,
        gt=0,
        alias="MCP_CHAT_MODEL_TIMEOUT",
        description="Seconds a model may be silent before or in its answer.",
    )
    model_retries: int = Field(
        2,
        ge=0,
        le=10,
        alias="MCP_CHAT_MODEL_RETRIES",
        description="Further attempts at a model that fails before it says anything.",
    )
    model_retry_wait: float = Field(
        30,
        ge=0,
        alias="MCP_CHAT_MODEL_RETRY_WAIT",
        description="Longest wait before one of them, in seconds, whatever the provider wants.",
    )
    breaker_failures: int = Field(
        5,
        ge=0,
        alias="MCP_CHAT_BREAKER_FAILURES",
        description="Failures in a row after which a model or MCP server is left alone. 0: never.",
    )
    breaker_rest: float = Field(
        30,
        gt=0,
        alias="MCP_CHAT_BREAKER_REST",
        description="Seconds for which it is left alone before it is tried again.",
    )
    fast_openai: bool = Field(
        True,
        alias="MCP_CHAT_FAST_OPENAI",
        description="Whether answers of OpenAI's kind are read without the OpenAI SDK, which costs less.",
    )
    turn_timeout: float = Field(
        300, gt=0, alias="MCP_CHAT_TURN_TIMEOUT", description="Seconds one turn may take."
    )
    tool_rounds: int = Field(
        16, ge=1, alias="MCP_CHAT_TOOL_ROUNDS", description="Rounds of tool calls in one turn."
    )
    approvals: bool = Field(
        True,
        alias="MCP_CHAT_APPROVALS",
        description="Users are asked before tools are called that nobody has allowed.",
    )
    grant_ttl: int = Field(
        30 * 86_400,
        ge=60,
        le=400 * 86_400,
        alias="MCP_CHAT_GRANT_TTL",
        description="Seconds behind its last use for which a user's leave for a tool holds.",
    )
    turn_tokens: int = Field(
        0, ge=0, alias="MCP_CHAT_TURN_TOKENS", description="Tokens one turn may use. 0: any number."
    )
    turn_cost: float = Field(
        0,
        ge=0,
        le=1_000_000,
        alias="MCP_CHAT_TURN_COST",
        description="US dollars one turn may cost. 0: any amount.",
    )
    turn_calls: int = Field(
        0, ge=0, alias="MCP_CHAT_TURN_CALLS", description="Tool calls one turn may make. 0: any number."
    )
    day_tokens: int = Field(
        0, ge=0, alias="MCP_CHAT_DAY_TOKENS", description="Tokens of a user in a day of UTC. 0: any number."
    )
    day_cost: float = Field(
        0,
        ge=0,
        le=1_000_000,
        alias="MCP_CHAT_DAY_COST",
        description="US dollars that a user may cost in a day of UTC. 0: any amount.",
    )
    day_calls: int = Field(
        0,
        ge=0,
        alias="MCP_CHAT_DAY_CALLS",
        description="Tool calls of a user in a day of UTC. 0: any.",
    )
    allow_unpriced: bool = Field(
        False,
        alias="MCP_CHAT_ALLOW_UNPRICED",
        description="Where money is limited, let models without a known price be used as if they were free.",
    )
    usage_days: int = Field(
        400,
        ge=0,
        le=36_500,
        alias="MCP_CHAT_USAGE_DAYS",
        description="Days for which it is known what was spent. 0: for ever; with Redis alone ten years.",
    )
    question_timeout: float = Field(
        1800,
        gt=0,
        le=86_400,
        alias="MCP_CHAT_QUESTION_TIMEOUT",
        description="Seconds a question waits for its user: a server's, or ours about a call.",
    )
    task_timeout: float = Field(
        3600,
        gt=0,
        le=86_400,
        alias="MCP_CHAT_TASK_TIMEOUT",
        description="Seconds a tool call may take that its server has made a task.",
    )
    idle_timeout: float = Field(
        7200,
        gt=0,
        le=43_200,
        alias="MCP_CHAT_IDLE_TIMEOUT",
        description="Seconds without use until a user's connections close.",
    )
    audit_days: int = Field(
        90,
        ge=0,
        le=36_500,
        alias="MCP_CHAT_AUDIT_DAYS",
        description="Days the audit trail is kept in the database. 0: for ever.",
    )
    record_turns: Literal["off", "asked", "failed", "all"] = Field(
        "asked",
        alias="MCP_CHAT_RECORD_TURNS",
        description="Turns that can be replayed: off, asked for by their users, failed ones too, or all.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="MCP_CHAT_LOG_LEVEL", description="Least level that is logged."
    )


def read_env_file(path: Path = Path(".env")) -> None:
    """Put a ``.env`` file into the environment, where the keys that other files name are read."""
    load_dotenv(path, override=False)


def load_settings(**values: object) -> Settings:
    """Read the settings once.

    Args:
        values: Fields that take precedence over the environment.

    Raises:
        SettingsError: A value is not valid; the message names the variable and what is wrong.
    """
    named = {str(Settings.model_fields[name].alias): value for name, value in values.items()}
    try:
        return Settings(**named)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{name}: {first['msg'].removeprefix('Value error, ')}.") from None


def env_example() -> str:
    """Return the text of ``.env.example``: every setting with its help and its default."""
    lines = [
        "# Made by `mcp-chat settings --env-example`. Every line is a default; uncomment what you change."
    ]
    for field in Settings.model_fields.values():
        default = field.get_default()
        value = default.get_secret_value() if isinstance(default, SecretStr) else default
        lines += ["", f"# {field.description}", f"# {field.alias}={as_text(value)}"]
    return "\n".join(lines) + "\n"
