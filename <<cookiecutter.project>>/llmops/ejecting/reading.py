"""What `make eject` reads: the flow, and what experiment.yaml says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from llmops import config, flows
from llmops.config import Experiment
from llmops.data import Table, complete_mappings, resolve
from llmops.ejecting.writer import Source
from llmops.errors import UserError
from llmops.flows import Flow

MOST_ROWS = 1000
"""Rows of each dataset that say which types an input's values have."""


def source(settings_env: str, reference: str, ending: str, root: Path) -> tuple[Source, Experiment]:
    """The flow that FLOW names, with the connections and rows of experiment.yaml.

    Raises:
        UserError: FLOW names no flow, or one that is plain Python already; experiment.yaml cannot
            be read.
    """
    if not reference:
        raise UserError("FLOW: not set. Say which flow, as in make eject FLOW=flows/standard.")
    try:
        flow = flows.describe(reference, root)
    except UserError as error:
        raise UserError(f"FLOW: {error}") from error
    if flow.kind == "python":
        raise UserError(f"FLOW: {flow.path} is plain Python already (expected {DAGS}).")
    if flow.definition.get("language") == "csharp":
        raise UserError(f"{flow.path}: language: 'csharp': only flows in Python can be ejected.")
    experiment = config.load(settings_env, root)
    flow = replace(flow, init=flow.init | _init(experiment, flow, root))
    folder = flow.folder.relative_to(root) if flow.folder.is_relative_to(root) else flow.folder
    name = flows_name(flow)
    index = experiment.index
    made = root / (index.folder if index and index.folder else folder / "index")
    return (
        Source(
            flow,
            folder.parent / f"{name}_{ending}",
            {entry.name: entry for entry in experiment.connections},
            tuple(_rows(experiment, flow, root)),
            (made,) if index else (),
        ),
        experiment,
    )


DAGS = "a DAG, a flex flow or a prompty"


def flows_name(flow: Flow) -> str:
    """The flow's name: its folder's; of a prompty its own."""
    return Path(flow.file).stem if flow.kind == "prompty" else flow.folder.resolve().name


def _init(experiment: Experiment, flow: Flow, root: Path) -> dict[str, Any]:
    """What experiment.yaml says of the arguments of the flow's class."""
    if flows.means(experiment.flow or f"flows/{experiment.name}", flow, root):
        return dict(experiment.init)
    found = (e.init for e in experiment.evaluators if flows.means(e.flow, flow, root))
    return dict(next(found, {}))


def _rows(experiment: Experiment, flow: Flow, root: Path) -> Iterator[dict[str, Any]]:
    """The flow's inputs as its datasets give them; what another flow's outputs give is left out."""
    for path, mappings in _datasets(experiment, flow, root):
        if not (root / path).is_file():
            continue
        for record in islice(Table(root / path), MOST_ROWS):
            row = {}
            for name, value in complete_mappings(mappings, flow.inputs).items():
                try:
                    row[name] = resolve(value, {"data": record})
                except KeyError:
                    continue
            yield row


def _datasets(
    experiment: Experiment, flow: Flow, root: Path
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    by_name = {dataset.name: dataset.source for dataset in experiment.datasets}
    if flows.means(experiment.flow or f"flows/{experiment.name}", flow, root):
        yield from ((d.source, d.mappings) for d in experiment.datasets)
    for evaluator in experiment.evaluators:
        if flows.means(evaluator.flow, flow, root):
            for dataset in evaluator.datasets:
                path = dataset.source or by_name.get(dataset.name, "")
                yield path, dataset.mappings
