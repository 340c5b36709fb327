"""The version to compare with: a commit's files beside the working tree's, and what both share."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmops import flows
from llmops.config import Evaluator, Experiment
from llmops.data import Table, complete_mappings
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.summary import Base
from llmops.validate import Checked, reference_of, source_of

ENVIRONMENT = Path(".env")
SHORT = 7
NAMED_FILES = 3


@dataclass(frozen=True)
class Version:
    """A commit: the name that the user gave it, its hash, and the use case's folder as it was."""

    ref: str
    commit: str
    folder: Path


@dataclass(frozen=True)
class Side:
    """An experiment as one of the two versions has it."""

    experiment: Experiment
    checked: Checked


@contextmanager
def checked_out(ref: str) -> Iterator[Version]:
    """The files of a commit in a folder that is gone afterwards.

    They are taken out of the archive that git makes of the commit: a worktree would stay behind in
    .git where the task is killed. `.env` is no part of any commit and counts for both versions.

    Raises:
        UserError: BASE is unset or names no commit, or this is no git repository.
    """
    if not ref:
        raise UserError("BASE: unset. Name the version to compare with: `make compare BASE=main`.")
    prefix = _git("rev-parse", "--show-prefix", trouble="this folder is in no git repository")
    commit = _git(
        *("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"),
        trouble=f"'{ref}' names no commit. A new repo has none yet; CI needs fetch-depth: 0",
    ).decode()
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        _extract(commit.strip(), Path(folder))
        place = Path(folder) / prefix.decode().strip()
        if ENVIRONMENT.exists() and place.is_dir() and not (place / ENVIRONMENT).exists():
            (place / ENVIRONMENT).symlink_to(ENVIRONMENT.resolve())
        yield Version(ref, commit[:SHORT], place)


def comparable(measured: Base, ours: Side, theirs: Side) -> Base:
    """What the base has measured, without what cannot be compared; the reasons are told."""
    data = {name: why for name in _datasets(ours) if (why := _other_data(name, ours, theirs))}
    measures = {
        (evaluator.name, dataset): why
        for evaluator in ours.experiment.evaluators
        for dataset, why in _other_measures(evaluator, ours, theirs)
    }
    variants = {cell.variant.name for cell in ours.checked.cells}
    known = {cell.variant.name for cell in theirs.checked.cells}
    new = [f"variant '{name}' is not in {measured.ref}." for name in sorted(variants - known)]
    reasons = [*data.values(), *measures.values(), *(new if known else ())]
    return measured.model_copy(
        update={
            "runs": tuple(run for run in measured.runs if run.dataset not in data),
            "evaluations": tuple(
                one
                for one in measured.evaluations
                if one.dataset not in data and (one.evaluator, one.dataset) not in measures
            ),
            "not_comparable": tuple(dict.fromkeys(reasons)),
        }
    )


def _datasets(side: Side) -> dict[str, str]:
    """The files of the standard flow's datasets."""
    return {dataset.name: dataset.source for dataset in side.experiment.datasets}


def _other_data(name: str, ours: Side, theirs: Side) -> str:
    """Why runs over a dataset cannot be compared, or nothing."""
    if (before := _datasets(theirs).get(name)) is None:
        return f"dataset '{name}' is new."
    after = _datasets(ours)[name]
    return _other_rows(f"dataset '{name}'", ours.checked.tables[after], theirs, before)


def _other_rows(what: str, table: Table, theirs: Side, source: str) -> str:
    before = theirs.checked.tables[source]
    if before.digest == table.digest:
        return ""
    return f"{what}: {table.path} differs ({len(table)} rows, before {len(before)})."


def _other_measures(evaluator: Evaluator, ours: Side, theirs: Side) -> Iterator[tuple[str, str]]:
    """The datasets whose scores cannot be compared, each with the reason."""
    what = f"evaluator '{evaluator.name}'"
    before = {one.name: one for one in theirs.experiment.evaluators}.get(evaluator.name)
    flow = ours.checked.evaluators[evaluator.name]
    changed = before and _changed(flow, theirs.checked.evaluators[evaluator.name])
    known = {dataset.name: dataset for dataset in before.datasets} if before else {}
    for dataset in evaluator.datasets:
        cell = reference_of(ours.experiment, dataset) or dataset.name
        then = known.get(dataset.name)
        table = ours.checked.tables[source_of(ours.experiment, dataset)]
        if before is None or then is None:
            yield cell, f"{what} is new{f' for {dataset.name}' if before else ''}."
        elif changed:
            yield cell, f"{what}: {changed}."
        elif _mapped(flow, dataset.mappings) != _mapped(flow, then.mappings):
            yield cell, f"{what}: its mappings for '{dataset.name}' differ."
        elif why := _other_rows(what, table, theirs, source_of(theirs.experiment, then)):
            yield cell, why


def _mapped(flow: Flow, mappings: dict[str, object]) -> dict[str, object]:
    return complete_mappings(mappings, flow.inputs)


def _changed(after: Flow, before: Flow) -> str:
    """What differs between two states of an evaluator's flow, or nothing."""
    digests = [flows.digest(flow, flows.overlay(flow, {}, {})) for flow in (after, before)]
    if digests[0] == digests[1]:
        return ""
    contents = [{name: path.read_bytes() for name, path in flows.files(f)} for f in (after, before)]
    names = sorted(contents[0].keys() | contents[1].keys())
    differ = [name for name in names if contents[0].get(name) != contents[1].get(name)]
    if not differ and after.init != before.init:
        differ = ["init"]
    more = f" and {len(differ) - NAMED_FILES} more" if len(differ) > NAMED_FILES else ""
    return f"{after.folder} differs ({', '.join(differ[:NAMED_FILES]) or after.file}{more})"


def _git(*command: str, trouble: str) -> bytes:
    try:
        done = subprocess.run(("git", *command), capture_output=True, check=True)
    except OSError as error:
        raise UserError(f"BASE: git cannot be run ({error.strerror}). Install it.") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"BASE: {trouble}.") from error
    return done.stdout


def _extract(commit: str, folder: Path) -> None:
    """The whole commit, because a flow may include files from beside the use case."""
    root = _git("rev-parse", "--show-toplevel", trouble="this folder is in no git repository")
    place = ("-C", root.decode().rstrip("\n"))
    if not _git(*place, "ls-tree", commit, trouble=f"git cannot read the commit {commit}"):
        return  # tarfile takes an archive of nothing for a broken one
    packed = _git(*place, "archive", commit, trouble=f"git cannot read the commit {commit}")
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="tar")
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"BASE: the files of {commit} cannot be written: {error}.") from error
