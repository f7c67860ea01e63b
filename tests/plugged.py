"""The chat with plugins, as an operator configures them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import missing

REPOSITORY = Path(__file__).parent.parent


def written(directory: Path, *plugins: Mapping[str, Any]) -> dict[str, Any]:
    """Write a plugins' configuration; return the settings with which it is in force.

    Args:
        plugins: As the file lists them; names may be left out.
    """
    path = directory / "plugins.yaml"
    listed = [{"name": f"plugin-{n}", **plugin} for n, plugin in enumerate(plugins)]
    path.write_text(yaml.safe_dump({"plugins": listed, "plugin_dirs": []}))
    return {"plugins_enabled": True, "plugins_config_file": path}


def need_packages(*names: str) -> None:
    """Skip at home, and fail in CI, without these packages."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            missing(name)


def example(name: str, **changes: Any) -> dict[str, Any]:
    """Return an example as `plugins/config.yaml` lists it, switched on.

    Args:
        name: The example's.
        changes: What is configured otherwise.
    """
    listed = yaml.safe_load((REPOSITORY / "plugins/config.yaml").read_text())["plugins"]
    found: dict[str, Any] = next(each for each in listed if each["name"] == name)
    return {**found, "mode": "sequential", **changes}


def texts(request: Mapping[str, Any], role: str) -> Sequence[str]:
    """Return what messages of a role say in a request to the model."""
    return [_text(message["content"]) for message in request["messages"] if message["role"] == role]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or [])
