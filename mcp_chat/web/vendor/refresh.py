"""Fetch the browser libraries that manifest.json names, and write their hashes and licences into it.

`make vendor` runs this. The versions are read from the manifest, so a run that changes nothing in git proves
that the files are what npm has; to update a library, change its version there and run it again.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MANIFEST = HERE / "manifest.json"
TEXTS = (".js", ".css")
SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*\n?", re.MULTILINE)


def main() -> None:
    """Refresh every library, then the manifest."""
    manifest = json.loads(MANIFEST.read_text("utf-8"))
    for library in manifest["libraries"]:
        with tempfile.TemporaryDirectory() as scratch:
            refresh(library, fetch(library["name"], library["version"], Path(scratch)))
    MANIFEST.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def fetch(name: str, version: str, scratch: Path) -> Path:
    """Download and unpack one npm package; its folder."""
    command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", str(scratch)]
    subprocess.run(command, cwd=scratch, check=True, capture_output=True)  # noqa: S603  names are our own manifest's
    (archive,) = scratch.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    return scratch / "package"


def refresh(library: dict[str, Any], package: Path) -> None:
    """Write one library's files and licence, and note what they are."""
    library["licence"] = json.loads((package / "package.json").read_text("utf-8"))["license"]
    library.setdefault("licence_file", f"LICENSE.{Path(library['files'][0]['file']).stem}.txt")
    (HERE / library["licence_file"]).write_bytes((package / "LICENSE").read_bytes())
    for entry in library["files"]:
        content = rewritten((package / entry["source"]).read_bytes(), entry)
        (HERE / entry["file"]).parent.mkdir(parents=True, exist_ok=True)
        (HERE / entry["file"]).write_bytes(content)
        entry["sha256"] = hashlib.sha256(content).hexdigest()


def rewritten(content: bytes, entry: dict[str, Any]) -> bytes:
    """Make a file ready to be served; a font stays as it is."""
    if Path(entry["file"]).suffix in TEXTS:
        return rewrite(content.decode(), entry).encode()
    entry["rewritten"] = None
    return content


def rewrite(code: str, entry: dict[str, Any]) -> str:
    """Make a file loadable by a browser as it lies there, and say in the entry what was done."""
    notes = []
    code = SOURCE_MAP.sub("", code)
    for bare, relative in entry.get("imports", {}).items():
        code, count = re.subn(rf"""(from\s*)(["']){re.escape(bare)}\2""", rf"\1\2{relative}\2", code)
        if not count:
            raise SystemExit(f"{entry['source']} no longer imports {bare}: change manifest.json")
        notes.append(f"import {bare} -> {relative}")
    if tail := entry.get("append"):
        code = f"{code.rstrip()}\n{tail}\n"
        notes.append("export appended")
    entry["rewritten"] = "; ".join(notes) or None
    return code


if __name__ == "__main__":
    main()
