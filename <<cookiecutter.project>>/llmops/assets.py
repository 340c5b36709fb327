"""What of an experiment stands in a workspace as an asset, and under which name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmops.config import Dataset, EvaluatorDataset, Experiment
from llmops.errors import UserError
from llmops.summary import Model

ASSET_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}")


class Asset(Model):
    """A version of a model or of data in the workspace; `created` says whether it is new."""

    name: str
    version: str
    created: bool
    content_hash: str


@dataclass(frozen=True)
class Source:
    """A data file, to become an asset of this name."""

    name: str
    path: Path
    description: str


def sources(experiment: Experiment, root: Path = Path()) -> Iterator[Source]:
    """The data files by the names that they get: of datasets, and of evaluators' own."""
    scored = (dataset for evaluator in experiment.evaluators for dataset in evaluator.datasets)
    every: list[Dataset | EvaluatorDataset] = [*experiment.datasets, *scored]
    known: dict[str, str] = {}
    for dataset in every:
        if not dataset.source or known.get(dataset.name) == dataset.source:
            continue
        if dataset.name in known:
            raise UserError(
                f"experiment.yaml: dataset '{dataset.name}' is both {known[dataset.name]} and "
                f"{dataset.source}. Give each its own name."
            )
        known[dataset.name] = dataset.source
        yield Source(dataset.name, root / dataset.source, dataset.description)


def check_names(names: Iterable[str]) -> None:
    """Raise UserError for a name that no asset can have."""
    for name in names:
        if not ASSET_NAME.fullmatch(name):
            raise UserError(
                f"experiment.yaml: name: '{name}' cannot be an asset of Azure ML (letters, digits, "
                "- and _, at most 255, a letter or digit first). Rename it."
            )
