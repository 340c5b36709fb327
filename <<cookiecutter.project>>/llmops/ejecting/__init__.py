"""`make eject`: a flow of prompt flow becomes a Python module that a person can go on with.

FLOW is a DAG, a flex flow or a prompty. Its new folder stands beside it; the flow itself stays as
it is, and so does experiment.yaml: what to change there is printed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from llmops import config, flows
from llmops.config import EXPERIMENT, Experiment
from llmops.ejecting import first_test, reading
from llmops.ejecting.beside import Ejected
from llmops.ejecting.formatting import formatted
from llmops.ejecting.names import plain, prefix
from llmops.ejecting.writer import Source
from llmops.errors import OK, UserError
from llmops.files import read_text
from llmops.flows import Flow
from llmops.onboarding import preview, writing
from llmops.onboarding.project import PROJECT, extended, parsed
from llmops.onboarding.proposal import Copied, Proposal
from llmops.settings import Settings

WRITERS = {"python": "python", "agent-framework": "agent_framework"}


def run(settings: Settings, root: Path = Path()) -> int:
    """Write the flow that FLOW names anew; PLAN=1 shows what would be written.

    Returns:
        0, also where functions are left to fill in: they are listed, and raise until then.

    Raises:
        UserError: there is no such flow, it cannot be read, or files that are there already would
            be replaced and YES=1 is not set.
    """
    source, experiment = reading.source(settings.env, settings.flow, WRITERS[settings.to], root)
    ejected = eject(source, settings.to)
    proposal, planned = _planned(source, ejected, root)
    print(preview.text(proposal, planned))
    replaced = [str(file.target) for file in planned if file.state == "replace"]
    if replaced and not (settings.plan or settings.yes):
        raise UserError(
            f"Nothing was written. {', '.join(replaced)} would be replaced: YES=1 says yes."
        )
    if not settings.plan:
        writing.write(planned, root)
    print("\n".join(_told(source, ejected, experiment, root)))
    return OK


def eject(source: Source, to: str = "python") -> Ejected:
    """The new files of a flow; raises UserError where its files cannot be read."""
    kind = source.flow.kind if to == "python" or source.flow.kind != "dag" else ""
    name = {"dag": "python", "": WRITERS[to]}.get(kind, kind)
    ejected: Ejected = importlib.import_module(f"llmops.ejecting.{name}").write(source)
    return ejected


def _planned(
    source: Source, ejected: Ejected, root: Path
) -> tuple[Proposal, list[writing.Planned]]:
    """The files with their places in the repo; code of another style keeps it."""
    keeps, test = (
        _keeps_style(source.flow.folder, root),
        Path("tests", f"test_{source.target.name}.py"),
    )
    texts = {test: first_test.text(source, ejected)}
    proposal = Proposal(source.target.name, f"{source.flow.path} without prompt flow")
    for name, content in ejected.files.items():
        place = source.target / name
        if isinstance(content, Path) and place.suffix != ".py":
            proposal.copies.append(Copied(content, place))
        else:
            texts[place] = content if isinstance(content, str) else read_text(content)
    own = {place for place in texts if place.is_relative_to(source.target)}
    as_is = (
        {p for p in own if p.relative_to(source.target).as_posix() not in ejected.written}
        if keeps
        else set()
    )
    proposal.texts |= {
        **texts,
        **formatted({p: t for p, t in texts.items() if p not in as_is}, root),
    }
    proposal.notes.extend(ejected.notes)
    planned = writing.plan(proposal, root)
    if as_is:
        there = read_text(root / PROJECT)
        text = extended(there, (), {place.as_posix() for place in as_is})
        planned.append(writing.Planned(PROJECT, text, "same" if text == there else "add"))
    return proposal, planned


def _keeps_style(folder: Path, root: Path) -> bool:
    """Whether ruff leaves the flow alone, which came with a style of its own."""
    project = parsed(read_text(root / PROJECT)) if (root / PROJECT).is_file() else {}
    alone = project.get("tool", {}).get("ruff", {}).get("extend-exclude", ())
    return any(folder.resolve().is_relative_to((root / str(path)).resolve()) for path in alone)


def _told(source: Source, ejected: Ejected, experiment: Experiment, root: Path) -> Iterator[str]:
    """What is left to do: functions to fill in, and the lines of experiment.yaml."""
    if ejected.left:
        yield "to fill in (each raises NotImplementedError until then):"
        yield from (f"  {line}" for line in ejected.left)
        yield ""
    yield f"To use it, change in {EXPERIMENT}:"
    yield from (f"  {line}" for line in _changes(source, ejected, experiment, root))
    if read := _variables(source, ejected):
        yield f"It reads from the environment, or from .env: {', '.join(read)}."
    yield f"Then `make validate`, `make try` and `make test`; {source.flow.path} stays as it is."


def _changes(source: Source, ejected: Ejected, experiment: Experiment, root: Path) -> Iterator[str]:
    target = f"{source.target.as_posix()}{ejected.entry}"
    named = [e for e in experiment.evaluators if flows.means(e.flow, source.flow, root)]
    yield from (f"evaluators: {e.name}: flow: {target}" for e in named)
    if not named or flows.means(experiment.flow, source.flow, root):
        yield f"flow: {target}"
        if experiment.init:
            yield "init: (take it out: its values stand in the new code)"
        if ejected.variants:
            yield "variants: default"
            yield "parameters:"
        for parameter, names in ejected.variants.items():
            yield f"  {parameter}: [{', '.join(names)}]"
        yield from _chosen(source, ejected, root)
    folder = Path(source.target.parent, source.flow.folder.name).as_posix()
    overlays = sorted(root.glob("experiment.*.yaml"))
    if also := [path.name for path in overlays if folder in read_text(path)]:
        yield f"and the same in {', '.join(also)}"


def _chosen(source: Source, ejected: Ejected, root: Path) -> Iterator[str]:
    """The same of each experiment.<env>.yaml that says itself which variants run."""
    for path in sorted(root.glob("experiment.*.yaml")) if ejected.variants else ():
        try:
            experiment = config.load(path.name.split(".")[1], root)
        except UserError:
            continue  # `make validate` says what is wrong there
        if experiment.file("variants") == path.name:
            yield f"and in {path.name} instead of its variants:"
            yield "  variants: default"
            yield "  parameters:"
            for parameter, names in _selected(source.flow, experiment.variants, ejected).items():
                yield f"    {parameter}: [{', '.join(names)}]"


def _selected(
    flow: Flow, selection: Collection[str], ejected: Ejected
) -> dict[str, tuple[str, ...]]:
    """What of each parameter's values a selection of variants means."""
    if {"all", "combinations"} & {*selection}:
        return dict(ejected.variants)
    chosen = {
        f"{plain(node).lower()}_variant": tuple(n for n in names if f"{node}.{n}" in selection)
        for node, names in flow.variants.items()
    }
    return {p: chosen.get(p.rstrip("_")) or names[:1] for p, names in ejected.variants.items()}


def _variables(source: Source, ejected: Ejected) -> list[str]:
    """The variables of the connections that the new files read."""
    texts = "\n".join(text for text in ejected.files.values() if isinstance(text, str))
    named = set(re.findall(r'os\.environ(?:\.get\(|\[)"(\w+)"', texts))
    starts = {prefix(name) for name in source.connections}
    objects = {s for s in starts if f'from_environment("{s}")' in texts}
    return sorted(named) + [f"{start}_*" for start in sorted(objects)]
