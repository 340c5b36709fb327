"""What is registered and whether it may be: the refusals, the tags, and the manifest.

No SDK is known here; `llmops.azure.register` carries it out.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmops import experiment as experiments
from llmops import flows, origin, summary, work
from llmops.answers import FOLDER
from llmops.assets import Asset, Source, check_names, sources
from llmops.config import Experiment
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.indexing import upkeep
from llmops.plan import DEFAULT, Variant
from llmops.running import execution
from llmops.settings import Settings
from llmops.summary import SUMMARY, Gate, Index, Model, Summary
from llmops.validate import Checked
from llmops.work import Work

REGISTRATION = Path("reports/registration.json")
NO_REASON = {"0", "1", "true", "false", "yes", "no"}
MOST_TAGS = 15
NAMED_FILES = 3


class Registration(Model):
    """`reports/registration.json`: what stands in the workspace for the last experiment.

    `flow` is the file (and function) that says what the packed flow is. `metrics` are those of the
    variant, by evaluator and metric. `forced` is the reason given where the gate stopped it. `run`
    is the hash that an approval is about, see `llmops.verdict.approval`. `judges` says of which
    scores it is not known, or not so, that a judge gives them as people do. `index` is the index
    over documents that the flow searches: among its files, or in the search service that it names.
    """

    experiment: str
    env: str
    model: Asset
    data: tuple[Asset, ...]
    flow: str
    variant: str
    commit: str
    gate: str
    forced: str
    llm: str
    metrics: dict[str, float | None]
    registered_at: str
    run: str = ""
    judges: tuple[str, ...] = ()
    index: Index | None = None


@dataclass(frozen=True)
class Candidate:
    """What may be registered; `verdict` is the gate's, `forced` why that does not matter."""

    summary: Summary
    flow: Flow
    variant: Variant
    data: tuple[Source, ...]
    verdict: str
    forced: str
    commit: str

    @property
    def name(self) -> str:
        """The model's name."""
        return self.summary.experiment

    @property
    def flow_file(self) -> str:
        """What the packed flow is, as `llmops.flows.describe` wants it."""
        return self.flow.entry if self.flow.kind == "python" else self.flow.file

    @property
    def judges(self) -> tuple[str, ...]:
        """What stands against the judges of its metrics, a line each."""
        return tuple(
            f"{judge.evaluator}.{judge.score}: {judge.sentence}"
            for judge in self.summary.judges
            if judge.flagged
        )

    @property
    def metrics(self) -> dict[str, float | None]:
        """The variant's metrics; a dataset is named where there are several."""
        scores = [score for score in self.summary.scores if score.variant == self.variant.name]
        several = len({score.dataset for score in scores}) > 1
        return {
            f"{f'{s.dataset}.' if several else ''}{s.evaluator}.{s.metric}": s.value for s in scores
        }


def save(registration: Registration, path: Path = REGISTRATION) -> None:
    """Write the manifest; raises UserError where the folder cannot be written."""
    summary.save(registration, path)


def load() -> Registration:
    """Read the manifest that `make register` wrote.

    Raises:
        UserError: there is none, or it is not one of this version.
    """
    return summary.read(Registration, REGISTRATION, "register")


def candidate(settings: Settings) -> Candidate:
    """What the last experiment lets be registered; VARIANTS names one variant.

    Raises:
        UserError: there is no experiment, or it was one of another ENV; a name that Azure ML does
            not take; the gate stops it and FORCE gives no reason; rows failed; or the flow
            or the data changed since.
    """
    last = summary.load()
    if last.env != settings.env:
        raise UserError(
            f"ENV: '{settings.env}', but the last experiment was one of '{last.env}'. "
            f"Run `make register ENV={last.env}`, or `make experiment` first."
        )
    name = _chosen(last, settings.variants)
    _check_rows(last, name)
    gate = judged(last, name if settings.variants else None)
    reason = forced(gate, name, settings.force)
    experiment, checked = experiments.load(settings, (name.partition(" [")[0],))
    data = tuple(sources(experiment))
    check_names([last.experiment, *(source.name for source in data)])
    if checked.flow:
        upkeep.require(experiment, checked.flow)
    check_unchanged(last, name, experiment, checked)
    variant = next(cell.variant for cell in checked.cells if cell.variant.name == name)
    assert checked.flow is not None
    return Candidate(last, checked.flow, variant, data, gate.verdict, reason, origin.commit())


def tags(found: Candidate, content_hash: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The model's tags: where it comes from, what the gate said, and as many metrics as fit."""
    metrics = {n: f"{v:.6g}" for n, v in _gated_first(found).items() if v is not None}
    fixed = {
        "content_hash": content_hash,
        **origin.tags(found.summary.experiment, found.commit, environment),
        "flow": found.flow_file,
        "variant": found.variant.name,
        "llm": found.summary.llm.mode,
        **verdict_tags(found),
        **_index_tags(found.summary.index),
    }
    every = {**fixed, **{n: v for n, v in metrics.items() if n not in fixed}}
    return dict(list(origin.short(every).items())[:MOST_TAGS])


def _index_tags(index: Index | None) -> dict[str, str]:
    if index is None:
        return {}
    return {
        "index_version": index.version,
        "index_chunks": str(index.chunks),
        "embedding_model": index.model,
    }


def verdict_tags(found: Candidate) -> dict[str, str]:
    """What may change about a version whose content does not."""
    said = {"gate": found.verdict, "forced": found.forced, "judges": "; ".join(found.judges)}
    return origin.short(said)


def _gated_first(found: Candidate) -> dict[str, float | None]:
    judged = {f"{check.evaluator}.{check.metric}" for check in found.summary.gate.checks}
    metrics = found.metrics
    first = [name for name in metrics if any(name.endswith(known) for known in judged)]
    return {name: metrics[name] for name in dict.fromkeys((*first, *metrics))}


def _chosen(last: Summary, selection: Sequence[str]) -> str:
    names = list(dict.fromkeys(run.variant for run in last.runs))
    if not names:
        raise UserError(
            f"{SUMMARY}: the last experiment ran no flow, so there is none to register."
        )
    # A comma may be part of a variant's name, where a grid has several parameters.
    name = ", ".join(selection) or (names[0] if len(names) == 1 else DEFAULT)
    if name not in names:
        what = f"'{name}' is not a variant of" if selection else "unset, and several are in"
        raise UserError(
            f"VARIANTS: {what} the last experiment (expected one of {'; '.join(names)})."
        )
    return name


def _check_rows(last: Summary, name: str) -> None:
    for run in last.runs:
        if run.variant == name and run.failed:
            raise UserError(
                f"{SUMMARY}: variant '{name}': {run.failed} of {run.rows} rows of '{run.dataset}' "
                "failed. See the report, then run `make experiment` again."
            )


def judged(last: Summary, name: str | None) -> Gate:
    """The gate of the run, or that of one variant; a variant that it says nothing of fails."""
    if name is None or not last.gate.checks:
        return last.gate
    own = last.gate.of(name)
    return own if own.checks else own.model_copy(update={"verdict": "fail"})


def forced(gate: Gate, name: str, reason: str, done: str = "registered") -> str:
    """The reason to register all the same, or what else is `done`; empty where none is needed.

    Raises:
        UserError: one is needed, and there is none.
    """
    if not gate.stops:
        return ""
    if reason.lower() in NO_REASON:
        raise UserError(f"FORCE: '{reason}' is no reason. Write in words why, as FORCE=\"…\".")
    if not reason:
        raise UserError(
            f"{SUMMARY}: gate: {gate.verdict}, so '{name}' is not {done}. Improve it and run "
            "`make experiment`, choose a variant that passed (VARIANTS=…), or give a reason: "
            'FORCE="…".'
        )
    return reason


def check_unchanged(last: Summary, name: str, experiment: Experiment, checked: Checked) -> None:
    """The runs that the files would give now are those that the summary speaks of.

    Raises:
        UserError: they are not; says what changed.
    """
    then = Settings(target=last.target, llm=last.llm.mode)
    chosen = execution.choose(then, experiment)
    runs = [item for item in work.cells(checked, chosen.target) if item.variant == name]
    scored = work.evaluations(checked, experiment, chosen.target, runs)
    scored = [item for item in scored if item.variant == name]
    for kept, planned in ((last.runs, runs), (last.evaluations, scored)):
        ran = {item.outputs for item in kept if item.variant == name}
        changed = [item for item in planned if str(item.run.path) not in ran]
        if changed or len(ran) != len(planned):
            raise UserError(_what_changed(last, name, changed))
    _check_judges(last, name, work.labels(checked, experiment, chosen.here))


def _check_judges(last: Summary, name: str, labels: Sequence[Work]) -> None:
    """What the gate says of judges rests on their labelled rows too."""
    judged = {judge.outputs for judge in last.judges}
    changed = [item for item in labels if str(item.run.path) not in judged]
    if changed or len(judged) != len(labels):
        raise UserError(_what_changed(last, name, changed))


def _what_changed(last: Summary, name: str, changed: Sequence[Work]) -> str:
    start = datetime.datetime.fromisoformat(last.started_at).timestamp()
    files = [path for item in changed for _, path in flows.files(item.flow)]
    files += [item.table.path for item in changed]
    places = [f"{item.flow.folder} or {item.table.path}" for item in changed[:1]]
    if last.llm.mode == "replay":
        files += FOLDER.glob("*.jsonl")
        places += [f"{FOLDER}/"] if changed else []
    edited = sorted({str(path) for path in files if path.stat().st_mtime >= start})
    more = f" and {len(edited) - NAMED_FILES} more" if len(edited) > NAMED_FILES else ""
    which = f" (edited since: {', '.join(edited[:NAMED_FILES])}{more})" if edited else ""
    return (
        f"{SUMMARY}: the figures of '{name}' are not those of the files as they are now: "
        f"{' or '.join(['experiment.yaml', *places])} changed since{which}. "
        "Run `make experiment` first."
    )
