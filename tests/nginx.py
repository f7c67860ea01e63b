"""A real nginx with a configuration of ours, whose ports alone are others."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import missing
from tests.running import wait_until

FRAME = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def free_port() -> int:
    """A port of this machine that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def nginx(folder: Path, config: str, port: int) -> Iterator[str]:
    """Run nginx with what an operator puts into its ``http`` block.

    Args:
        folder: Where its files are.
        config: Listens on `port`.

    Returns:
        Its address.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or missing("nginx")
    folder.mkdir()
    (folder / "site.conf").write_text(config)
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder))
    log = folder / "nginx.log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "-c", folder / "nginx.conf"], stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), "nginx listens")
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
