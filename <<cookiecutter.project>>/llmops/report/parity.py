"""What `make parity` found, for people: parity.html, parity.md, and lines for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llmops.files import write_atomically
from llmops.parity.document import PARITY, Cell, Difference, Parity
from llmops.report import words
from llmops.report.comparisons import CAUTION
from llmops.report.inert import code, text
from llmops.report.pages import HERE, environment

MARKS = {"equal": "✅", "equivalent": "✅", "different": "❌", "inconclusive": "⚠️"}
LOOKS = {"equal": "pass", "equivalent": "pass", "different": "fail", "inconclusive": "inconclusive"}
SIGNS = {"not worse": "better", "worse": "worse", "inconclusive": "inconclusive"}
"""The looks of the verdicts, under the names that the page's style has for them."""
FIRST, SHOWN = 12, 3
"""Lines of the first difference in a terminal, and differences in parity.md."""
COUNTS = {
    "same_requests": "same requests",
    "same_outputs": "same results",
    "failed_same": "failed in both alike",
    "failed_otherwise": "failed in both otherwise",
    "only_a": "failed in A alone",
    "only_b": "failed in B alone",
    "unanswered": "without an answer",
    "random": "random in A",
}


def write(found: Parity, folder: Path = PARITY.parent) -> Path:
    """Write parity.md and parity.html, the path of which is returned; raises UserError."""
    with write_atomically(folder / "parity.md") as file:
        file.write("\n".join(_markdown(found)).rstrip() + "\n")
    page = (
        environment()
        .get_template("parity.html.jinja")
        .render(
            found=found,
            look=LOOKS[found.verdict],
            signs=SIGNS,
            counts=counts,
            caution=CAUTION,
            words=words,
            started=words.moment(found.started_at),
            source=words.answered(found.llm),
            style=(HERE / "page.css").read_text(encoding="utf-8"),
        )
    )
    with write_atomically(folder / "parity.html") as file:
        file.write(page)
    return folder / "parity.html"


def lines(found: Parity) -> list[str]:
    """What a terminal shows: the verdict, why, the metrics and the first difference."""
    first = found.differences[0] if found.differences else None
    shown = [f"{_place(found, first)}:", *(f"  {line}" for line in first.lines)] if first else []
    return [
        f"{found.verdict}: {found.sentence}",
        *(f"  {reason}" for reason in found.reasons),
        *(f"  {one.sentence}" for one in found.metrics),
        *shown[:FIRST],
        *(["  …"] if len(shown) > FIRST else []),
    ]


def counts(cell: Cell) -> dict[str, int]:
    """The counts of a cell in words, without what did not happen."""
    told = {word: getattr(cell, name) for name, word in COUNTS.items()}
    kept = ("same requests", "same results")
    return {word: count for word, count in told.items() if count or word in kept}


def _place(found: Parity, one: Difference) -> str:
    """Which row a difference is of, and what of it differs."""
    variant = f", {one.variant}" if len({cell.variant for cell in found.cells}) > 1 else ""
    return f"{one.dataset}{variant}, row {one.row}, {one.what} (- A, + B)"


def _markdown(found: Parity) -> Iterator[str]:
    yield f"## {MARKS[found.verdict]} Parity {found.verdict}: {text(found.experiment)}"
    yield from ("", f"**{text(found.sentence, 400)}**", "")
    yield f"- A {code(found.a.flow)} ({found.a.kind}), B {code(found.b.flow)} ({found.b.kind})"
    yield from (f"- {text(reason, 400)}" for reason in found.reasons)
    source = words.answered(found.llm)
    yield f"- **{source.title}** {text(source.text, 1000)}"
    yield from (
        "",
        "| variant | dataset | rows | requests of A | of B | of these rows |",
        "|---|---|--:|--:|--:|---|",
    )
    for cell in found.cells:
        told = ", ".join(f"{count:,} {word}" for word, count in counts(cell).items())
        place = f"{code(cell.variant)} | {code(cell.dataset)} | {cell.rows:,}"
        yield f"| {place} | {cell.requests_a:,} | {cell.requests_b:,} | {told} |"
    if found.metrics:
        yield from ("", "| metric | evaluator | A | B | verdict |", "|---|---|--:|--:|---|")
    for one in found.metrics:
        pair = one.comparison
        values = f"{words.number(pair.baseline_value)} | {words.number(pair.candidate_value)}"
        names = f"{code(pair.metric)} | {code(pair.evaluator)}"
        yield f"| {names} | {values} | {text(one.sentence, 300)} |"
    for difference in found.differences[:SHOWN]:
        yield from ("", f"{text(_place(found, difference), 200)}:", "", *_fenced(difference))
    yield from ("", f"Of {text(words.moment(found.started_at))} · env {code(found.env)}")


def _fenced(one: Difference) -> list[str]:
    """Lines as a block in which nothing acts: its fence is longer than any in them."""
    clean = [" ".join(line.splitlines()) for line in one.lines]
    longest = max((len(run) for line in clean for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}diff", *clean, fence]
