"""Everything that can be checked without running a row: files, mappings, variants, references."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmops import arguments, config, connections, flows, nodes
from llmops.config import Experiment
from llmops.data import REFERENCE, UNDECIDED, Table, complete_mappings, resolve
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.indexing import rules as index_rules
from llmops.plan import Cell, plan
from llmops.verdict import judge_labels

SAMPLE_REQUEST = "sample-request.json"
# What begins like a reference within a text, or nearly: `$data.text`, `{data.text}`.
NEARLY = re.compile(r"[${]\s*(data|run\.inputs|run\.outputs)\.")
SOURCES = {
    "data": "${data.<column>}",
    "run.inputs": "${run.inputs.<column>}",
    "run.outputs": "${run.outputs.<output>}",
}


@dataclass
class Checked:
    """What the checks found: flows by name, tables by source, and the plan.

    Each row of a cell is answered `repeats` times.
    """

    flow: Flow | None = None
    evaluators: dict[str, Flow] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    repeats: int = 1


def load(
    env: str = config.DEFAULT_ENV, selection: Sequence[str] = (), root: Path = Path()
) -> tuple[Experiment, Checked]:
    """Read an experiment and check it against its files.

    Raises:
        UserError: every problem of experiment.yaml and of what it names, one a line.
    """
    draft = config.read(env, root)
    if draft.experiment is None:
        raise UserError("\n".join(draft.problems))
    return draft.experiment, check(draft.experiment, selection, root, draft.problems)


def check(
    experiment: Experiment,
    selection: Sequence[str] = (),
    root: Path = Path(),
    known: Sequence[str] = (),
) -> Checked:
    """Check an experiment against its files; `known` are problems that are told with the others.

    Raises:
        UserError: every problem found, one a line.
    """
    found, problems = Checked(repeats=experiment.repeats), list(known)

    def attempt(step: Callable[[], None]) -> None:
        try:
            step()
        except UserError as error:
            problems.append(str(error))

    if experiment.datasets:
        attempt(lambda: _standard(found, experiment, selection, root))
    elif not experiment.evaluators and not known:
        problems.append("experiment.yaml: datasets: none, so there is nothing to run. Add one.")
    for evaluator in experiment.evaluators:
        attempt(lambda e=evaluator: _evaluator(found, experiment, e, root))  # type: ignore[misc]
    for where, source in _files(experiment):
        attempt(lambda w=where, s=source: _table(found, w, s, root))  # type: ignore[misc]
    attempt(lambda: _environment(experiment, root))
    problems += [
        *_standard_mappings(found, experiment),
        *_evaluator_mappings(found, experiment),
        *_judges(found, experiment, root),
        *_connections(found, experiment),
        *_nodes(found, experiment),
        *_init(found, experiment),
        *_gate(experiment),
        *index_rules.problems(experiment, found.flow, root),
        *_compared_metrics(found, experiment),
        *_sample_request(found, root),
    ]
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return found


def reference_of(experiment: Experiment, dataset: Any) -> str | None:
    """The standard flow's dataset whose outputs an evaluator dataset scores; null for a log."""
    names = {d.name for d in experiment.datasets}
    name = dataset.reference or dataset.name
    return name if name in names else None


def source_of(experiment: Experiment, dataset: Any) -> str:
    """The file of an evaluator dataset: its own, or that of the dataset it refers to."""
    return str(dataset.source or _sources(experiment)[dataset.reference or dataset.name])


def _sources(experiment: Experiment) -> dict[str, str]:
    """The files of the standard flow's datasets; of two with one name, which is an error, one."""
    return {dataset.name: dataset.source for dataset in reversed(experiment.datasets)}


def _standard(found: Checked, experiment: Experiment, selection: Sequence[str], root: Path) -> None:
    where = "flow" if experiment.flow else "name (flow is not set)"
    flow = _flow(f"{experiment.file('flow')}: {where}", experiment.flow, experiment.name, root)
    found.flow = replace(flow, init=flow.init | experiment.init)
    found.cells = plan(experiment, found.flow, selection)


def _evaluator(found: Checked, experiment: Experiment, evaluator: Any, root: Path) -> None:
    where = f"{experiment.file('evaluators')}: evaluators[{evaluator.name}].flow"
    flow = _flow(where, evaluator.flow, evaluator.name, root)
    found.evaluators[evaluator.name] = replace(flow, init=flow.init | evaluator.init)


def _flow(where: str, reference: str, name: str, root: Path) -> Flow:
    try:
        return flows.describe(reference or name, root)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _environment(experiment: Experiment, root: Path) -> None:
    """Raises UserError where experiment.yaml and the environment do not make a connection."""
    connections.load(experiment.connections, connections.environment(root))


def _files(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Each file of data, after the key that names it."""
    for dataset in experiment.datasets:
        where = f"{experiment.file('datasets')}: datasets[{dataset.name}].source"
        yield where, dataset.source
    for evaluator in experiment.evaluators:
        for scored in evaluator.datasets:
            if scored.source:
                file = experiment.file("evaluators")
                where = f"{file}: evaluators[{evaluator.name}].datasets[{scored.name}].source"
                yield where, scored.source
        if evaluator.judge:
            file = experiment.file("evaluators")
            yield f"{file}: evaluators[{evaluator.name}].judge.labels", evaluator.judge.labels


def _table(found: Checked, where: str, source: str, root: Path) -> None:
    if source in found.tables:
        return
    if source.startswith("azureml:"):
        raise UserError(
            f"{where}: '{source}' is a data asset in Azure ML, which only TARGET=azure can read. "
            "Name a .jsonl file."
        )
    path = root / source
    if not path.is_file():
        files = [other for other in path.parent.glob("*.jsonl") if other.is_file()]
        beside = sorted(str(other.relative_to(root)) for other in files)
        raise UserError(f"{where}: '{source}' is not there (files: {', '.join(beside) or 'none'}).")
    found.tables[source] = Table(path)


def _standard_mappings(found: Checked, experiment: Experiment) -> Iterator[str]:
    for dataset in experiment.datasets:
        table = found.tables.get(dataset.source)
        if found.flow and table:
            where = f"{experiment.file('datasets')}: datasets[{dataset.name}].mappings"
            inputs = {n: r for n, r in found.flow.inputs.items() if n not in experiment.parameters}
            mappings = dataset.mappings
            yield from _mapping_problems(where, mappings, found.flow, inputs, table)
            yield from _reference_problems(where, mappings, {"data": None})
            yield from nodes.unfit(where, mappings, found.flow, table)


def _evaluator_mappings(found: Checked, experiment: Experiment) -> Iterator[str]:
    for evaluator in experiment.evaluators:
        flow = found.evaluators.get(evaluator.name)
        for dataset in evaluator.datasets:
            file = experiment.file("evaluators")
            where = f"{file}: evaluators[{evaluator.name}].datasets[{dataset.name}]"
            table = found.tables.get(source_of(experiment, dataset))
            if flow is None or table is None:
                continue
            mappings = dataset.mappings
            known = _known(found, experiment, reference_of(experiment, dataset))
            yield from _mapping_problems(f"{where}.mappings", mappings, flow, flow.inputs, table)
            yield from _reference_problems(f"{where}.mappings", mappings, known)
            yield from nodes.unfit(f"{where}.mappings", mappings, flow, table)
            yield from _length_problem(where, found, experiment, dataset)


def _judges(found: Checked, experiment: Experiment, root: Path) -> Iterator[str]:
    for evaluator in experiment.evaluators:
        flow, judge = found.evaluators.get(evaluator.name), evaluator.judge
        if judge is None or flow is None:
            continue
        where = f"{experiment.file('evaluators')}: evaluators[{evaluator.name}].judge"
        table = found.tables.get(judge.labels)
        yield from judge_labels.rubric(where, judge, root)
        yield from judge_labels.problems(where, judge, flow, table)
        if table is not None:
            mappings = f"{where}.mappings"
            yield from _mapping_problems(mappings, judge.mappings, flow, flow.inputs, table)
            yield from _reference_problems(mappings, judge.mappings, {"data": None})
            yield from nodes.unfit(mappings, judge.mappings, flow, table)


def _known(
    found: Checked, experiment: Experiment, reference: str | None
) -> dict[str, Sequence[str] | None]:
    """What an evaluator's mappings may refer to; null where the names cannot be known."""
    if reference is None:
        return {"data": None}
    table = found.tables.get(_sources(experiment)[reference])
    return {
        "data": None,
        "run.inputs": sorted(table.columns) if table else None,
        "run.outputs": found.flow.outputs if found.flow else None,
    }


def _length_problem(
    where: str, found: Checked, experiment: Experiment, dataset: Any
) -> Iterator[str]:
    reference = reference_of(experiment, dataset)
    scored = found.tables.get(_sources(experiment).get(reference or "", ""))
    own = found.tables[source_of(experiment, dataset)]
    if scored is not None and len(scored) != len(own):
        yield (
            f"{where}.source: {own.path} has {len(own)} rows, but {scored.path} of dataset "
            f"'{reference}' has {len(scored)}. They are matched line by line."
        )


def _mapping_problems(
    where: str, mappings: Mapping[str, Any], flow: Flow, inputs: Mapping[str, bool], table: Table
) -> Iterator[str]:
    columns = ", ".join(sorted(table.columns))
    complete = complete_mappings(mappings, inputs)
    for name, value in complete.items():
        if name not in flow.inputs and flow.kind == "python" and not flow.more_inputs:
            known = ", ".join(flow.inputs)
            yield f"{where}.{name}: no input of {flow.path} (expected one of {known})."
        row = _first_without(value, table) if str(value).startswith("${data.") else None
        if row is None:
            continue
        if name not in mappings:
            yield (
                f"{where}: nothing maps the input '{name}' of {flow.path}, and {table.path}: "
                f"line {table.line(row)} has no column of that name (columns: {columns})."
            )
        else:
            yield (
                f"{where}.{name}: '{value}': {table.path}: line {table.line(row)} has no such "
                f"column (columns: {columns})."
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


def _reference_problems(
    where: str, mappings: Mapping[str, Any], known: Mapping[str, Sequence[str] | None]
) -> Iterator[str]:
    """References to anything but a column of the data, which `_mapping_problems` looks at."""
    choices = ", ".join(text for source, text in SOURCES.items() if source in known)
    for name, value in mappings.items():
        match = REFERENCE.match(value) if isinstance(value, str) else None
        source, _, last = match[1].rpartition(".") if match else ("", "", "")
        names = known.get(source)
        if str(value).startswith(UNDECIDED):
            yield f"{where}.{name}: not decided yet: {str(value).strip('<>')}. Write what it takes."
        elif match is None and NEARLY.search(str(value)):
            yield (
                f"{where}.{name}: '{value}' would be taken as it stands. A reference stands alone "
                f"(expected one of {choices}, or a literal)."
            )
        elif match and not any(match[1].startswith(f"{word}.") for word in known):
            yield f"{where}.{name}: '{value}' refers to nothing (expected one of {choices})."
        elif names is not None and last not in names:
            yield (
                f"{where}.{name}: '{value}': the scored run has no such {source[4:-1]} "
                f"(expected one of {', '.join(names)})."
            )


def _connections(found: Checked, experiment: Experiment) -> Iterator[str]:
    known = {connection.name for connection in experiment.connections}
    for flow in (found.flow, *found.evaluators.values()):
        for name, connection in flow.connections() if flow else ():
            if flow and connection not in known:
                yield (
                    f"{flow.path}: node '{name}' uses the connection '{connection}', which "
                    f"{experiment.file('connections')} does not name "
                    f"(connections: {', '.join(sorted(known)) or 'none'})."
                )


def _nodes(found: Checked, experiment: Experiment) -> Iterator[str]:
    known = {connection.name: connection.connection_type for connection in experiment.connections}
    for flow in (found.flow, *found.evaluators.values()):
        yield from nodes.problems(flow, known) if flow else ()


def _init(found: Checked, experiment: Experiment) -> Iterator[str]:
    """Arguments of the flows' classes, see `llmops.arguments`."""
    known = [connection.name for connection in experiment.connections]
    if found.flow:
        where = f"{experiment.file('init')}: init"
        yield from arguments.problems(where, experiment.init, found.flow, known)
    for evaluator in experiment.evaluators:
        if flow := found.evaluators.get(evaluator.name):
            where = f"{experiment.file('evaluators')}: evaluators[{evaluator.name}].init"
            yield from arguments.problems(where, evaluator.init, flow, known)


def _gate(experiment: Experiment) -> Iterator[str]:
    datasets = {
        evaluator.name: sorted({reference_of(experiment, d) or d.name for d in evaluator.datasets})
        for evaluator in experiment.evaluators
    }
    for at, check in enumerate(experiment.gate.checks if experiment.gate else ()):
        where = f"{experiment.file('gate')}: gate.checks[{at}]"
        own = datasets.get(check.evaluator)
        if own is None:
            choices = ", ".join(sorted(datasets)) or "none"
            yield f"{where}.evaluator: '{check.evaluator}' (expected one of {choices})."
        elif check.dataset is not None and check.dataset not in own:
            yield f"{where}.dataset: '{check.dataset}' (expected one of {', '.join(own)})."


def _compared_metrics(found: Checked, experiment: Experiment) -> Iterator[str]:
    """Metrics to compare that cannot be: known before a run only without an aggregation."""
    for evaluator in experiment.evaluators:
        flow = found.evaluators.get(evaluator.name)
        nodes = flow.definition.get("nodes", []) if flow else []
        if not flow or not nodes or any(node.get("aggregation") for node in nodes):
            continue
        for key in ("lower_is_better", "margin"):
            for metric in getattr(evaluator, key):
                if metric not in (flow.outputs or ()):
                    yield (
                        f"{experiment.file('evaluators')}: evaluators[{evaluator.name}].{key}: "
                        f"'{metric}' is no output of {flow.path} "
                        f"(expected one of {', '.join(flow.outputs or ()) or 'none'})."
                    )


def _sample_request(found: Checked, root: Path) -> Iterator[str]:
    path = root / SAMPLE_REQUEST
    if found.flow is None or not path.exists():
        return
    try:
        request = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        yield f"{SAMPLE_REQUEST}: not JSON ({error})."
        return
    if not isinstance(request, dict):
        yield f"{SAMPLE_REQUEST}: a {type(request).__name__}, expected an object of inputs."
        return
    missing = [n for n, required in found.flow.inputs.items() if required and n not in request]
    if missing:
        yield f"{SAMPLE_REQUEST}: lacks the input '{missing[0]}' of {found.flow.path}."
