"""The official conformance suite, revision 2025-11-25."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.suite import CLIENT_SECONDS, passes


@pytest.mark.slow
@pytest.mark.timeout(CLIENT_SECONDS + 300)
def test_all_that_the_revision_requires_of_a_client_passes(tmp_path: Path) -> None:
    passes("2025-11-25", 18, tmp_path)
