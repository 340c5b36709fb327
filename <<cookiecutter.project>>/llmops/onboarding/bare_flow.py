"""A flow without an experiment comes in: its files, its data, and an experiment.yaml for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops import flows
from llmops.config import EXPERIMENT
from llmops.data import UNDECIDED
from llmops.errors import UserError
from llmops.onboarding import arguments, datasets, images, mappings, source, used_connections
from llmops.onboarding.evaluator import ENV_EXAMPLE, add_evaluator
from llmops.onboarding.interface import Interface
from llmops.onboarding.interface import read as read_interface
from llmops.onboarding.mappings import Mapped, Place
from llmops.onboarding.proposal import Copied, Left, Proposal
from llmops.onboarding.source import Placed
from llmops.validate import SAMPLE_REQUEST

__all__ = ["add_evaluator", "propose"]

KINDS = {
    "dag": "a prompt flow DAG",
    "flex": "a flex flow",
    "prompty": "a prompty file",
    "python": "a Python callable",
}


@dataclass(frozen=True)
class Data:
    """The rows as they come into the repo, and what is copied for them."""

    rows: list[dict[str, Any]]
    mapped: Mapped
    target: Path
    copies: list[Copied]


def propose(reference: Path | str, *, data: Path | None = None) -> Proposal:
    """What it takes to bring in a flow, a prompty file or a callable.

    `reference` is a folder, a definition, a .prompty file or `file.py:callable`; `data` is the
    dataset to take instead of the one beside it.

    Raises:
        UserError: there is no flow or more than one, or it or `data` cannot be read.
    """
    flow = source.find(reference)
    interface = read_interface(flow)
    runs = [run.document for run in datasets.run_files(interface)]
    interface, init, told = arguments.complete(interface, runs)
    name = source.name_of(flow)
    found, left = _data(interface, data)
    placed = source.place(flow, name, _passed_over(flow, found))
    proposal = Proposal(name, KINDS[flow.kind], placed.copies, left=[*placed.left, *left])
    rows = _rows(proposal, interface, placed, found)
    experiment: dict[str, Any] = {"name": name, "flow": placed.reference}
    used = used_connections.find(interface, runs)
    experiment |= {"init": init} if init else {}
    experiment |= {"connections": used.entries} if used.entries else {}
    experiment["variants"] = "all"
    experiment["datasets"] = [_dataset(name, found, rows)]
    proposal.documents = documents(experiment)
    proposal.texts[rows.target] = datasets.as_jsonl(rows.rows)
    proposal.texts[Path(SAMPLE_REQUEST)] = sample_request(interface, rows)
    proposal.lines = {ENV_EXAMPLE: used.lines} if used.lines else {}
    proposal.requirements = source.requirements(flow)
    proposal.questions = rows.mapped.questions
    proposal.notes += [*placed.notes, *found.notes, *rows.mapped.notes, *used.notes, *told]
    proposal.notes += _edit(found, rows.target)
    return proposal


def _data(interface: Interface, data: Path | None) -> tuple[datasets.Found, list[Left]]:
    """The dataset, unless it holds what must not come along: then one row, and why."""
    found = datasets.find(interface, data)
    if found.path is None:
        return found, []
    copies, left = source.one(found.path.resolve(), Path(found.path.name))
    if copies:
        return found, []
    if data is not None and left:
        raise UserError(f"{data}: {left[0].reason}. Take that out, or name another file.")
    return datasets.made_up(interface), left


def documents(experiment: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """The experiment with its small overlays for pull requests and production."""
    return {
        Path(EXPERIMENT): experiment,
        Path("experiment.pr.yaml"): {},
        Path("experiment.prod.yaml"): {"variants": "default"},
    }


def sample_request(interface: Interface, data: Data) -> str:
    """The first row as a request: the flow's inputs that it needs or that the data gives it."""
    row = data.rows[0] if data.rows else {}
    request: dict[str, Any] = {}
    for name, value in data.mapped.mappings.items():
        request[name] = _value(interface, name, value, row)
    for name in interface.required:
        request.setdefault(name, datasets.placeholder(interface.inputs[name]))
    return json.dumps(request, indent=2, ensure_ascii=False) + "\n"


def _value(interface: Interface, name: str, value: Any, row: dict[str, Any]) -> Any:
    column = datasets.COLUMN.match(str(value))
    if column:
        return row.get(column[1])
    open_ = str(value).startswith(UNDECIDED)
    return datasets.placeholder(interface.inputs[name]) if open_ else value


def _rows(proposal: Proposal, interface: Interface, placed: Placed, found: datasets.Found) -> Data:
    """The rows with images that resolve in the repo, and their mappings."""
    flow = interface.flow
    place = Place(("datasets", 0, "mappings"), placed.reference)
    mapped = mappings.standard(_unmapped(interface, found), found.columns, place)
    mapped.mappings = {**found.mappings, **mapped.mappings}
    beside = (found.path.resolve().parent, flow.folder) if found.path else (flow.folder,)
    moved = images.Moved(flow.folder, beside)
    pictures = frozenset(_picture_columns(interface, mapped))
    rows = [moved.row(row, pictures) for row in found.rows]
    copies: list[Copied] = []
    for target, path in moved.extra.items():
        more, left = source.one(path, placed.folder / target)
        copies += more
        proposal.left += left
    proposal.copies += copies
    proposal.left += moved.left.values()
    return Data(rows, mapped, Path("data") / f"{proposal.name}.jsonl", copies)


def _unmapped(interface: Interface, found: datasets.Found) -> dict[str, Any]:
    """The inputs that the run file does not map; those of a made-up row have their column."""
    return {n: given for n, given in interface.inputs.items() if n not in found.mappings}


def _picture_columns(interface: Interface, mapped: Mapped) -> Iterator[str]:
    for name, value in mapped.mappings.items():
        given, column = interface.inputs.get(name), datasets.COLUMN.match(str(value))
        if given and given.type == "image" and column:
            yield column[1]


def _dataset(name: str, found: datasets.Found, data: Data) -> dict[str, Any]:
    taken = found.path.name if found.path else ""
    return {
        "name": name,
        "source": data.target.as_posix(),
        "description": f"From {taken}." if taken else "One row of the flow's defaults. Add yours.",
        "mappings": data.mapped.mappings,
    }


def _passed_over(flow: flows.Flow, found: datasets.Found) -> list[str]:
    """The dataset's own file, which goes to data/, unless the flow reads it by itself."""
    path = found.path.resolve() if found.path else None
    if path is None or not path.is_relative_to(flow.folder) or source.mentions(flow, path.name):
        return []
    return [path.relative_to(flow.folder).as_posix()]


def _edit(found: datasets.Found, target: Path) -> Iterator[str]:
    if found.path is None:
        yield f"Put your own rows into {target.as_posix()} before you trust a figure."
