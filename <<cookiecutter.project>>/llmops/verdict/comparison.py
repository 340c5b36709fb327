"""Is a variant better or worse than another one over the same rows, and how sure is that?

Both are resampled by the same draws of rows, so what makes a row hard for both cancels out of the
difference. The verdict on a metric:

- **no difference**: the same value on every row that both scored; or the whole interval of the
  difference lies within the margin, a region of practical equivalence that experiment.yaml may set
  (two one-sided tests: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987). This
  comes before better and worse: a difference that is certain, but too small to matter, is none.
- **better** or **worse**: the interval does not hold 0, and at least `FEWEST` rows changed. With
  fewer, even if all changed in one direction, a coin would do the same in more than one of 20 cases
  (two-sided sign test: Dixon and Mood, Journal of the American Statistical Association 41, 1946).
  Where some rows have a score in only one of the two, the others must on average say the same: a
  variant is not better because it failed on hard rows.
- **inconclusive**: anything else. That is not "no difference": the data cannot tell.

Each interval is 95 % by itself. Whoever looks at 20 comparisons in which nothing differs will see
about one that is called better or worse by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmops.metrics import Column, interval
from llmops.summary import Comparison, Verdict

FEWEST = 6
KEPT = 50
"""Numbers of changed rows that a comparison names."""
EQUAL = 1e-9
"""Values that differ by less, relative to their size, differ by rounding."""


@dataclass(frozen=True)
class Measure:
    """One metric over one cell.

    `draws` is the metric over each draw of `llmops.metrics.draws`, `alone` each row's own value;
    either may be empty. `note` says why something is missing.
    """

    value: float | None
    scored: int = 0
    draws: Column = ()
    alone: Column = ()
    note: str = ""


@dataclass(frozen=True)
class Evidence:
    """One evaluator over one cell; the evaluator is empty for what the run itself shows."""

    variant: str
    dataset: str
    evaluator: str
    metrics: Mapping[str, Measure]


@dataclass(frozen=True)
class Rules:
    """Metrics of which less is better, and by metric the difference that counts as none."""

    lower_is_better: frozenset[str] = frozenset()
    margins: Mapping[str, float] = field(default_factory=dict)


def compare(
    candidate: Evidence, baseline: Evidence, rules: Rules = Rules()
) -> tuple[Comparison, ...]:
    """Each metric of either side, in the baseline's order.

    Raises:
        ValueError: the two are not about the same dataset and evaluator.
    """
    place = candidate.dataset, candidate.evaluator
    if place != (baseline.dataset, baseline.evaluator):
        raise ValueError("only cells over the same dataset and evaluator can be compared")
    names = dict.fromkeys([*baseline.metrics, *candidate.metrics])
    return tuple(_compare(name, candidate, baseline, rules) for name in names)


def compare_apart(
    name: str,
    candidate: Evidence,
    baseline: Evidence,
    ci95: tuple[float, float] | None,
    rules: Rules = Rules(),
) -> Comparison:
    """One metric of two sides over different rows; `ci95` is the interval of the difference.

    Their measures have neither draws nor values of rows: there is nothing to pair.
    """
    return _compare(name, candidate, baseline, rules, ci95)


def _compare(
    name: str,
    candidate: Evidence,
    baseline: Evidence,
    rules: Rules,
    ci95: tuple[float, float] | None = None,
) -> Comparison:
    new, old = _measure(name, candidate), _measure(name, baseline)
    lower, margin = name in rules.lower_is_better, rules.margins.get(name, 0.0)
    rows = _rows(new.alone, old.alone, lower)
    difference = _difference(new.value, old.value)
    pairs = rows.pairs if rows else min(new.scored, old.scored)
    if difference is not None and ci95 is None:
        ci95 = interval(_differences(new.draws, old.draws), pairs)
    verdict, why = _verdict(difference, ci95, margin, lower, rows, pairs)
    notes = dict.fromkeys(filter(None, (new.note, old.note)))
    if ci95 is None and verdict == "inconclusive":
        why = "; ".join(notes) or why
    return Comparison(
        dataset=baseline.dataset,
        evaluator=baseline.evaluator,
        metric=name,
        baseline=baseline.variant,
        candidate=candidate.variant,
        baseline_value=old.value,
        candidate_value=new.value,
        difference=difference,
        ci95=ci95,
        lower_is_better=lower,
        wins=len(rows.wins) if rows else None,
        losses=len(rows.losses) if rows else None,
        ties=rows.ties if rows else None,
        flipped=tuple(sorted(rows.wins + rows.losses)[:KEPT]) if rows else (),
        verdict=verdict,
        sentence=_sentence(name, difference, ci95, verdict, why, rows),
        note="; ".join(notes),
    )


def _measure(name: str, side: Evidence) -> Measure:
    return side.metrics.get(name) or Measure(None, note=f"no value of it in {side.variant}")


@dataclass(frozen=True)
class _Rows:
    """Numbers of the rows that both scored; `single` counts those that only one did.

    `moved` is the sum of the differences of the rows that both scored.
    """

    wins: list[int]
    losses: list[int]
    ties: int
    single: int
    moved: float

    @property
    def pairs(self) -> int:
        return len(self.wins) + len(self.losses) + self.ties

    @property
    def changed(self) -> int:
        return len(self.wins) + len(self.losses)


def _rows(new: Column, old: Column, lower: bool) -> _Rows | None:
    """The rows of both, one by one; null where either side has no values of rows."""
    if not new or len(new) != len(old):
        return None
    wins, losses, ties, single, moved = list[int](), list[int](), 0, 0, 0.0
    for number, (after, before) in enumerate(zip(new, old, strict=True)):
        if after is None or before is None:
            single += (after is None) != (before is None)
        elif _same(after, before):
            ties += 1
        else:
            (wins if (after < before) == lower else losses).append(number)
            moved += after - before
    found = _Rows(wins, losses, ties, single, moved)
    return found if found.pairs or single else None


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= EQUAL * max(abs(one), abs(other))


def _difference(new: float | None, old: float | None) -> float | None:
    if new is None or old is None:
        return None
    return 0.0 if _same(new, old) else new - old


def _differences(new: Column, old: Column) -> Column:
    """A draw in which either has no value has no difference; other draws are no pairs."""
    if len(new) != len(old):
        return ()
    return [
        None if one is None or other is None else _difference(one, other)
        for one, other in zip(new, old, strict=True)
    ]


def _verdict(
    difference: float | None,
    ci95: tuple[float, float] | None,
    margin: float,
    lower: bool,
    rows: _Rows | None,
    pairs: int,
) -> tuple[Verdict, str]:
    """The verdict and, where the numbers do not say it themselves, the reason in words."""
    if difference is None:
        return "inconclusive", "a value is missing"
    if rows and _identical(difference, rows):
        return "no difference", f"the same on {_count(rows.pairs)}"
    if ci95 is None:
        return "inconclusive", "there is no interval of the difference"
    if margin and pairs >= FEWEST and -margin <= ci95[0] and ci95[1] <= margin:
        return "no difference", f"within the margin of {_number(margin)}"
    if ci95[0] <= 0 <= ci95[1]:
        return "inconclusive", "the interval holds 0"
    if rows and rows.single and rows.moved * difference <= 0:
        return "inconclusive", "only rows that one of the two did not score make the difference"
    # Where no row changed by itself, a row says nothing of the metric: then all of them count.
    changed = (rows.changed if rows else 0) or pairs
    if changed < FEWEST:
        return "inconclusive", f"{_count(changed)} changed, which may be chance"
    return ("better" if (difference < 0) == lower else "worse"), ""


def _identical(difference: float | None, rows: _Rows) -> bool:
    return difference == 0 and rows.pairs > 0 and not rows.changed


def _sentence(
    name: str,
    difference: float | None,
    ci95: tuple[float, float] | None,
    verdict: Verdict,
    why: str,
    rows: _Rows | None,
) -> str:
    """What a reviewer reads: what moved and how sure that is, the verdict, and the rows."""
    if difference is None:
        return f"{name} cannot be compared: {why}.{_told(rows)}"
    moved = "did not change"
    if difference:
        moved = f"{'rose' if difference > 0 else 'fell'} by {_number(abs(difference))}"
    if ci95 and not (rows and _identical(difference, rows)):
        moved += f" (95 % interval {_number(ci95[0])} to {_number(ci95[1])})"
    if verdict == "inconclusive":
        result = f": cannot tell, {why}."
    else:
        result = f"{f', {why}' if why else ''}: {verdict}."
    return f"{name} {moved}{result}{_told(rows)}"


def _told(rows: _Rows | None) -> str:
    if rows is None:
        return ""
    told = ""
    if rows.wins or rows.losses:
        better, worse = len(rows.wins), len(rows.losses)
        told += f" {_count(better)} better, {worse:,} worse, {rows.ties:,} the same."
    if rows.single:
        told += f" {_count(rows.single)} scored in only one of the two."
    return told


def _count(rows: int) -> str:
    return f"{rows:,} {'row' if rows == 1 else 'rows'}"


def _number(value: float) -> str:
    """Two significant digits of a small number, so that an end of an interval never reads 0.00."""
    if abs(value) < 1:
        return f"{value:.2g}"
    return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
