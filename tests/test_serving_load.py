"""Load, for some seconds; `nox -s load` does the same for a minute."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_load import under_load

pytestmark = pytest.mark.slow


def test_no_answer_is_lost_with_200_requests_at_once(tmp_path: Path) -> None:
    seen = under_load(tmp_path, 5)
    assert seen.lost == 0
    assert set(seen.statuses) <= {200, 502}
    assert seen.statuses[200] > 200
    assert seen.asked >= sum(seen.statuses.values())
    assert len(seen.pids) == 2
