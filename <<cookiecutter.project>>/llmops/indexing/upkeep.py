"""What the tasks do with an index: build it, bring it up to date, or refuse one that is not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from llmops import flows, summary, validate
from llmops.answers import Answers
from llmops.config import Experiment
from llmops.errors import OK, UserError
from llmops.flows import Flow
from llmops.indexing import build, documents, manifest, service
from llmops.indexing.documents import Document
from llmops.indexing.manifest import Manifest, Origin, Place
from llmops.settings import Settings

State = Literal["missing", "stale", "current"]
SHOWN = 3


def run(settings: Settings) -> int:
    """Build the index of experiment.yaml where it is not up to date (FRESH=1: in any case).

    Returns:
        0. Raises UserError where experiment.yaml has no index, and as `build.build` does.
    """
    experiment, checked = validate.load(settings.env, settings.variants)
    if experiment.index is None:
        raise UserError(
            "experiment.yaml: index: missing, so there are no documents to index. Add it with "
            "documents (a folder), connection and model (that embeds)."
        )
    flow = checked.flow or flows.describe(experiment.flow or experiment.name)
    answers = Answers(experiment, settings.llm)
    print(f"llm: {answers.mode}. {answers.note}", flush=True)
    place = manifest.place(experiment, flow)
    assert place is not None
    files = documents.found(place.documents)
    _say_what_is_passed_over(place, files)
    made = _upkeep(place, files, experiment, answers, settings)
    found = made or manifest.read(place.folder)
    assert found is not None
    if made is None:
        print(build.Built(found, 0, place.folder).line)
    if settings.prune:
        for line in service.prune(place, found, experiment.name, sure=settings.yes):
            print(line, flush=True)
    return OK


def refresh(
    experiment: Experiment,
    flow: Flow | None,
    settings: Settings,
    root: Path = Path(),
    older: Sequence[Path] = (),
) -> summary.Index | None:
    """Bring the index that a flow searches up to date; null where it has none.

    `root` is the folder of the use case, `older` are folders of other indexes whose vectors may be
    used. Prints a line where something was embedded.

    Raises:
        UserError: as `build.build`.
    """
    place = manifest.place(experiment, flow, root) if flow else None
    if place is None:
        return None
    answers = Answers(experiment, settings.llm, root)
    files = documents.found(place.documents)
    made = _upkeep(place, files, experiment, answers, settings, older)
    made = made or manifest.read(place.folder)
    return made.summary() if made else None


def state(place: Place, files: Sequence[Document], origin: Origin | None = None) -> State:
    """Whether the index is there and of these documents and the settings as they are now.

    `origin` is where its vectors must come from; by default either will do.

    Raises:
        UserError: the service that holds the index cannot be read.
    """
    made = manifest.read(place.folder)
    if made is None or not manifest.complete(place.folder, made):
        return "missing"
    if made.version != manifest.version(place.block, origin or made.embedding.origin, files):
        return "stale"
    return "stale" if made.search and service.problem(made) else "current"


def require(experiment: Experiment, flow: Flow, root: Path = Path()) -> None:
    """Raise UserError where the flow's index is missing or stale; nothing where it has none."""
    place = manifest.place(experiment, flow, root)
    if place and (found := state(place, documents.found(place.documents))) != "current":
        why = {"missing": "there is no index", "stale": "the index is not of the documents as they"}
        what = why[found] + (" are now" if found == "stale" else "")
        raise UserError(f"{place.folder}: {what}. Run `make index`.")


def _upkeep(
    place: Place,
    files: Sequence[Document],
    experiment: Experiment,
    answers: Answers,
    settings: Settings,
    older: Sequence[Path] = (),
) -> Manifest | None:
    """The manifest of what was built; null where nothing had to be.

    Record mode embeds all again: the recordings must hold every passage.
    """
    fresh = settings.fresh or answers.mode == "record"
    if not fresh and state(place, files, build.ORIGINS[answers.mode]) == "current":
        return None
    made = build.build(place, answers, experiment.limits, older, fresh=fresh)
    print(made.line, flush=True)
    return made.manifest


def _say_what_is_passed_over(place: Place, files: Sequence[Document]) -> None:
    if names := documents.passed_over(place.documents):
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        known = ", ".join(documents.SUFFIXES)
        print(f"not read: {', '.join(names[:SHOWN])}{more} (documents are {known})", flush=True)
    twice = [one for one in files if one.same_as]
    for one in twice[:SHOWN]:
        print(f"not read: {one.source} has the same content as {one.same_as}", flush=True)
