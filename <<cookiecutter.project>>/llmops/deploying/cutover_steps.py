"""Which step of a cut-over comes next, and whether what was answered since the last one allows it.

Nothing here asks an endpoint for anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmops.monitoring.online_figures import ERRORS, LATENCY
from llmops.monitoring.streams import Seen
from llmops.summary import Comparison

SLOWER = 0.1
"""The share of the prior deployment's median latency by which the current one may be slower."""


@dataclass(frozen=True)
class Next:
    """From the percentage that the current deployment has to the next one.

    `last` is the step at or below the former, 0 where there is none; it differs from it where
    somebody else split the traffic.
    """

    now: int
    then: int
    last: int


def following(steps: Sequence[int], now: int) -> Next | None:
    """The next step from a percentage, null where the current deployment has all the traffic.

    `steps` rise, and end with 100.
    """
    if now >= 100:
        return None
    last = max((step for step in steps if step <= now), default=0)
    return Next(now, min(step for step in steps if step > now), last)


def answered(seen: Seen, scored: bool) -> dict[str, int]:
    """What each of the two deployments answered to people: where scored, what of it was kept."""
    found = dict.fromkeys((seen.prior, seen.current), 0)
    for stream in seen.live():
        if stream.deployment in found:
            requests = stream.statuses.total()
            found[stream.deployment] = stream.collected if scored else requests
    return found


def missing(answers: Mapping[str, int], needed: int) -> dict[str, int]:
    """By deployment, how many answers are missing to those needed."""
    return {name: needed - count for name, count in answers.items() if count < needed}


def worse(compared: Iterable[Comparison], only: Sequence[str] = ()) -> list[str]:
    """In which figures (of these only, if any are named) the current one is certainly worse.

    Latency counts where all of its interval is more than SLOWER above the prior deployment's.
    """
    named = (one for one in compared if not only or one.metric in only)
    return [one.sentence for one in named if one.verdict == "worse" and _matters(one)]


def failing(compared: Iterable[Comparison]) -> list[str]:
    """As `worse`, of errors alone: these are not waited for."""
    return worse((one for one in compared if not one.evaluator), (ERRORS,))


def _matters(one: Comparison) -> bool:
    if one.metric != LATENCY or one.evaluator:
        return True
    return bool(one.ci95 and one.ci95[0] > SLOWER * (one.baseline_value or 0))
