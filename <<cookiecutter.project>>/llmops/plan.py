"""Variants and hyperparameters become cells: what is run over which dataset, before any row is."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.config import Dataset, Experiment
from llmops.errors import UserError
from llmops.flows import Flow, overlay

DEFAULT = "default"
MODES = ("all", "combinations", DEFAULT)
SHOWN = 40
"""Characters of a parameter's value in a variant's name."""
LLM_INPUTS = re.compile(
    "(deployment_name|model|temperature|max_tokens|max_completion_tokens|top_p|n|stop|seed|user"
    "|presence_penalty|frequency_penalty|logit_bias|response_format|tools|tool_choice|echo|suffix"
    "|best_of|logprobs|top_logprobs|detail)"
)
"""What an LLM node may be given beside the inputs of its prompt, set in the DAG or not."""


@dataclass(frozen=True)
class Variant:
    """One way to run a flow.

    `choices` maps a node to its variant, `parameters` a node input (`node.input`) or a flow input
    to its value; `definition` is the DAG that results (empty for other flows).
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
    """Every distinct variant over every dataset.

    `selection` is VARIANTS; where it is empty, experiment.yaml decides.

    Raises:
        UserError: an unknown variant, node or input (the choices are named), or more cells than
            `limits.max_cells`.
    """
    where = "VARIANTS" if selection else f"{experiment.file('variants')}: variants"
    selection = selection or experiment.variants
    _check_selection(flow, selection, where)
    _check_parameters(flow, experiment.parameters, experiment.file("parameters"))
    most, datasets = experiment.limits.max_cells, experiment.datasets
    found = _distinct(flow, selection, experiment.parameters)
    chosen = list(itertools.islice(found, most // len(datasets) + 1)) if datasets else []
    if len(chosen) * len(datasets) > most:
        count = _count(flow, selection) * math.prod(map(len, experiment.parameters.values()))
        raise UserError(
            f"{experiment.file('limits')}: limits.max_cells: {most}, but the plan has {count} "
            f"variants over {len(datasets)} datasets. Choose fewer with VARIANTS or parameters, or "
            "raise the limit."
        )
    return [Cell(variant, dataset) for dataset in datasets for variant in chosen]


def _distinct(
    flow: Flow, selection: Sequence[str], parameters: Mapping[str, Sequence[Any]]
) -> Iterator[Variant]:
    """The variants of a selection; those that come to the same flow are given once."""
    seen = set()
    for choices in _choices(flow, selection):
        for combination in itertools.product(*parameters.values()):
            values = dict(zip(parameters, combination, strict=True))
            definition = overlay(flow, choices, values)
            variant = Variant(_name(flow, choices, values), choices, values, definition)
            content = json.dumps([definition, variant.inputs], sort_keys=True)
            if content not in seen:
                seen.add(content)
                yield variant


def _count(flow: Flow, selection: Sequence[str]) -> int:
    """How many variants a selection has before equal ones are left out."""
    sizes = [len(names) for names in flow.variants.values()]
    counts = {"all": 1 + sum(sizes) - len(sizes), "combinations": math.prod(sizes)}
    return sum(counts.get(word, 1) for word in selection)


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
            yield {**_defaults(flow), **_named(word)}


def _defaults(flow: Flow) -> dict[str, str]:
    return {node: names[0] for node, names in flow.variants.items()}


def _named(word: str) -> dict[str, str]:
    """`node.variant`, several joined by `+`."""
    parts = (part.rpartition(".") for part in word.split("+"))
    return {node: name for node, _, name in parts}


def _name(flow: Flow, choices: Mapping[str, str], parameters: Mapping[str, Any]) -> str:
    changed = [f"{n}.{v}" for n, v in choices.items() if v != flow.variants[n][0]]
    name = "+".join(changed) or DEFAULT
    values = ", ".join(f"{key}={_shown(value)}" for key, value in parameters.items())
    return f"{name} [{values}]" if values else name


def _shown(value: Any) -> str:
    """A short name of a value that no other value has."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) > SHOWN:
        return f"{text[:SHOWN]}…{hashlib.sha256(text.encode()).hexdigest()[:4]}"
    plain = isinstance(value, str) and re.fullmatch(r"[^\W\d][\w .-]*", value)
    return value if plain and value not in ("true", "false", "null") else text


def _check_selection(flow: Flow, selection: Sequence[str], where: str) -> None:
    known = [f"{node}.{name}" for node, names in flow.variants.items() for name in names]
    for word in selection:
        unknown = [] if word in MODES else [part for part in word.split("+") if part not in known]
        if unknown:
            choices = ", ".join((*MODES, *known))
            raise UserError(
                f"{where}: '{unknown[0]}' is not a variant of {flow.folder} "
                f"(expected one of {choices})."
            )


def _check_parameters(flow: Flow, parameters: Mapping[str, Sequence[Any]], file: str) -> None:
    known = [*flow.inputs, *(f"{node}.{name}" for node in flow.nodes for name in _own(flow, node))]
    for key, values in parameters.items():
        node, _, name = key.partition(".")
        llm = any(version.get("type") == "llm" for version in flow.versions(node))
        if key not in known and not (llm and LLM_INPUTS.fullmatch(name)):
            raise UserError(
                f"{file}: parameters: '{key}' is no input of {flow.path} "
                f"(expected one of {', '.join(known)})."
            )
        if not values:
            raise UserError(f"{file}: parameters.{key}: has no values. List at least one.")


def _own(flow: Flow, node: str) -> list[str]:
    """The inputs that a node has in any of its variants."""
    return sorted({name for version in flow.versions(node) for name in version.get("inputs") or {}})
