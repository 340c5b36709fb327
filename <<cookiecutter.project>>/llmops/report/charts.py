"""A chart a metric and dataset: a dot for the value and a line for its 95 % interval.

Drawn by pygal and set in the page as SVG. Its own styles, scripts and comments (which carry the
date) are taken out: the page's CSS colours it, and the same summary gives the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llmops.report.ranking import (
    Cell,
    Metric,
    cells,
    metrics,
)
from llmops.report.words import interval, metric_title, number
from llmops.summary import Score, Summary

WIDTH, LINE, AXIS, MARGIN = 340, 44, 22, 8
MOST = 20
LABEL = 36
DROPPED = {"defs", "title", "desc", "style", "script"}


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: `text` says in words what `svg` shows."""

    metric: str
    dataset: str
    svg: str
    note: str


def charts(summary: Summary) -> list[Chart]:
    """A chart for every metric and dataset that has a value, the best variant on top."""
    drawn = []
    datasets = dict.fromkeys(cell.dataset for cell in cells(summary))
    for metric in metrics(summary):
        for dataset in datasets:
            group = [c for c in cells(summary) if c.dataset == dataset]
            found = [c for c in group if _has_value(c, metric)]
            if found:
                left = len(found) - MOST
                note = f"The first {MOST} of {len(found)} variants." if left > 0 else ""
                svg = _draw(metric_title(summary, metric), found[:MOST], metric)
                drawn.append(Chart(metric_title(summary, metric), dataset, svg, note))
    return drawn


def _has_value(cell: Cell, metric: Metric) -> bool:
    score = cell.scores.get(metric)
    return score is not None and score.value is not None and math.isfinite(score.value)


def _draw(title: str, group: list[Cell], metric: Metric) -> str:
    import pygal
    from pygal.etree import etree

    scores = [cell.scores[metric] for cell in group]
    ticks = _ticks(scores)
    chart = pygal.HorizontalLine(
        width=WIDTH,
        height=LINE * len(group) + LINE // 2 + AXIS,
        margin=0,
        margin_left=MARGIN,
        margin_right=MARGIN,
        spacing=0,
        stroke=False,
        dots_size=4.5,
        show_legend=False,
        show_y_labels=False,
        y_labels=ticks,
        range=(ticks[0], ticks[-1]),
        value_formatter="{:g}".format,
        # An empty line above the first and below the last, so that no dot lies on the edge.
        x_labels=["", *(cell.variant for cell in group), ""],
        js=[],
        css=[],
        uuid="chart",
        no_prefix=True,
    )
    chart.add(title, [None, *map(_dot, scores), None])
    root = chart.render_tree()
    _strip(root)
    _label(root, scores)
    words = "; ".join(f"{s.variant} {number(s.value)} {interval(s)}".strip() for s in scores)
    root.attrib.pop("id", None)
    root.set("role", "img")
    root.set("aria-label", f"{title}: {words}")
    return str(etree.tostring(root, encoding="unicode"))


def _dot(score: Score) -> dict[str, Any]:
    """A value as pygal takes it."""
    if score.ci95 is None:
        return {"value": score.value}
    return {"value": score.value, "ci": {"low": score.ci95[0], "high": score.ci95[1]}}


def _ticks(scores: list[Score]) -> list[float]:
    """About five round numbers that hold all values and intervals; a share stays within 0 and 1."""
    values = [score.value for score in scores if score.value is not None]
    values += [end for score in scores for end in score.ci95 or () if math.isfinite(end)]
    low, high = min(values), max(values)
    if 0 <= low <= high <= 1:
        low, high = min(low, max(0.0, high - 0.2)), min(1.0, max(high, low + 0.2))
    elif low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _strip(node: Any) -> None:
    """Take out what the page does not need: styles, scripts, comments, hover texts, backgrounds."""
    for child in list(node):
        classes = child.get("class", "") if isinstance(child.tag, str) else "comment"
        if child.tag in DROPPED or classes in ("comment", "background", "plot tooltip-overlay"):
            node.remove(child)
        else:
            _strip(child)


def _label(root: Any, scores: list[Score]) -> None:
    """Write the variant's name and value above its dot."""
    from pygal.etree import etree

    dots = [group for group in root.iter("g") if group.get("class") == "dots"]
    ticks = [text.get("x") for text in root.iter("text")]
    left, right = ticks[0], ticks[-1]
    for group, score in zip(dots, scores, strict=True):
        y = f"{float(group.find('circle').get('cy')) - 13:.1f}"
        ends = {"name": (left, _cut(score.variant, LABEL)), "value": (right, number(score.value))}
        for kind, (x, text) in ends.items():
            etree.SubElement(group, "text", {"class": kind, "x": x, "y": y}).text = text


def _cut(text: str, length: int) -> str:
    """Cut a long name in the middle: variants differ at both ends."""
    half = length // 2
    return text if len(text) <= length else f"{text[: half - 1]}…{text[-half:]}"
