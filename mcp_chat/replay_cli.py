"""`mcp-chat replay`: a recorded turn once more, without a model and without servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcp_chat.exceptions import InvalidRequest

File = Annotated[Path, typer.Argument(metavar="TURN.JSON", help="What GET /llmchat/turns/ID/recording gave.")]


def replay(file: File) -> None:
    """Run a recorded turn again; exit code 1 if it tells something else than it told."""
    import anyio  # noqa: PLC0415 - slow, as what runs the turn

    from mcp_chat import logs  # noqa: PLC0415
    from mcp_chat.recording import read_recording  # noqa: PLC0415
    from mcp_chat.replay import differences, told  # noqa: PLC0415
    from mcp_chat.replay import replay as run  # noqa: PLC0415

    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}.") from None
    logs.set_up("error")  # nothing is done that anybody has to hear of
    recording = read_recording(text)
    events = anyio.run(run, recording)
    for line in told(events):
        typer.echo(line)
    found = differences([event for _, event in recording.events], events)
    if recording.cut or recording.resumed:
        typer.echo("The recording is not whole, so the two are not compared.", err=True)
    elif found:
        typer.echo("\n".join(["It told something else than it told then:", *found]), err=True)
        raise typer.Exit(1)
    else:
        typer.echo("It told what it told then.", err=True)
