"""Variants and hyperparameters become cells: what is run over which dataset, before anything runs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.config import Dataset, Experiment
from llmops.errors import UserError
from llmops.flows import Flow, overlay

DEFAULT = "default"
MODES = ("all", "combinations", DEFAULT)


@dataclass(frozen=True)
class Variant:
    """One way to run a flow.

    `choices` maps a node to its variant, `parameters` a node input (`node.input`) or a flow input to
    its value; `definition` is the DAG that results (empty for other flows).
    """

    name: str
    choices: dict[str, str]
    parameters: dict[str, Any]
    definition: dict[str, Any]

    @property
    def inputs(self) -> dict[str, Any]:
        """Parameters that are inputs of the flow itself."""
        return {name: value for name, value in self.parameters.items() if "." not in name}


@dataclass(frozen=True)
class Cell:
    """A variant over a dataset."""

    variant: Variant
    dataset: Dataset


def plan(experiment: Experiment, flow: Flow, selection: Sequence[str] = ()) -> list[Cell]:
    """Every distinct variant over every dataset; `selection` (VARIANTS) goes before experiment.yaml.

    Raises:
        UserError: an unknown variant, node or input (the choices are named), or more cells than
            `limits.max_cells`.
    """
    chosen = variants(flow, selection or experiment.variants, experiment.parameters)
    cells = [Cell(variant, dataset) for dataset in experiment.datasets for variant in chosen]
    if len(cells) > experiment.limits.max_cells:
        raise UserError(
            f"experiment.yaml: limits.max_cells: {experiment.limits.max_cells}, but the plan has "
            f"{len(cells)} cells ({len(chosen)} variants over {len(experiment.datasets)} datasets). "
            "Choose fewer with VARIANTS or parameters, or raise the limit."
        )
    return cells


def variants(
    flow: Flow, selection: Sequence[str], parameters: Mapping[str, Sequence[Any]]
) -> list[Variant]:
    """The distinct variants of a selection; those that come to the same flow are kept once."""
    _check_parameters(flow, parameters)
    names = list(parameters)
    grid = [dict(zip(names, values, strict=True)) for values in itertools.product(*parameters.values())]
    distinct: dict[str, Variant] = {}
    for choices in _choices(flow, selection):
        for values in grid:
            definition = overlay(flow, choices, values)
            variant = Variant(_name(flow, choices, values), choices, values, definition)
            distinct.setdefault(json.dumps([definition, variant.inputs], sort_keys=True), variant)
    return list(distinct.values())


def _choices(flow: Flow, selection: Sequence[str]) -> Iterator[dict[str, str]]:
    for word in selection:
        if word == DEFAULT:
            yield _defaults(flow)
        elif word == "all":
            yield _defaults(flow)
            for node, names in flow.variants.items():
                for name in names[1:]:
                    yield {**_defaults(flow), node: name}
        elif word == "combinations":
            for combination in itertools.product(*flow.variants.values()):
                yield dict(zip(flow.variants, combination, strict=True))
        else:
            yield {**_defaults(flow), **_named(flow, word)}


def _defaults(flow: Flow) -> dict[str, str]:
    return {node: names[0] for node, names in flow.variants.items()}


def _named(flow: Flow, word: str) -> dict[str, str]:
    """`node.variant`, several joined by `+`."""
    choices = {}
    for part in word.split("+"):
        node, _, name = part.rpartition(".")
        if name not in flow.variants.get(node, ()):
            known = [f"{node}.{name}" for node, names in flow.variants.items() for name in names]
            raise UserError(
                f"variants: '{part}' is not a variant of {flow.folder} "
                f"(expected one of {', '.join((*MODES, *known))})."
            )
        choices[node] = name
    return choices


def _name(flow: Flow, choices: Mapping[str, str], parameters: Mapping[str, Any]) -> str:
    changed = [f"{n}.{v}" for n, v in choices.items() if v != flow.variants[n][0]]
    name = "+".join(changed) or DEFAULT
    values = ", ".join(f"{key}={value}" for key, value in parameters.items())
    return f"{name} [{values}]" if values else name


def _check_parameters(flow: Flow, parameters: Mapping[str, Sequence[Any]]) -> None:
    nodes = {name: sorted(node.get("inputs") or {}) for name, node in flow.nodes.items()}
    known = [*flow.inputs, *(f"{node}.{name}" for node, names in nodes.items() for name in names)]
    for key, values in parameters.items():
        if key.partition(".")[0] not in nodes and key not in flow.inputs:
            raise UserError(
                f"experiment.yaml: parameters: '{key}' is no input of {flow.folder} "
                f"(expected one of {', '.join(known)})."
            )
        if not values:
            raise UserError(f"experiment.yaml: parameters.{key}: has no values; list at least one.")
