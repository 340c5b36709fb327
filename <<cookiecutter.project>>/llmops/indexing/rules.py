"""What is wrong with the block `index` of experiment.yaml, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmops.config import Experiment
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.indexing import documents, manifest


def problems(experiment: Experiment, flow: Flow | None, root: Path = Path()) -> Iterator[str]:
    """Every problem as a sentence with its key; none where there is no index."""
    if (block := experiment.index) is None:
        return
    where = f"{experiment.file('index')}: index"
    known = {connection.name for connection in experiment.connections}
    if block.connection not in known:
        choices = ", ".join(sorted(known)) or "none"
        yield f"{where}.connection: '{block.connection}' (expected one of {choices})."
    try:
        documents.listed(root / block.documents)
    except UserError as error:
        yield from (f"{where}.documents: {line}" for line in str(error).splitlines())
    if flow is not None:
        yield from _folder(where, experiment, flow, root)


def _folder(where: str, experiment: Experiment, flow: Flow, root: Path) -> Iterator[str]:
    place = manifest.place(experiment, flow, root)
    assert place is not None
    folder, own = place.folder.resolve(), flow.folder.resolve()
    if folder == own or not folder.is_relative_to(own):
        yield (
            f"{where}.folder: '{place.block.folder}' is not below {flow.folder}: the index would "
            f"not go along with the flow. Write {flow.folder / 'index'}, or leave it out."
        )
    elif folder.is_relative_to(place.documents.resolve()):
        yield f"{where}.folder: lies among the documents ({place.block.documents}). Choose another."
    else:
        try:
            manifest.check_replaceable(place.folder)
        except UserError as error:
            yield f"{where}.folder: {error}"
