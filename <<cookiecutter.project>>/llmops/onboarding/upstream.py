"""A use case as an older repo says it, and what all readers of such repos share."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.config import DEFAULT_ENV, EXPERIMENT
from llmops.data import UNDECIDED
from llmops.flows import Flow
from llmops.onboarding import copying, interface, mappings, repairs, used_connections
from llmops.onboarding.proposal import Copied, Document, Proposal, Question

ENV_EXAMPLE = Path(".env.example")
CONFIGS = ("configs", "config", "")


@dataclass
class UseCase:
    """A use case as its files say it, before it is made to fit.

    `base` is the experiment, `overlays` what environments say instead. `files` are the files that
    hold such a document and nothing else, by environment ("" is the base): they are copied as they
    are where nothing has to change.
    """

    folder: Path
    proposal: Proposal
    base: Document
    overlays: dict[str, Document] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)


def experiment_file(env: str) -> Path:
    """The file of an environment's document; "" is the base."""
    return Path(f"experiment.{env}.yaml" if env else EXPERIMENT)


def evaluator_mappings(
    flow: Flow, columns: Collection[str], outputs: Collection[str] | None
) -> Document:
    """Mappings of an evaluation flow's inputs by name; what cannot be decided is marked so."""
    inputs = interface.read(flow).inputs
    place = mappings.Place((), flow.folder.name)
    return mappings.evaluation(inputs, columns, outputs, place).mappings


def questions(case: UseCase) -> Iterator[Question]:
    """A question for each undecided mapping of an evaluator."""
    for env, document in {"": case.base, **case.overlays}.items():
        for at, evaluator in enumerate(repairs.blocks(document, "evaluators")):
            for number, dataset in enumerate(repairs.blocks(evaluator, "datasets")):
                place = ("evaluators", at, "datasets", number, "mappings")
                for name, value in repairs.mappings(dataset).items():
                    if str(value).startswith(UNDECIDED):
                        yield _question(env, evaluator, (*place, name), str(value))


def _question(env: str, evaluator: Document, place: tuple[str | int, ...], marked: str) -> Question:
    file, (_, _, listed) = experiment_file(env), marked.partition(": one of ")
    words = (
        f"{file}: {'.'.join(map(str, place))}: which value does the input '{place[-1]}' of "
        f"{evaluator.get('flow')} take?"
    )
    return Question(file, place, words, tuple(listed.removesuffix(">").split(", ")))


def used_connections_of(flow: Flow) -> tuple[list[Document], list[str]]:
    """Entries of the connections that a flow uses, and lines of .env.example for them."""
    return used_connections.entries(flow)


def take_files(case: UseCase, folder: Path, skip: Iterable[str]) -> None:
    """Have a folder's files copied to the same place, except `skip` (relative to the folder)."""
    target = folder.relative_to(case.folder)
    copies, left = copying.collect(folder, target, root=case.folder, skip=tuple(skip))
    known = {copied.target for copied in case.proposal.copies}
    case.proposal.copies += [copied for copied in copies if copied.target not in known]
    case.proposal.left += left


def take_file(case: UseCase, path: Path, target: Path | None = None) -> None:
    """Have one file copied, to the same place or another, as far as the copier lets it through."""
    others = [one.name for one in path.parent.iterdir() if one != path]
    found, left = copying.collect(path.parent, Path(), root=case.folder, skip=others)
    place = target or path.relative_to(case.folder)
    case.proposal.copies += [Copied(one.source, place) for one in found]
    case.proposal.left += left


def first_env(names: Iterable[str]) -> str:
    """The environment that becomes the base: dev, else the first."""
    names = list(names)
    return DEFAULT_ENV if DEFAULT_ENV in names else names[0]


def same_flow(one: Any, other: Any) -> bool:
    """Whether two references lead to the same flow."""
    return bare(one) == bare(other)


def bare(reference: Any) -> str:
    """The folder that a reference to a flow names."""
    text = re.sub(r"/flow\.(dag|flex)\.yaml$", "", str(reference or "").strip())
    return text.removeprefix("./").rstrip("/")


def add_lines(case: UseCase, lines: Iterable[str]) -> None:
    """Have lines added to .env.example."""
    known = case.proposal.lines.setdefault(ENV_EXAMPLE, [])
    known += [line for line in dict.fromkeys(lines) if line not in known]


def every_dataset(document: Document) -> Iterator[tuple[str, Document]]:
    """Each dataset of a document, after the key that names it."""
    for dataset in repairs.blocks(document, "datasets"):
        yield f"datasets[{dataset.get('name')}]", dataset
    for evaluator in repairs.blocks(document, "evaluators"):
        for dataset in repairs.blocks(evaluator, "datasets"):
            yield f"evaluators[{evaluator.get('name')}].datasets[{dataset.get('name')}]", dataset


def flow_names(case: UseCase) -> list[str]:
    """The references to flows in the documents."""
    names = [str(case.base.get("flow") or case.base.get("name") or "")]
    for document in (case.base, *case.overlays.values()):
        evaluators = repairs.blocks(document, "evaluators")
        names += [str(one.get("flow") or one.get("name") or "") for one in evaluators]
    return [name for name in dict.fromkeys(names) if name]


def flows_of(case: UseCase) -> list[Flow]:
    """Every flow that the documents name and that can be read."""
    found = (repairs.find_flow(case.folder, name) for name in flow_names(case))
    return [flow for flow in found if flow is not None]
