"""The command line."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mcp_chat import audit_cli, keys_cli, plugins_cli, replay_cli, sessions_cli, usage_cli
from mcp_chat.exceptions import ChatError, SettingsError
from mcp_chat.settings import Settings, env_example, load_settings, read_env_file
from mcp_chat.spelling import as_text

app = typer.Typer(
    name="mcp-chat", help="A chat for MCP gateways.", no_args_is_help=True, add_completion=False
)
app.add_typer(sessions_cli.app)
app.add_typer(keys_cli.app)
app.command()(audit_cli.audit)
app.command()(replay_cli.replay)
app.command()(usage_cli.usage)
app.command()(plugins_cli.plugins)


@app.command()
def serve() -> None:
    """Run the chat with everything it needs: Valkey, SQLite and a demo server unless others are set."""
    from mcp_chat.serve import serve as run

    raise typer.Exit(run(load_settings()))


@app.command()
def migrate() -> None:
    """Bring the schema of DATABASE_URL to this version."""
    from mcp_chat.stores.database import migrate as upgrade

    url = load_settings().database_url.get_secret_value()
    if not url:
        raise SettingsError("DATABASE_URL is not set.")
    upgrade(url)
    print("The schema is this version's.")


@app.command()
def settings(
    example: Annotated[bool, typer.Option("--env-example", help="Print .env.example instead.")] = False,
) -> None:
    """Show the settings that are in force, secrets masked."""
    print(env_example() if example else "\n".join(_lines(load_settings())), end="" if example else "\n")


def _lines(values: Settings) -> list[str]:
    fields = Settings.model_fields.items()
    return [f"{field.alias}={as_text(getattr(values, name))}" for name, field in fields]


def main() -> None:
    """Run a command; a refusal is one sentence and exit code 2."""
    try:
        read_env_file()
        app()
    except (SettingsError, ChatError) as error:
        print(f"mcp-chat: {error}", file=sys.stderr)
        sys.exit(2)
