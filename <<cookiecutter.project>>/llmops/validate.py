"""Everything that can be checked without running a row: files, mappings, variants, references."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops import flows
from llmops.config import Experiment
from llmops.data import Table, complete_mappings, resolve
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.plan import Cell, plan

SAMPLE_REQUEST = "sample-request.json"


@dataclass
class Checked:
    """What the checks found: flows by name, tables by source, and the plan."""

    flow: Flow | None = None
    evaluators: dict[str, Flow] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check(experiment: Experiment, selection: Sequence[str] = (), root: Path = Path()) -> Checked:
    """Check an experiment against its files.

    Raises:
        UserError: every problem found, one a line.
    """
    found = Checked()
    if experiment.datasets:
        _collect(found, lambda: _standard(found, experiment, selection, root))
    for evaluator in experiment.evaluators:
        reference = evaluator.flow or evaluator.name
        _collect(found, lambda e=evaluator, r=reference: found.evaluators.update({e.name: flows.describe(r, root)}))
    for source in _sources(experiment):
        _collect(found, lambda s=source: found.tables.update({s: _table(s, root)}))
    if not experiment.datasets and not experiment.evaluators:
        found.problems.append("experiment.yaml: datasets: none, so there is nothing to run. Add one.")
    found.problems += [
        *_standard_mappings(found, experiment),
        *_evaluator_mappings(found, experiment),
        *_connections(found, experiment),
        *_gate(experiment),
        *_sample_request(found, root),
    ]
    if found.problems:
        raise UserError("\n".join(dict.fromkeys(found.problems)))
    return found


def reference_of(experiment: Experiment, dataset: Any) -> str | None:
    """The standard flow's dataset whose outputs an evaluator dataset scores; null for a log alone."""
    names = {d.name for d in experiment.datasets}
    name = dataset.reference or dataset.name
    return name if name in names else None


def source_of(experiment: Experiment, dataset: Any) -> str:
    """The file of an evaluator dataset: its own, or that of the dataset it refers to."""
    sources = {d.name: d.source for d in experiment.datasets}
    return str(dataset.source or sources[dataset.reference or dataset.name])


def _collect(found: Checked, step: Any) -> None:
    try:
        step()
    except UserError as error:
        found.problems.append(str(error))


def _standard(found: Checked, experiment: Experiment, selection: Sequence[str], root: Path) -> None:
    found.flow = flows.describe(experiment.flow or experiment.name, root)
    found.cells = plan(experiment, found.flow, selection)


def _sources(experiment: Experiment) -> list[str]:
    own = [dataset.source for dataset in experiment.datasets]
    others = [d.source for e in experiment.evaluators for d in e.datasets if d.source]
    return list(dict.fromkeys([*own, *others]))


def _table(source: str, root: Path) -> Table:
    if source.startswith("azureml:"):
        raise UserError(f"{source}: a registered data asset needs TARGET=azure. Use a file here.")
    return Table(root / source)


def _standard_mappings(found: Checked, experiment: Experiment) -> Iterator[str]:
    if found.flow is None:
        return
    for dataset in experiment.datasets:
        table = found.tables.get(dataset.source)
        if table is not None:
            where = f"experiment.yaml: datasets[{dataset.name}].mappings"
            inputs = {n: r for n, r in found.flow.inputs.items() if n not in experiment.parameters}
            yield from _mapping_problems(where, dataset.mappings, found.flow, inputs, table)


def _evaluator_mappings(found: Checked, experiment: Experiment) -> Iterator[str]:
    for evaluator in experiment.evaluators:
        flow = found.evaluators.get(evaluator.name)
        for dataset in evaluator.datasets:
            where = f"experiment.yaml: evaluators[{evaluator.name}].datasets[{dataset.name}]"
            source = source_of(experiment, dataset)
            table = found.tables.get(source)
            if flow is None or table is None:
                continue
            yield from _mapping_problems(f"{where}.mappings", dataset.mappings, flow, flow.inputs, table)
            yield from _output_problems(f"{where}.mappings", dataset.mappings, found.flow)
            reference = reference_of(experiment, dataset)
            sources = {d.name: d.source for d in experiment.datasets}
            beside = found.tables.get(sources.get(reference or "", source))
            if beside is not None and len(beside) != len(table):
                yield (
                    f"{where}.source: {source} has {len(table)} rows, but {beside.path} of dataset "
                    f"'{reference}' has {len(beside)}. They are matched line by line."
                )


def _mapping_problems(
    where: str, mappings: Mapping[str, Any], flow: Flow, inputs: Mapping[str, bool], table: Table
) -> Iterator[str]:
    columns = ", ".join(sorted(table.columns))
    complete = complete_mappings(mappings, inputs)
    for name, value in complete.items():
        if name not in flow.inputs and flow.kind == "python":
            known = ", ".join(flow.inputs)
            yield f"{where}.{name}: no input of {flow.folder / flow.file} (expected one of {known})."
        if not str(value).startswith("${data."):
            continue
        row = _first_without(value, table)
        if row is None:
            continue
        if name not in mappings:
            yield (
                f"{where}: nothing maps the input '{name}' of {flow.folder}, and {table.path} has no "
                f"column of that name in line {table.line(row)} (columns: {columns})."
            )
        else:
            yield (
                f"{where}.{name}: '{value}': {table.path}: line {table.line(row)} has no such column "
                f"(columns: {columns})."
            )


def _first_without(value: str, table: Table) -> int | None:
    if table.columns.get(value.removeprefix("${data.").removesuffix("}")) == len(table):
        return None
    for number, record in enumerate(table):
        try:
            resolve(value, {"data": record})
        except KeyError:
            return number
    return None


def _output_problems(where: str, mappings: Mapping[str, Any], flow: Flow | None) -> Iterator[str]:
    if flow is None or flow.outputs is None:
        return
    for name, value in mappings.items():
        output = str(value).removeprefix("${run.outputs.").removesuffix("}")
        if str(value).startswith("${run.outputs.") and output not in flow.outputs:
            known = ", ".join(flow.outputs)
            yield f"{where}.{name}: '{value}' is no output of {flow.folder} (expected one of {known})."


def _connections(found: Checked, experiment: Experiment) -> Iterator[str]:
    known = {connection.name for connection in experiment.connections}
    for flow in (found.flow, *found.evaluators.values()):
        for name, node in (flow.nodes if flow else {}).items():
            connection = node.get("connection")
            if flow and connection and connection not in known:
                yield (
                    f"{flow.folder / flow.file}: node '{name}' uses the connection '{connection}', which "
                    f"experiment.yaml does not name (connections: {', '.join(sorted(known)) or 'none'})."
                )


def _gate(experiment: Experiment) -> Iterator[str]:
    evaluators = {evaluator.name for evaluator in experiment.evaluators}
    datasets = {d.name for d in experiment.datasets}
    datasets |= {d.name for e in experiment.evaluators for d in e.datasets}
    for at, check in enumerate(experiment.gate.checks if experiment.gate else ()):
        where = f"experiment.yaml: gate.checks[{at}]"
        if check.evaluator not in evaluators:
            yield f"{where}.evaluator: '{check.evaluator}' (expected one of {', '.join(sorted(evaluators))})."
        if check.dataset is not None and check.dataset not in datasets:
            yield f"{where}.dataset: '{check.dataset}' (expected one of {', '.join(sorted(datasets))})."


def _sample_request(found: Checked, root: Path) -> Iterator[str]:
    path = root / SAMPLE_REQUEST
    if found.flow is None or not path.exists():
        return
    try:
        request = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        yield f"{SAMPLE_REQUEST}: not JSON ({error})."
        return
    missing = [n for n, required in found.flow.inputs.items() if required and n not in request]
    if missing:
        yield f"{SAMPLE_REQUEST}: lacks the input '{missing[0]}' of {found.flow.folder}."
