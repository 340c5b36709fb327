"""An evaluation flow joins an experiment: its files, its mappings, its connections."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmops import config, flows
from llmops.config import EXPERIMENT
from llmops.errors import UserError
from llmops.files import parse_yaml
from llmops.onboarding import arguments, datasets, mappings, source, used_connections
from llmops.onboarding.interface import Interface, read
from llmops.onboarding.mappings import Place
from llmops.onboarding.proposal import Document, Proposal
from llmops.onboarding.source import Placed

FILE = Path(EXPERIMENT)
ENV_EXAMPLE = Path(".env.example")


def add_evaluator(
    proposal: Proposal, reference: Path | str, *, root: Path = Path(), file: Path = FILE
) -> None:
    """Add an evaluation flow to what is proposed, or to the experiment that is in `root` already.

    It is run over each dataset of the experiment `file`; `proposal` grows by its files, its entry
    under `evaluators`, its connections and what is unclear.

    Raises:
        UserError: there is no such flow, no experiment, or no dataset in it.
    """
    document = experiment(proposal, root, file)
    flow = source.find(reference)
    name = _name(source.name_of(flow), document)
    placed = source.place(flow, name)
    interface = read(flow)
    runs = [run.document for run in datasets.run_files(interface)]
    interface, init, told = arguments.complete(interface, runs)
    entries = document.setdefault("evaluators", [])
    if name not in [entry.get("name") for entry in entries]:
        entry: dict[str, Any] = {
            "name": name,
            "flow": placed.reference,
            **({"init": init} if init else {}),
        }
        at = Place(("evaluators", len(entries), "datasets"), placed.reference, file)
        entry["datasets"] = _datasets(proposal, document, interface, at, root)
        entries.append(entry)
        proposal.notes += told
    _take(proposal, document, placed, interface)
    proposal.documents[file] = in_order(document)


def _datasets(
    proposal: Proposal, document: Document, interface: Interface, at: Place, root: Path
) -> list[dict[str, Any]]:
    """The evaluator's mappings over each dataset of the experiment."""
    outputs, known = standard_outputs(proposal, document, root), _known(proposal, interface)
    found = []
    for number, dataset in enumerate(document["datasets"]):
        columns = columns_of(proposal, str(dataset.get("source")), root)
        place = replace(at, keys=(*at.keys, number, "mappings"))
        sure = mappings.valid(known, columns, outputs)
        open_ = {n: given for n, given in interface.inputs.items() if n not in sure}
        mapped = mappings.evaluation(open_, columns, outputs, place)
        found.append({"name": dataset["name"], "mappings": {**sure, **mapped.mappings}})
        proposal.questions += mapped.questions
        proposal.notes += [note for note in mapped.notes if note not in proposal.notes]
    return found


def _known(proposal: Proposal, interface: Interface) -> dict[str, Any]:
    """The mappings of a run file beside the standard flow that runs this evaluator."""
    for folder in dict.fromkeys(copied.source.parent for copied in proposal.copies):
        for run in datasets.run_files(interface, folder):
            if run.mappings:
                return run.mappings
    return {}


def _name(name: str, document: Document) -> str:
    """The evaluator's name, which must not be that of the standard flow's folder."""
    taken = str(document.get("flow") or document.get("name")).partition(":")[0]
    return (
        f"{name}-evaluation"
        if taken == f"flows/{name}" or taken.startswith(f"flows/{name}/")
        else name
    )


def _take(proposal: Proposal, document: Document, placed: Placed, interface: Interface) -> None:
    """The evaluator's files, packages, connections and variables."""
    proposal.copies += [copied for copied in placed.copies if copied not in proposal.copies]
    proposal.left += [left for left in placed.left if left not in proposal.left]
    packages = source.requirements(interface.flow)
    proposal.requirements += [path for path in packages if path not in proposal.requirements]
    used = used_connections.find(interface)
    if used.entries:
        used_connections.merge(document, used)
    lines = [*proposal.lines.get(ENV_EXAMPLE, []), *used.lines]
    proposal.lines |= {ENV_EXAMPLE: list(dict.fromkeys(lines))} if lines else {}
    proposal.notes += [*placed.notes, *used.notes]


def experiment(proposal: Proposal, root: Path, file: Path) -> Document:
    """The experiment that is proposed, or else the one in the repo.

    Raises:
        UserError: there is none that can be read, or it has no dataset.
    """
    document = proposal.documents.get(file)
    if document is None:
        try:
            document = parse_yaml((root / file).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise UserError(
                f"{file}: {error.strerror}. Bring in a flow with it: FROM=<path>."
            ) from error
        except ValueError as error:
            raise UserError(f"{file}: {error}.") from error
    if not isinstance(document, dict) or not document.get("datasets"):
        raise UserError(f"{file}: datasets: none, so there is nothing to evaluate. Add one.")
    return document


def standard_outputs(proposal: Proposal, document: Document, root: Path) -> tuple[str, ...] | None:
    """The outputs of the experiment's flow, null where its files do not name them."""
    reference = str(document.get("flow") or document.get("name"))
    path, _, function = reference.partition(":")
    try:
        there = _source_of(proposal, Path(path))
        if there is None:
            return read(flows.describe(reference, root)).outputs
        return read(flows.describe(f"{there}:{function}" if function else str(there))).outputs
    except UserError:
        return None


def _source_of(proposal: Proposal, flow: Path) -> Path | None:
    """Where a flow that is about to be copied lies now: its definition, or its only file."""
    endings = (*source.DEFINITIONS, ".prompty", *flows.FILES)
    for copied in proposal.copies:
        own = copied.target.parent == flow and copied.target.name.endswith(endings)
        if copied.target == flow or (own and copied.target.name in flows.FILES):
            return copied.source
    found = [c.source for c in proposal.copies if c.target.parent == flow]
    return next((p for p in found if p.name.endswith(endings)), None)


def columns_of(proposal: Proposal, file: str, root: Path) -> list[str]:
    """The columns of a dataset that is proposed or in the repo; none where it cannot be read."""
    path = Path(file)
    text = proposal.texts.get(path)
    if text is not None:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        return datasets.Found(rows).columns
    sources = {copied.target: copied.source for copied in proposal.copies}
    try:
        return datasets.Found(datasets.read(sources.get(path, root / path), {})).columns
    except UserError:
        return []


def in_order(document: Document) -> Document:
    """The blocks in the order in which experiment.yaml explains them."""
    order = [*config.Experiment.model_fields, *document]
    return {key: document[key] for key in dict.fromkeys(order) if key in document}
