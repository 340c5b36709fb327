"""The report of an experiment: a page, Markdown and CSV for all variants and for each.

Rows are read from disk one at a time; only a bounded sample of them is kept, for the page.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from threading import Timer

from llmops.errors import UserError
from llmops.files import write_atomically
from llmops.report import ranking
from llmops.report.comparisons import lines as compared
from llmops.report.judges import lines as judged
from llmops.report.markdown import ROWS, write_markdown
from llmops.report.pages import Place, template, write_page
from llmops.report.rows import Columns, joined
from llmops.report.sample import MOST, Sample, take
from llmops.report.tables import RowTable, facts, table, write_metrics
from llmops.summary import SUMMARY, Summary, save

__all__ = ["compared", "judged", "prepare", "table", "write"]


PREPARE_AFTER_S = 0.5


def prepare() -> None:
    """Load what a report is drawn with in the background: it takes as long as the drawing.

    A moment from now, when a task that has rows to run waits for its workers.
    """
    loading = Timer(PREPARE_AFTER_S, _load)
    loading.daemon = True
    loading.start()


def _load() -> None:
    for package in ("pygal", "tabulate"):
        importlib.import_module(package)
    template()


def write(summary: Summary, folder: Path = SUMMARY.parent) -> Path:
    """Write the report beside summary.json, and one a variant in a folder of its own.

    Returns the path of index.html. Folders of variants that an earlier report had are removed.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    named = ranking.folders(summary)
    columns: dict[str, Columns] = {}
    whole = Sample()
    share = max(1, MOST // max(1, len(ranking.cells(summary))))
    for variant in ranking.variants(summary):
        own = ranking.only(summary, variant)
        part = take(own)
        whole.merge(part, share)
        columns[variant] = part.columns
        save(own, folder / named[variant] / "summary.json")
        _write_part(own, part, Place(folder / named[variant], variant))
    _write_rows(summary, whole.columns, columns, folder)
    _remove_stale(folder, set(named.values()))
    _write_part(summary, whole, Place(folder, folders=named))
    return folder / "index.html"


def _write_part(summary: Summary, sample: Sample, place: Place) -> None:
    """Write all files of one folder but the rows."""
    write_metrics(summary, place.folder / "metrics.csv")
    errors = sample.first_errors(ROWS)
    write_markdown(summary, errors, sample.with_error, place.folder / "summary.md")
    write_page(summary, sample, place)


def _write_rows(
    summary: Summary, every: Columns, columns: dict[str, Columns], folder: Path
) -> None:
    """Write outputs.csv of the report and of each variant in one reading of the rows."""
    named = ranking.folders(summary)
    with write_atomically(folder / "outputs.csv") as file:
        shown = facts(summary)
        whole = RowTable(file, every, shown)
        for variant, own in columns.items():
            with write_atomically(folder / named[variant] / "outputs.csv") as part:
                tables = (whole, RowTable(part, own, shown))
                for cell in ranking.cells(ranking.only(summary, variant)):
                    for row in joined(cell):
                        for one in tables:
                            one.add(row)


def _remove_stale(folder: Path, current: set[str]) -> None:
    """Remove the folders of variants that are gone; only what a report wrote has a summary.json."""
    try:
        for path in folder.iterdir():
            written = path.is_dir() and not path.is_symlink() and (path / "summary.json").exists()
            if written and path.name not in current:
                shutil.rmtree(path)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be removed ({error.strerror}). "
            "It is the report of a variant that is gone; delete it, then run again."
        ) from error
