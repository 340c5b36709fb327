"""`make parity A=… B=…`: do two implementations of a flow do the same over the same rows?

Level 1 proves it: every row sends the same requests to models, gets the same answers, and comes to
the same outputs. Level 2, where requests differ, asks the results: equal outputs, or by the
experiment's evaluators no worse ones. See `rows`, `scores` and `verdict`.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import replace

from llmops import summary
from llmops.errors import FAILED, OK, UserError
from llmops.experiment import only_one
from llmops.files import check_writable
from llmops.parity import sides, verdict
from llmops.parity.document import PARITY, Cell, Metric, Parity
from llmops.parity.measuring import Measuring
from llmops.parity.verdict import Decision
from llmops.report import parity as report
from llmops.settings import Settings
from llmops.summary import Llm


def run(settings: Settings) -> int:
    """Run A twice and B once over the rows of ENV, and say whether B does what A does.

    Returns:
        0 where they are equal or equivalent, 2 where they differ or nobody can tell.

    Raises:
        UserError: something that the user must fix first.
    """
    start = time.monotonic()
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if settings.target != "local":
        raise UserError("TARGET: A and B are compared on this machine. Leave out TARGET.")
    a, b = sides.read(settings)
    check_writable(PARITY)
    measuring = Measuring(settings, a, b)
    print(f"llm: {measuring.source.mode}. {measuring.source.note}", flush=True)
    with only_one():
        sides.refresh_indexes(a, b, replace(settings, llm=measuring.source.mode))
        cells, differences = measuring.run()
        decision, metrics = _decided(cells, measuring)
    names = sides.names(a)
    found = Parity(
        experiment=a.experiment.name,
        env=settings.env,
        a=a.described(names),
        b=b.described(names),
        verdict=decision.verdict,
        level=decision.level,
        sentence=decision.sentence,
        reasons=(*decision.reasons, *measuring.remedies),
        llm=Llm(mode=measuring.source.mode, calls=measuring.calls, note=measuring.source.note),
        started_at=now,
        seconds=round(time.monotonic() - start, 2),
        cells=tuple(cells),
        metrics=tuple(metrics),
        differences=tuple(differences),
    )
    summary.save(found, PARITY)
    page = report.write(found)
    print("\n".join(report.lines(found)))
    print(f"report: {page}")
    return OK if found.holds else FAILED


def _decided(cells: Sequence[Cell], measuring: Measuring) -> tuple[Decision, Sequence[Metric]]:
    """By the rows, and only where they cannot tell by the evaluators."""
    if decision := verdict.by_rows(cells):
        return decision, ()
    metrics = measuring.metrics()
    return verdict.by_metrics(cells, metrics), metrics
