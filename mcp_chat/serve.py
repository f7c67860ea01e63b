"""`mcp-chat serve`: the chat with everything it needs, on one machine.

Everything started here is stopped here, the workers first and what they need after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from types import FrameType
from typing import Final

from pydantic import SecretStr

from mcp_chat.catalogue import read_catalogue
from mcp_chat.embedded import Child, DataDir, DemoServer, EmbeddedValkey
from mcp_chat.exceptions import SettingsError, StoreUnavailable
from mcp_chat.safety import check_settings
from mcp_chat.servers import read_servers
from mcp_chat.settings import Settings
from mcp_chat.spelling import as_text
from mcp_chat.stores.client import open_client, translated

RESTARTS_A_MINUTE: Final = 5
WATCH_SECONDS: Final = 0.1
REDIS_SECONDS: Final = 3.0
LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

logger = logging.getLogger(__name__)


def serve(
    settings: Settings,
    *,
    app: str = "mcp_chat.app:create_app()",
    migrate: Callable[[str], None] | None = None,
    demo: str = "mcp_chat.demo.server",
) -> int:
    """Run until a signal says stop: the first stops in order, a second one at once.

    Args:
        settings: What is empty in them is supplied: Valkey, SQLite and, in demo mode, keys.
        app: The application, as gunicorn names it.
        migrate: Brings the database at a URL up to date. None: `mcp_chat.stores.database.migrate`.
        demo: The module of the demo MCP server.

    Returns:
        The exit code: 0 after a signal, 1 if something stopped by itself and could not be revived.

    Raises:
        SettingsError: It cannot start. Nothing is left running.
    """
    check_settings(settings)
    try:
        with _signals_interrupt(), ExitStack() as stack:
            stack.callback(os.umask, os.umask(0o077))
            data = stack.enter_context(DataDir(settings.data_dir))
            listener = stack.enter_context(_listen(settings.host, settings.port))
            helpers: list[Child] = []
            environ = dict(os.environ)
            supplied: dict[str, object] = {"data_dir": data.path}
            if not settings.redis_url.get_secret_value():
                valkey = stack.enter_context(EmbeddedValkey(data))
                helpers.append(valkey)
                supplied["redis_url"] = SecretStr(valkey.url)
            if not settings.database_url.get_secret_value():
                supplied["database_url"] = SecretStr(f"sqlite:///{data.path / 'mcp-chat.db'}")
            if settings.auth == "demo":
                supplied |= demo_values(settings, data)
                supplied["public_url"] = settings.public_url or _url(listener) + settings.base_path
            settings = settings.model_copy(update=supplied)
            _check_redis(settings.redis_url.get_secret_value())
            _bring_up_to_date(settings.database_url.get_secret_value(), migrate)
            read_catalogue(settings.models_file)
            servers = read_servers(settings.servers_file)
            if settings.auth == "demo" and any(server.apps for server in servers.values()):
                settings = settings.model_copy(update={"apps_origin": apps_origin(settings, listener)})
            if settings.demo_server:
                server = stack.enter_context(DemoServer(data, demo))
                helpers.append(server)
                environ["MCP_CHAT_DEMO_URL"] = server.url
            environ |= environment(settings)
            web = stack.enter_context(WebServer(app, listener, environ, settings.log_level))
            url = _url(listener)
            listener.close()  # gunicorn has it now, and closes it when it stops
            sys.stdout.write(_greeting(url, settings))
            sys.stdout.flush()
            return _watch(web, helpers)
    except KeyboardInterrupt:
        return 0


class WebServer(Child):
    """gunicorn, on a socket that is open already: the port is ours before anything else is started."""

    def __init__(self, app: str, listener: socket.socket, env: Mapping[str, str], log_level: str) -> None:
        self._host, self._port = _reachable(listener)
        super().__init__(
            "The web server",
            [
                *(sys.executable, "-P", "-m", "gunicorn", "-c", "python:mcp_chat.gunicorn_conf"),
                *("--bind", f"fd://{listener.fileno()}"),
                *(("--log-level", "warning") if log_level == "info" else ()),
                app,
            ],
            env=env,
            pass_fds=(listener.fileno(),),
            stop_limit=35,  # above gunicorn's `graceful_timeout`
        )

    def ready(self) -> bool:
        """Whether a worker answers."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=1)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/livez")
            return connection.getresponse().status == http.client.OK
        return False


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as the environment variables they are read from."""
    values = {}
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else as_text(value)
        values[str(field.alias)] = text
    return values


def demo_values(settings: Settings, data: DataDir) -> dict[str, object]:
    """What demo mode supplies: keys of its own, and the way to servers on this machine."""
    values: dict[str, object] = {}
    if not settings.encryption_key.get_secret_value() and not settings.encryption_key_file:
        values["encryption_key"] = SecretStr(data.key("encryption.key"))
    if not settings.jwt_secret_key.get_secret_value():
        values["jwt_secret_key"] = SecretStr(data.key("cookie.key"))
    if not settings.allowed_networks:
        values["allowed_networks"] = LOOPBACK
    return values


def apps_origin(settings: Settings, listener: socket.socket) -> str:
    """Return where demo mode shows apps: browsers find every name under localhost on this machine."""
    return settings.apps_origin or f"http://apps.localhost:{listener.getsockname()[1]}"


def _check_redis(url: str) -> None:
    async def ping() -> None:
        async with open_client(url) as client, asyncio.timeout(REDIS_SECONDS):
            with translated():
                await client.ping()

    try:
        asyncio.run(ping())
    except (StoreUnavailable, TimeoutError) as error:
        raise SettingsError("Redis does not answer: check REDIS_URL.") from error


def _bring_up_to_date(url: str, migrate: Callable[[str], None] | None) -> None:
    if migrate is None:
        from mcp_chat.stores import database  # noqa: PLC0415 - SQLAlchemy is not needed by the other commands

        migrate = database.migrate
    try:
        migrate(url)
    except StoreUnavailable as error:
        raise SettingsError("The database does not answer: check DATABASE_URL.") from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(
            f"{host} is not an address to listen on ({error.strerror}): set MCP_CHAT_HOST."
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)  # from here on nobody else gets the port
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Port {port} of {host} cannot be used ({error.strerror}): "
            "stop what uses it, or set MCP_CHAT_PORT."
        ) from None
    return listener


def _reachable(listener: socket.socket) -> tuple[str, int]:
    """The address at which this machine reaches a listener."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - compared, not bound


def _url(listener: socket.socket) -> str:
    host, port = _reachable(listener)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _greeting(url: str, settings: Settings) -> str:
    lines = [f"mcp-chat is ready: {url}{settings.base_path and f'{settings.base_path}/'}", ""]
    if settings.auth == "demo":
        lines.append("  Demo mode: choose any name to sign in. Only this machine can reach it.")
    lines += [f"  Data is in {settings.data_dir}.", "  Ctrl-C stops.", ""]
    return "\n".join(lines)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let the signals that mean stop, a closed terminal too, raise KeyboardInterrupt."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    wanted = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup, or a job in the background
    ]
    previous = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _watch(web: Child, helpers: Sequence[Child]) -> int:
    """Revive a helper that stops; return when the web server does or a helper cannot be helped."""
    restarts: dict[Child, list[float]] = {helper: [] for helper in helpers}
    while web.poll() is None:
        time.sleep(WATCH_SECONDS)
        for helper, times in restarts.items():
            code = helper.poll()
            if code is None:
                continue
            now = time.monotonic()
            times[:] = [moment for moment in times if moment > now - 60]
            if len(times) == RESTARTS_A_MINUTE:
                logger.error("%s does not stay up: everything stops.", helper.name)
                return 1
            times.append(now)
            logger.warning("%s stopped by itself (exit code %s): starting it again.", helper.name, code)
            try:
                helper.start()
            except SettingsError as error:
                logger.error("%s", error)
                if helper.poll() is None:  # it runs and does not answer: more of it would not help
                    return 1
    logger.error("The web server stopped by itself (exit code %s): everything stops.", web.poll())
    return 1
