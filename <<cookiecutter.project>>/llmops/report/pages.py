"""index.html: one file that opens from disk, without a network request."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.files import write_atomically
from llmops.report import comparisons, judges, ranking, words
from llmops.report.charts import charts
from llmops.report.rows import Columns
from llmops.report.sample import LONGEST, Sample, packed, shortened
from llmops.summary import Summary

if TYPE_CHECKING:
    from jinja2 import Environment, Template

HERE = Path(__file__).parent
DATA_LIMIT = 1_700_000
SHORTEST = 125
FAILED_ROWS = 10


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of a page, the variant it is about (empty: all), and the folders it leads to."""

    folder: Path
    variant: str = ""
    folders: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """The rows for the page's script (gzip, base64) with how many there are and where texts end."""

    text: str
    rows: int
    length: int


def write_page(summary: Summary, sample: Sample, place: Place) -> None:
    """Write index.html.

    Raises:
        UserError: the folder cannot be written to.
    """
    cells = ranking.cells(summary)
    data = _data(sample, ranking.variants(summary))
    style, script = (_read(name) for name in ("page.css", "page.js"))
    page = template().render(
        summary=summary,
        place=place,
        source=words.source(summary),
        started=words.moment(summary.started_at),
        cells=cells,
        variants=ranking.variants(summary),
        datasets=list(dict.fromkeys(cell.dataset for cell in cells)),
        priced=any(words.cost(cell) for cell in cells),
        metrics=ranking.metrics(summary),
        title_of={m: words.metric_title(summary, m) for m in ranking.metrics(summary)},
        parameters=_parameters(summary) if place.variant else {},
        charts=charts(summary),
        compared=comparisons,
        judges=judges,
        judged=judges.shown(summary),
        sample=sample,
        failed=sample.first_errors(FAILED_ROWS),
        data=data,
        rule=ranking.RULE,
        words=words,
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    with write_atomically(place.folder / "index.html") as file:
        file.write(page)


def _data(sample: Sample, variants: list[str]) -> Data:
    """The rows for the script; texts, then the number of rows, are halved until they fit."""
    rows, length = sample.rows(), LONGEST
    while True:
        document = {
            "complete": len(rows) == sample.total,
            "variants": variants,
            "columns": {name: list(getattr(sample.columns, name)) for name in Columns.__slots__},
            "rows": list(packed(rows, sample.columns)),
        }
        raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        data = Data(base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode(), len(rows), length)
        if len(data.text) <= DATA_LIMIT or not rows:
            return data
        if length > SHORTEST:
            length //= 2
            rows = [shortened(row, length) for row in rows]
        else:
            rows = rows[: len(rows) // 2]


def _parameters(summary: Summary) -> dict[str, Any]:
    return next((run.parameters for run in summary.runs), {})


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def template() -> Template:
    """The page of a report."""
    return environment().get_template("page.html.jinja")


@cache
def environment() -> Environment:
    """Where the templates are, and how they are rendered: all data is text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
