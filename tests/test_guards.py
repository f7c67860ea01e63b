"""The runner that takes guards out: it says what it has seen, and so much is true of its table."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guards.run import ROOT, Ran, changed, check
from tests.guards.table import APART, GUARDS, Guard

QUICK = next(guard for guard in GUARDS if guard.item == "R30")


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: f"{guard.item} {guard.file}")
def test_each_guard_is_where_the_table_says(guard: Guard) -> None:
    text = (ROOT / guard.file).read_text()
    assert changed(text, guard) != text


def test_each_item_has_a_guard_or_a_reason() -> None:
    items = {guard.item for guard in GUARDS} | set(APART)
    documented = set(re.findall(r"^\| (R\d+) \|", (ROOT / "docs/security.md").read_text(), re.MULTILINE))
    assert {f"R{n}" for n in range(1, 33)} == documented
    assert items <= documented


def test_a_guard_that_has_moved_is_said_to_have() -> None:
    with pytest.raises(LookupError, match=r"is 0 times in .*mend tests/guards/table.py"):
        changed("something else", QUICK)
    with pytest.raises(LookupError, match="is 2 times"):
        changed(QUICK.old * 2, QUICK)


def test_cases_are_counted_by_their_whole_names() -> None:
    ran = Ran("PASSED tests/x.py::test_a[1]\nPASSED tests/x.py::test_a\nFAILED tests/x.py::test_ab - no\n")
    assert (ran.count("PASSED", "tests/x.py::test_a"), ran.count("FAILED", "tests/x.py::test_a")) == (2, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)  # it begins pytest five times
def test_a_guard_that_is_taken_out_is_noticed_and_one_that_is_none_is_not(tmp_path: Path) -> None:
    harmless = replace(QUICK, new=QUICK.old + "        # nothing has changed\n")
    gone = replace(QUICK, old="no such text")
    unknown = replace(QUICK, test="tests/test_vault.py::test_that_is_not_there")
    (tmp_path / "whole").mkdir()
    proven, unnoticed, moved = check([QUICK, harmless, gone], tmp_path / "whole")
    assert (proven.proven, proven.said) == (True, "fails")
    assert not unnoticed.proven
    assert "does not notice" in unnoticed.said
    assert not moved.proven
    assert "is 0 times" in moved.said
    (tmp_path / "unknown").mkdir()
    [odd] = check([unknown], tmp_path / "unknown")
    assert not odd.proven
    assert "does not pass as it is" in odd.said
