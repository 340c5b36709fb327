"""The list of runs that an experiment consists of, and which of their rows are still to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops import flows
from llmops.config import Experiment
from llmops.connections import Connection
from llmops.data import Table, apply_mappings, complete_mappings
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.plan import Cell
from llmops.running.engine import Job
from llmops.runs import ADDRESS, Row, Run, folder
from llmops.summary import RunSummary
from llmops.validate import Checked, reference_of, source_of

LOGGED = "logged"


@dataclass
class Work:
    """One flow over one table: a cell of the plan, or an evaluator over a cell.

    `digest` is the run's content address. `repeats` is how often each row of the table is run; a
    row of the run has the number `repeat * len(table) + row of the table`, so more repeats leave
    the numbers of the others as they are. `done` holds the rows that need not run again. `scores`
    lists the evaluations that wait for this run's rows; `scored` is the run whose rows an
    evaluation scores, null for a production log. `keep_requests` as in `engine.Job`.
    """

    variant: str
    parameters: dict[str, Any]
    dataset: str
    evaluator: str | None
    flow: Flow
    definition: dict[str, Any]
    table: Table
    mappings: dict[str, Any]
    digest: str
    run: Run
    repeats: int = 1
    done: set[int] = field(default_factory=set)
    scored: Work | None = None
    scores: list[Work] = field(default_factory=list)
    saved_calls: int = 0
    keep_requests: bool = False

    @property
    def name(self) -> str:
        """A name for people that is unique within the experiment."""
        parts = (self.variant, self.dataset, self.evaluator)
        return " / ".join(part for part in parts if part)

    @property
    def rows(self) -> int:
        """How many rows the run has when it is done: those of the table, once a repeat."""
        return len(self.table) * self.repeats

    @property
    def left(self) -> int:
        """How many rows are still to do."""
        return self.rows - len(self.done)

    def left_of(self, repeats: range) -> Iterator[int]:
        """The numbers of the rows of these repeats that are still to do."""
        for number in self.numbers(repeats):
            if number not in self.done:
                yield number

    def numbers(self, repeats: range) -> range:
        """The numbers of all rows of these repeats."""
        each = len(self.table)
        return range(repeats.start * each, min(repeats.stop, self.repeats) * each)

    def data(self, number: int) -> dict[str, Any]:
        """The row of the table that a row of the run is about."""
        return self.table[number % len(self.table)]

    @property
    def tables(self) -> list[Table]:
        """What the values of its rows come from: its own table, and that of the scored run."""
        return [self.table, *(self.scored.tables if self.scored else ())]

    def inputs(self, number: int, scored: Row | None = None) -> dict[str, Any]:
        """The flow's inputs for a row; KeyError where a mapping finds nothing."""
        sources: dict[str, Mapping[str, Any]] = {"data": self.data(number)}
        if scored is not None:
            sources |= {"run.inputs": scored.inputs, "run.outputs": scored.outputs or {}}
        return apply_mappings(self.mappings, sources)


def job(
    name: str,
    flow: Flow,
    definition: dict[str, Any],
    connections: Mapping[str, Connection],
    tables: Iterable[Table] = (),
) -> Job:
    """A flow in one variant as a worker loads it; `tables` are those that its rows come from."""
    return Job(
        name,
        flow.kind,
        flow.folder,
        flow.file,
        flow.entry,
        definition,
        {key: link.as_promptflow() for key, link in connections.items()},
        {key: link.model for key, link in connections.items() if link.model},
        flow.init,
        tuple(str(table.path.parent.resolve()) for table in tables),
        defaults=flow.defaults,
    )


def cells(checked: Checked, target: str) -> list[Work]:
    """A run for each cell of the plan; `target` is what decides the models' answers."""
    if checked.flow is None:
        return []
    return [_cell(cell, checked.flow, checked, target) for cell in checked.cells]


def stored(checked: Checked, runs: Iterable[RunSummary], selection: Sequence[str]) -> list[Work]:
    """The runs of an earlier experiment as they are on disk: none of their rows is to do.

    `selection` is VARIANTS; where it is empty, all runs are meant.

    Raises:
        UserError: the dataset is no longer in experiment.yaml or has more or fewer rows, or the
            run is gone.
    """
    cells = {cell.variant.name for cell in checked.cells}
    chosen = [run for run in runs if not selection or run.variant in cells]
    missing = sorted(cells - {run.variant for run in chosen}) if selection else []
    if missing:
        raise UserError(
            f"VARIANTS: the last experiment did not run '{missing[0]}'. "
            "Run `make experiment` first."
        )
    return [_stored(run, checked) for run in chosen]


def _stored(run: RunSummary, checked: Checked) -> Work:
    path = Path(run.outputs)
    sources = {cell.dataset.name: cell.dataset.source for cell in checked.cells}
    if run.dataset not in sources or checked.flow is None:
        raise UserError(
            f"{run.outputs}: its dataset '{run.dataset}' is not in experiment.yaml "
            f"(datasets: {', '.join(sources) or 'none'}). Run `make experiment` first."
        )
    table = checked.tables[sources[run.dataset]]
    if len(table) != run.rows // run.repeats:
        raise UserError(
            f"{table.path}: has {len(table)} rows, but the last experiment ran "
            f"{run.rows // run.repeats} rows of dataset '{run.dataset}'. "
            "Run `make experiment` first."
        )
    if not path.exists():
        raise UserError(f"{run.outputs}: not found. Run `make experiment` first.")
    return Work(
        run.variant,
        run.parameters,
        run.dataset,
        None,
        checked.flow,
        {},
        table,
        {},
        path.parent.name[-ADDRESS:],
        Run(path.parent),
        run.repeats,
        done=set(range(run.rows)),
    )


def evaluations(
    checked: Checked, experiment: Experiment, target: str, runs: Iterable[Work]
) -> list[Work]:
    """A run for each evaluator over each cell that it refers to, and over production logs."""
    by_dataset: dict[str, list[Work]] = {}
    for run in runs:
        by_dataset.setdefault(run.dataset, []).append(run)
    found = []
    for evaluator in experiment.evaluators:
        flow = checked.evaluators[evaluator.name]
        definition = flows.overlay(flow, {}, {})
        flow_digest = flows.digest(flow, definition)
        for dataset in evaluator.datasets:
            table = checked.tables[source_of(experiment, dataset)]
            mappings = complete_mappings(dataset.mappings, flow.inputs)
            reference = reference_of(experiment, dataset)
            for scored in by_dataset.get(reference, []) if reference else [None]:
                scored_digest = scored.digest[:ADDRESS] if scored else ""
                digest = _digest(flow_digest, table.digest, mappings, target, scored_digest)
                variant = scored.variant if scored else LOGGED
                name = f"{variant}-{reference or dataset.name}-{evaluator.name}"
                work = Work(
                    variant,
                    scored.parameters if scored else {},
                    reference or dataset.name,
                    evaluator.name,
                    flow,
                    definition,
                    table,
                    mappings,
                    digest,
                    Run(folder(name, digest)),
                    scored.repeats if scored else 1,
                    scored=scored,
                )
                if scored is not None:
                    scored.scores.append(work)
                found.append(work)
    return found


def labels(checked: Checked, experiment: Experiment, target: str) -> list[Work]:
    """A run of each judge's flow over the rows that people labelled; see `llmops.verdict.judges`.

    The work's variant says whose they are, so that two judges with one flow are two of its jobs.
    """
    found = []
    for evaluator in experiment.evaluators:
        if (judge := evaluator.judge) is not None:
            flow, table = checked.evaluators[evaluator.name], checked.tables[judge.labels]
            definition = flows.overlay(flow, {}, {})
            mappings = complete_mappings(judge.mappings, flow.inputs)
            digest = _digest(flows.digest(flow, definition), table.digest, mappings, target)
            name = f"labels of {evaluator.name}"
            run = Run(folder(name, digest))
            found.append(Work(name, {}, "", None, flow, definition, table, mappings, digest, run))
    return found


def find_finished(works: Iterable[Work]) -> None:
    """Look up which rows an earlier, equal run has finished already.

    Rows of repeats that are not wanted now are put aside.
    """
    for work in works:
        work.run.take_back(work.rows)
        last, ordered = -1, True
        for row in work.run.rows():
            last, ordered = max(last, row.row), ordered and row.row > last
            if not row.failed and row.row < work.rows:
                work.done.add(row.row)
                work.saved_calls += sum(calls for calls, *_ in row.usage.values())
        if last >= work.rows:
            work.run.put_aside(work.rows)
        elif not ordered:  # the task that wrote the rows was killed before it could
            work.run.put_in_order()


def _cell(cell: Cell, flow: Flow, checked: Checked, target: str) -> Work:
    variant, table = cell.variant, checked.tables[cell.dataset.source]
    mappings = complete_mappings(cell.dataset.mappings, flow.inputs) | variant.inputs
    digest = _digest(flows.digest(flow, variant.definition), table.digest, mappings, target)
    return Work(
        variant.name,
        variant.parameters,
        cell.dataset.name,
        None,
        flow,
        variant.definition,
        table,
        mappings,
        digest,
        Run(folder(f"{variant.name}-{cell.dataset.name}", digest)),
        checked.repeats,
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
