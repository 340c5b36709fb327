"""A minute of 200 requests at once on a served flow: `nox -s load`. Not one of the normal tests."""

from __future__ import annotations

import statistics
from pathlib import Path

from serving_load import FAILING, under_load

SECONDS = 60.0
MOST_GROWTH_MB = 10.0


def test_a_minute_of_200_requests_at_once(tmp_path: Path) -> None:
    seen = under_load(tmp_path, SECONDS)
    answers = sum(seen.statuses.values())
    print(dict(seen.statuses), "lost", seen.lost, "server MB", seen.server[::10])
    print("workers MB", seen.workers[::10])
    assert seen.lost == 0
    assert set(seen.statuses) == {200, 502}
    assert FAILING / 3 < seen.statuses[502] / answers < FAILING * 3
    assert len(seen.pids) == 2
    for held in (seen.server, seen.workers):
        third = len(held) // 3
        growth = statistics.median(held[-third:]) - statistics.median(held[third : 2 * third])
        assert growth < MOST_GROWTH_MB, held
