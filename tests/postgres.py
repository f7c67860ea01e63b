"""A private PostgreSQL, from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


def programs() -> Path | None:
    """Return where PostgreSQL's programs are, or None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found else None


@dataclass(frozen=True)
class _Cluster:
    programs: Path
    home: Path

    def run(self, program: str, *args: str) -> None:
        """Run one of its programs over the data directory."""
        root = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]  # root may not run it
        command = [*(root if os.getuid() == 0 else []), str(self.programs / program)]
        log = self.home / "s" / "log"
        with log.open("a") as output:  # not a pipe: the server would hold it open
            code = subprocess.run(
                [*command, "-D", str(self.home / "data"), *args],
                cwd=self.home / "s",
                stdout=output,
                stderr=output,
                timeout=60,
                check=False,
            ).returncode
        assert code == 0, log.read_text()


@contextmanager
def private_postgresql(where: Path, *, fsync: bool = False) -> Iterator[str]:
    """Run a server until the context ends; gives the URL of its first database.

    Args:
        where: Its programs.
        fsync: Whether a commit waits for the disk.
    """
    with TemporaryDirectory(prefix="mcp-chat-") as name:
        home = Path(name)
        for directory in (home / "data", home / "s"):
            directory.mkdir()
        if os.getuid() == 0:
            for directory in (home, home / "data", home / "s"):
                shutil.chown(directory, "nobody")
        cluster = _Cluster(where, home)
        cluster.run("initdb", "--username=chat", "--auth=trust", "--no-sync", "--encoding=UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories='{home}/s'"
        options += f" -c fsync={'on' if fsync else 'off'}"
        cluster.run("pg_ctl", "start", "--wait", "-o", options)
        try:
            yield f"postgresql:///postgres?host={home}/s&user=chat"
        finally:
            cluster.run("pg_ctl", "stop", "--wait", "-m", "immediate")
