"""Real workers under real faults keep every promise; see `tests.chaos`. `make chaos` runs longer."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest

from tests.chaos import unfenced
from tests.chaos.run import Plan, Report, run


def clean(report: Report) -> Report:
    """Return the report of a run that must have no violation."""
    assert not report.violations, f"\n{report}"
    return report


@pytest.mark.timeout(180)
def test_two_workers_keep_every_promise_whatever_breaks(tmp_path: Path) -> None:
    report = clean(run(Plan(operations=120, seed=4, workers=2, users=12), tmp_path))
    assert report.acknowledged > 90
    assert report.faults


def test_a_worker_without_fences_has_none_left() -> None:
    scripts = importlib.resources.files("mcp_chat.stores") / "lua"
    for script in scripts.iterdir():
        text = script.read_text()
        if "or 0 if a higher epoch owns the user" in text:
            assert unfenced.unfenced(text) != text, script.name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_judge_notices_when_fencing_is_off(tmp_path: Path) -> None:
    plan = Plan(operations=600, seed=6, workers=3, users=16, nemesis=("bury-owner",), env=unfenced.ENV)
    found = run(plan, tmp_path).violations
    assert any("ends in the log" in violation for violation in found), found
