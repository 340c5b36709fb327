"""A and B: two flows over the datasets and mappings of one experiment, variant beside variant."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmops import config, flows, validate
from llmops.config import Experiment
from llmops.data import complete_mappings
from llmops.errors import UserError
from llmops.experiment import limited
from llmops.flows import Flow
from llmops.indexing import manifest, upkeep
from llmops.package import flow_hash, package
from llmops.parity import document
from llmops.plan import DEFAULT, Cell, Variant
from llmops.settings import Settings
from llmops.validate import Checked

USAGE = "Name both: `make parity A=flows/standard B=flows/standard_python`."


@dataclass(frozen=True)
class Side:
    """One implementation as the experiment's flow; the cells of both are in the same order."""

    reference: str
    flow: Flow
    experiment: Experiment
    checked: Checked

    def described(self, names: Sequence[str]) -> document.Side:
        """For the document: the variants' hashes under these names, which are those of A."""
        variants = dict(zip(names, _variants(self.checked.cells), strict=True))
        found = {name: _hash(self.flow, variant) for name, variant in variants.items()}
        hashes = {name: text for name, text in found.items() if text}
        return document.Side(flow=self.reference, kind=self.flow.kind, hashes=hashes)


def read(settings: Settings) -> tuple[Side, Side]:
    """A and B in the variants of VARIANTS (default: the default one), checked.

    Raises:
        UserError: one is not named or no flow, both are the same, there are no datasets, the
            experiment does not fit one of them, or B lacks an input or a variant of A.
    """
    a, b = (_flow(name, getattr(settings, name.lower())) for name in ("A", "B"))
    if (a.path.resolve(), a.entry) == (b.path.resolve(), b.entry):
        raise UserError(f"B: '{settings.b}' is the same flow as A. {USAGE}")
    draft = config.read(settings.env)
    if draft.experiment is None:
        raise UserError("\n".join(draft.problems))
    experiment = _without_choices(limited(draft.experiment, settings), a, b)
    if not experiment.datasets:
        raise UserError(
            f"ENV: '{settings.env}' has no datasets, so there are no rows for A and B. "
            "Choose another."
        )
    first = _side(settings.a, a, experiment, draft.problems, settings.variants or (DEFAULT,))
    _check_inputs(experiment, a, b)
    second = _side(settings.b, b, experiment, (), (DEFAULT,))
    second.checked.cells = [
        Cell(_matching(cell.variant, first.flow, second.flow), cell.dataset)
        for cell in first.checked.cells
    ]
    return first, second


def _without_choices(experiment: Experiment, a: Flow, b: Flow) -> Experiment:
    """Without `<node>_variant` of an ejected flow: here VARIANTS says which variants run."""
    choices = {f"{node}_variant".lower() for flow in (a, b) for node in flow.variants}
    kept = {n: v for n, v in experiment.parameters.items() if n.lower() not in choices}
    return experiment.model_copy(update={"parameters": kept})


def refresh_indexes(a: Side, b: Side, settings: Settings) -> None:
    """Bring the indexes that the flows search up to date; B takes over what A's has embedded."""
    upkeep.refresh(a.experiment, a.flow, settings)
    place = manifest.place(a.experiment, a.flow)
    upkeep.refresh(b.experiment, b.flow, settings, older=[place.folder] if place else [])


def names(side: Side) -> list[str]:
    """The names of A's variants in the order of the plan."""
    return [variant.name for variant in _variants(side.checked.cells)]


def _variants(cells: Sequence[Cell]) -> list[Variant]:
    """The variants of the first dataset: each dataset has the same, in the same order."""
    return [cell.variant for cell in cells if cell.dataset.name == cells[0].dataset.name]


def _flow(name: str, reference: str) -> Flow:
    if not reference:
        raise UserError(f"{name}: unset. {USAGE}")
    try:
        return flows.describe(reference.rstrip("/"))
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _side(
    reference: str,
    flow: Flow,
    experiment: Experiment,
    problems: Sequence[str],
    selection: Sequence[str],
) -> Side:
    """The experiment with this flow in place of its own.

    Of its parameters the first value counts, and only those that are inputs of the flow itself.
    """
    own = experiment.flow or experiment.name
    known = {n: v for n, v in experiment.init.items() if flow.takes_more or n in flow.takes}
    changed: dict[str, Any] = {
        "flow": reference.rstrip("/"),
        "init": experiment.init if flows.means(own, flow) else known,
        "parameters": {n: v[:1] for n, v in experiment.parameters.items() if "." not in n},
        "repeats": 1,
    }
    if experiment.index and not flows.means(
        own, flow
    ):  # each flow searches what lies in its own folder
        changed["index"] = experiment.index.model_copy(update={"folder": ""})
    placed = experiment.model_copy(update=changed)
    checked = validate.check(placed, selection, known=problems)
    return Side(reference, checked.flow or flow, placed, checked)


def _check_inputs(experiment: Experiment, a: Flow, b: Flow) -> None:
    """What A is given must have a place in B."""
    for dataset in experiment.datasets:
        for name in complete_mappings(dataset.mappings, a.inputs):
            taken = name in a.inputs and name not in experiment.parameters
            if taken and name not in b.inputs and not b.more_inputs:
                raise UserError(
                    f"B: {b.path} has no input '{name}', which A takes from dataset "
                    f"'{dataset.name}' (its inputs: {', '.join(b.inputs) or 'none'})."
                )


def _matching(variant: Variant, a: Flow, b: Flow) -> Variant:
    """B's variant for one of A: the same choice of a node, or the parameter `<node>_variant`."""
    changed = {node: name for node, name in variant.choices.items() if name != a.variants[node][0]}
    choices = {node: name for node, name in changed.items() if name in b.variants.get(node, ())}
    values = {
        _parameter(node, name, b): name for node, name in changed.items() if node not in choices
    }
    definition = flows.overlay(b, choices, {})
    return replace(
        variant, choices=choices, parameters=variant.inputs | values, definition=definition
    )


def _parameter(node: str, name: str, b: Flow) -> str:
    wanted = f"{node}_variant"
    for known in b.inputs:
        if known.lower() == wanted.lower():
            return known
    raise UserError(
        f"VARIANTS: '{node}.{name}': {b.path} has no parameter '{wanted}' "
        f"(its inputs: {', '.join(b.inputs) or 'none'}). Leave out VARIANTS."
    )


def _hash(flow: Flow, variant: Variant) -> str:
    """The hash under which registration and deployment know the flow; empty where it has none."""
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        try:
            return flow_hash(package(flow, variant, Path(folder)))
        except UserError:
            return ""
