"""How far a production log lies from what was registered: pure functions over values.

Every distance is read by the same two limits, 0.1 (some) and 0.25 (strong), the customary ones of
the population stability index (Siddiqi, Credit Risk Scorecards, 2006, chapter 6). What chance alone
gives for so few rows is never called drift.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist, median
from typing import Any, Literal

from llmops.report.words import number
from llmops.summary import Model, Score

SOME, STRONG = 0.1, 0.25
ERROR = 0.01
"""How often chance alone passes for drift, in one column."""
MOST_VALUES = 20
SMOOTHING = 0.5
NAMED = 3
LONGEST = 40

Level = Literal["none", "some", "strong"]
LEVELS: tuple[Level, ...] = ("none", "some", "strong")


class Drift(Model):
    """One metric or one column, at registration and in the log.

    `measure` says what `distance` is: `relative` difference of a metric, `ks` of numbers or of
    lengths of texts in characters, `psi` of a column with few values. `chance` is the distance
    that 1 of 100 logs without any drift reaches (0 for a metric: its interval decides). `text`
    says it in words.
    """

    what: Literal["score", "input"]
    name: str
    kind: Literal["metric", "number", "text", "category"]
    measure: Literal["relative", "ks", "psi"]
    registered: str
    log: str
    distance: float
    chance: float
    level: Level
    text: str


def level(distance: float, chance: float = 0) -> Level:
    """none up to 0.1 or what chance gives, strong above 0.25, some between."""
    if distance <= max(SOME, chance):
        return "none"
    return "strong" if distance > STRONG else "some"


def relative(one: float, other: float) -> float:
    """|one - other| / max(|one|, |other|), 0 where both are 0.

    0 for equal numbers, symmetric, at most 2 (at most 1 where the signs agree). Source: the
    relative difference with the larger number as the scale (Törnqvist, Vartia and Vartia, How
    should relative changes be measured?, The American Statistician 39, 1985).
    """
    scale = max(abs(one), abs(other))
    # Each is scaled before the difference is taken, so that nothing overflows.
    return abs(one / scale - other / scale) if scale else 0.0


def ks(one: Sequence[float], other: Sequence[float]) -> float:
    """The Kolmogorov-Smirnov distance: the largest gap between two samples' distributions.

    0 for equal samples, symmetric, at most 1 (no overlap); neither sample may be empty. Source:
    Smirnov, Table for estimating the goodness of fit of empirical distributions, Annals of
    Mathematical Statistics 19, 1948.
    """
    first, second = sorted(one), sorted(other)
    return max(
        abs(bisect_right(first, at) / len(first) - bisect_right(second, at) / len(second))
        for at in {*first, *second}
    )


def ks_chance(rows: int, others: int) -> float:
    """The distance that samples of one distribution exceed in 1 of 100 cases, at most 1.

    sqrt(-ln(0.01 / 2) / 2 * (n + m) / (n m)), the asymptotic bound (Smirnov 1948, as in `ks`);
    it is on the safe side where values are tied.
    """
    return min(1.0, math.sqrt(-math.log(ERROR / 2) / 2 * (1 / rows + 1 / others)))


def psi(one: Sequence[int], other: Sequence[int]) -> float:
    """The population stability index of two lists of counts, bin by bin: sum (q - p) ln(q / p).

    0 for equal counts, symmetric, never negative, without an upper bound. Half a row is added to
    each bin, so that an empty one gives no infinity. Source: Siddiqi, Credit Risk Scorecards, 2006,
    chapter 6; it is the divergence of Jeffreys, Proceedings of the Royal Society A 186, 1946.
    """
    shares = [
        [(count + SMOOTHING) / (sum(counts) + SMOOTHING * len(counts)) for count in counts]
        for counts in (one, other)
    ]
    return math.fsum((q - p) * math.log(q / p) for p, q in zip(*shares, strict=True))


def psi_chance(bins: int, rows: int, others: int) -> float:
    """The index that samples of one distribution exceed in about 1 of 100 cases.

    Without drift, index / (1/n + 1/m) is distributed as chi squared with bins - 1 degrees of
    freedom (Yurdakul and Naranjo, Statistical properties of the population stability index, Journal
    of Risk Model Validation 14, 2020); the quantile is approximated as by Wilson and Hilferty,
    Proceedings of the National Academy of Sciences 17, 1931.
    """
    if bins < 2:
        return 0.0
    part = 2 / (9 * (bins - 1))
    root = 1 - part + NormalDist().inv_cdf(1 - ERROR) * math.sqrt(part)
    return (bins - 1) * math.pow(root, 3) * (1 / rows + 1 / others)


def metric(registered_name: str, registered: float, score: Score) -> Drift:
    """A metric of the log beside that of the registered variant.

    There is no drift where the log's 95 % interval holds the registered figure.
    """
    value = score.value or 0.0
    distance = relative(registered, value)
    low, high = score.ci95 or (math.inf, -math.inf)
    inside = low <= registered <= high
    held = "; the log's 95 % interval holds the registered figure" if inside else ""
    return Drift(
        what="score",
        name=f"{score.evaluator}.{score.metric}",
        kind="metric",
        measure="relative",
        registered=number(registered),
        log=number(value),
        distance=distance,
        chance=0,
        level="none" if inside else level(distance),
        text=f"{registered_name} was {number(registered)} at registration, it is {number(value)} "
        f"in the log: {distance:.0%} of the larger between them{held}.",
    )


def column(name: str, registered: Sequence[Any], log: Sequence[Any]) -> Drift | None:
    """One column of the log beside that of the registered data; null where it cannot be compared.

    Numbers are compared by `ks`, with rows that have none left out. Otherwise a column of at most
    20 different values, each there twice or more on average, is a category: `psi`, with every value
    that the registered data does not have in one bin. Other texts are compared by their lengths in
    characters (`ks`), no text counting as 0. Lists, objects and mixtures are not compared.
    """
    both = [value for value in (*registered, *log) if value is not None]
    if all(_is_number(value) for value in both):
        numbers = [[v for v in values if v is not None] for values in (registered, log)]
        return _distribution(name, "number", *numbers) if all(numbers) else None
    if not all(isinstance(value, str | int | float) for value in both):
        return None
    known = Counter(json.dumps(value) for value in registered)
    if len(known) <= min(MOST_VALUES, len(registered) / 2):
        return _category(name, known, Counter(json.dumps(value) for value in log))
    if all(isinstance(value, str) for value in both):
        lengths = [[len(value or "") for value in values] for values in (registered, log)]
        return _distribution(name, "text", *lengths)
    return None


def _distribution(
    name: str, kind: Literal["number", "text"], registered: Sequence[float], log: Sequence[float]
) -> Drift:
    distance, chance = ks(registered, log), ks_chance(len(registered), len(log))
    what, unit = ("median length", " characters") if kind == "text" else ("median", "")
    medians = [
        f"{number(median(values)).removesuffix('.00')}{unit}" for values in (registered, log)
    ]
    return Drift(
        what="input",
        name=name,
        kind=kind,
        measure="ks",
        registered=f"median {medians[0]}",
        log=f"median {medians[1]}",
        distance=distance,
        chance=chance,
        level=level(distance, chance),
        text=f"The {what} was {medians[0]} at registration, it is {medians[1]} in the log; "
        f"{_beside_chance(distance, chance)}.",
    )


def _category(name: str, registered: Counter[str], log: Counter[str]) -> Drift:
    new = {value: count for value, count in log.items() if value not in registered}
    rows, share = log.total(), sum(new.values()) / log.total()
    counts = [*registered.values(), 0], [*(log[value] for value in registered), sum(new.values())]
    bins = len(registered) + bool(new)
    distance = psi(counts[0][:bins], counts[1][:bins])
    chance = psi_chance(bins, registered.total(), rows)
    most = sorted(new, key=lambda value: (-new[value], value))[:NAMED]
    named = ", ".join(_short(value) for value in most) + (", …" if len(new) > NAMED else "")
    return Drift(
        what="input",
        name=name,
        kind="category",
        measure="psi",
        registered=f"{len(registered)} values",
        log=f"{len(log)} values, {len(new)} new",
        distance=distance,
        chance=chance,
        level=max(level(distance, chance), level(share), key=LEVELS.index),
        text=f"{share:.0%} of the log's rows have a value that is new ({named or 'none is'}); "
        f"{_beside_chance(distance, chance)}.",
    )


def _beside_chance(distance: float, chance: float) -> str:
    return f"distance {distance:.2f}, chance alone gives up to {chance:.2f} for so many rows"


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"


def _is_number(value: Any) -> bool:
    """Finite, and not so large that it is no float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
