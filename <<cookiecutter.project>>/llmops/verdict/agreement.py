"""How far a judge agrees with people over the same rows: pure functions over pairs of scores.

Of numbers and of true/false, which count as 1 and 0, the distance of two scores is the square of
their difference; two labels are the same or not. Cohen's kappa is 1 less the mean distance within
the rows over the mean distance of any score of one rater to any of the other: 1 where all rows are
equal, 0 where they are as near to each other as by chance, below 0 where they are further apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmops import metrics

Value = bool | int | float | str
Kind = Literal["boolean", "number", "label"]
Pair = tuple[Value, Value]
MOST_VALUES = 10
"""With more values than this there is no confusion table."""


@dataclass(frozen=True)
class Agreement:
    """What people and a judge said of `rows` rows, `scored` of which the judge gave a score.

    `kappa` has the interval `ci95`; both are null where `note` says why. `equal` is the share of
    the scored rows on which they agree, `bias` the mean of the judge's score less people's, null
    for labels. `confusion` has a line for each of `values` that people gave, and in it how many of
    these rows the judge gave each value; both are empty where there are too many values. `differ`
    are the numbers of the rows on which they differ, the furthest apart first, then those that the
    judge gave no score.
    """

    kappa: float | None
    ci95: tuple[float, float] | None
    equal: float | None
    bias: float | None
    scored: int
    rows: int
    values: tuple[Value, ...]
    confusion: tuple[tuple[int, ...], ...]
    differ: tuple[int, ...]
    note: str


def measure(people: Sequence[Value], judge: Sequence[Value | None]) -> Agreement:
    """The agreement over rows in order; null is a row that the judge gave no score.

    The scores of both are of one kind, see `alike`. For the interval the rows are drawn as those of
    a metric are, see `metrics.draws`; one without a score drops out of a draw.
    """
    pairs: list[Pair | None] = [
        None if said is None else (wanted, said) for wanted, said in zip(people, judge, strict=True)
    ]
    known = [pair for pair in pairs if pair is not None]
    value = kappa(known)
    ci95 = None if value is None else _interval(pairs, len(known))
    values = tuple(sorted({one for pair in known for one in pair}))
    shown = values if len(values) <= MOST_VALUES else ()
    return Agreement(
        value,
        ci95,
        sum(distance(pair) == 0 for pair in known) / len(known) if known else None,
        _bias(known),
        len(known),
        len(pairs),
        shown,
        tuple(_confusion(known, shown)),
        tuple(_differ(pairs)),
        "; ".join(_notes(known, len(pairs), value, ci95)),
    )


def kappa(pairs: Sequence[Pair]) -> float | None:
    """Cohen's kappa of pairs of scores; null for fewer than two, or where all scores are equal.

    Of labels it is the plain one: Cohen, A Coefficient of Agreement for Nominal Scales, Educational
    and Psychological Measurement 20 (1960). Of numbers it is weighted by the square of their
    difference: Cohen, Weighted Kappa, Psychological Bulletin 70 (1968). Where the scores are two
    numbers or true and false, both are the same.

    Where one rater gave all rows one score and the other did not, it is 0: nothing of what they
    share goes beyond chance. Where both gave all rows the same one, chance alone would give as
    much, so it has no value.
    """
    if len(pairs) < 2:
        return None
    observed, expected = _labels(pairs) if isinstance(pairs[0][0], str) else _squares(pairs)
    return 1 - observed / expected if expected else None


def distance(pair: Pair) -> float:
    """How far two scores are apart: the square of the difference; 0 or 1 for labels."""
    one, other = pair
    if isinstance(one, str) or isinstance(other, str):
        return float(one != other)
    return float((one - other) ** 2)


def kind(value: Any) -> Kind | None:
    """What kind of score a value of JSON is; null where it is none, as a list or NaN."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "label" if value.strip() else None
    finite = isinstance(value, int | float) and abs(value) < math.inf
    return "number" if finite else None


def alike(value: Any, wanted: Kind) -> Value | None:
    """The judge's value as a score of the kind that people gave; null where it is none.

    Where they said true or false, 1 and 0 say the same.
    """
    found = kind(value)
    if wanted == "boolean" and found == "number" and value in (0, 1):
        return bool(value)
    if found != wanted:
        return None
    return value.strip() if isinstance(value, str) else value


def _labels(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Rows with other labels, and how many there would be by chance."""
    count = len(pairs)
    ours, theirs = (Counter(pair[at] for pair in pairs) for at in (0, 1))
    chance = sum(times * theirs[label] for label, times in ours.items())
    return sum(map(distance, pairs)), (count * count - chance) / count


def _squares(pairs: Sequence[Pair]) -> tuple[float, float]:
    """The sum of squared differences, and what it would be by chance.

    That is the mean over all pairs of a score of one and a score of the other, from sums; they are
    taken from the first score on, so that large numbers do not cancel each other out.
    """
    first = float(pairs[0][0])
    ours, theirs = ([float(pair[at]) - first for pair in pairs] for at in (0, 1))
    both = math.fsum(ours) * math.fsum(theirs)
    squares = math.fsum(one * one for one in (*ours, *theirs))
    return math.fsum(map(distance, pairs)), squares - 2 * both / len(pairs)


def _interval(pairs: Sequence[Pair | None], scored: int) -> tuple[float, float] | None:
    drawn = [
        kappa([pair for row in draw if (pair := pairs[row]) is not None])
        for draw in metrics.draws(len(pairs))
    ]
    return metrics.interval(drawn, scored)


def _bias(pairs: Sequence[Pair]) -> float | None:
    """The mean of the judge's number less people's."""
    if not pairs or isinstance(pairs[0][0], str):
        return None
    return math.fsum(float(said) - float(wanted) for wanted, said in pairs) / len(pairs)


def _confusion(pairs: Sequence[Pair], values: Sequence[Value]) -> Iterator[tuple[int, ...]]:
    count = Counter(pairs)
    for wanted in values:
        yield tuple(count[wanted, said] for said in values)


def _differ(pairs: Sequence[Pair | None]) -> Iterator[int]:
    apart = {row: distance(pair) for row, pair in enumerate(pairs) if pair is not None}
    yield from sorted((row for row, far in apart.items() if far), key=lambda row: -apart[row])
    yield from (row for row, pair in enumerate(pairs) if pair is None)


def _notes(
    known: Sequence[Pair], rows: int, value: float | None, ci95: tuple[float, float] | None
) -> Iterator[str]:
    left = rows - len(known)
    if left:
        yield f"the judge gave {left:,} of {rows:,} rows no score"
    if len(known) < 2:
        yield "no kappa: it takes two rows with a score, and more to tell anything"
    elif value is None:
        yield (
            f"no kappa: every score is {known[0][0]!r}, so chance alone would agree as much; "
            "label rows that deserve another score too"
        )
    elif ci95 is None:
        yield "no interval: undefined on too many resamples; label more rows"
