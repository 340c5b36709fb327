"""`make monitor`: score a production log, judge it, and compare it with what was registered.

With KIND=local the log is what the router of an endpoint on this machine wrote down.
"""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llmops import config, registration, summary, validate
from llmops import experiment as experiments
from llmops.config import Experiment
from llmops.data import Table, complete_mappings
from llmops.errors import OK, UserError
from llmops.files import slug, write_atomically
from llmops.monitoring import drift, online, online_figures
from llmops.monitoring.drift import Drift
from llmops.monitoring.online_figures import Online
from llmops.monitoring.streams import Seen
from llmops.package import file_hash
from llmops.plan import DEFAULT
from llmops.registration import REGISTRATION, Registration
from llmops.report.inert import code, text
from llmops.runs import ADDRESS, STORE
from llmops.settings import Settings
from llmops.summary import Check, Model, Score
from llmops.validate import Checked

DEFAULT_ENV = "postprod"
MONITOR = Path("reports/monitor.json")
PAGE = MONITOR.with_suffix(".md")
SAMPLED = STORE / "sampled"
SEED = 20260420
AZURE = "azureml:"
COLUMNS = ("what", "registered", "log", "distance", "drift")
NOTHING_SHARED = "the log shares no {what} with what was registered ({known})."


class Log(Model):
    """A log that was scored: `rows` of the `of` rows at `path`, a file or an address in Azure."""

    dataset: str
    path: str
    rows: int
    of: int


class Monitor(Model):
    """`reports/monitor.json`: the gate's verdict over a log, and its drift since registration.

    `registered` is the model as `name:version`, empty where nothing is registered. `notes` say what
    could not be compared, and why. Scores and intervals are in reports/summary.json. `online` is
    there with KIND=local.
    """

    experiment: str
    env: str
    checked_at: str
    gate: Literal["pass", "fail", "inconclusive", "off"] = "off"
    logs: tuple[Log, ...] = ()
    registered: str = ""
    drift: tuple[Drift, ...] = ()
    notes: tuple[str, ...] = ()
    online: Online | None = None


@dataclass(frozen=True)
class _Loaded:
    experiment: Experiment
    checked: Checked
    logs: tuple[Log, ...]
    sources: tuple[str, ...]

    @property
    def tables(self) -> list[Table]:
        """The rows that are scored, a table a log."""
        return [self.checked.tables[source] for source in self.sources]

    @property
    def first(self) -> _Loaded:
        """The same without the other logs."""
        return replace(self, logs=self.logs[:1], sources=self.sources[:1])


def run(settings: Settings) -> int:
    """Score the log of ENV's overlay (or LOG; SAMPLE=n rows of it), report, judge and compare.

    With KIND=local it is what the endpoint on this machine answered, deployment by deployment.

    Returns:
        0, or 2 where rows failed or the gate failed. Drift alone fails nothing, nor does traffic.

    Raises:
        UserError: as `make experiment` does; ENV runs the flow and scores no log; LOG is no file,
            or Azure has no collected data there; KIND=local, and no endpoint was asked anything.
    """
    if settings.kind != online.KIND:
        return _score(settings, _load(settings, config.load(settings.env)))
    return answered(settings, online.read(settings))


def answered(settings: Settings, seen: Seen) -> int:
    """Score and report what an endpoint answered, deployment by deployment; as `run` otherwise."""
    settings = replace(settings, log="", since=None)
    overlay = Path(f"experiment.{settings.env}.yaml")
    if seen.tables and overlay.is_file():
        return _score(settings, _load(settings, config.load(settings.env), seen), seen)
    missing = [f"no answer is scored: there is no {overlay}."] if seen.tables else []
    figures = online_figures.figures(seen, None, None)
    result = Monitor(
        experiment=config.load().name,
        env=settings.env,
        checked_at=_now(),
        notes=(*missing, *online_figures.notes(seen)),
        online=figures,
    )
    _tell(result, ())
    return OK


def _score(settings: Settings, loaded: _Loaded, seen: Seen | None = None) -> int:
    known = registration.load() if REGISTRATION.exists() else None
    code = experiments.run(settings, lambda *_: (loaded.experiment, loaded.checked))
    last = summary.load()
    # The deployments answer requests of one kind: that with the most of them stands for all.
    compared = loaded.first if seen else loaded
    names = {log.dataset for log in compared.logs}
    scores = [score for score in last.scores if score.dataset in names]
    found, notes = _compare(known, scores, compared) if known else ([], [_not_registered()])
    if seen and known and len(loaded.logs) > 1:
        notes.append(f"drift is that of {loaded.logs[0].dataset}, which has the most requests.")
    result = Monitor(
        experiment=last.experiment,
        env=last.env,
        checked_at=_now(),
        gate=last.gate.verdict,
        logs=loaded.logs,
        registered=f"{known.model.name}:{known.model.version}" if known else "",
        drift=tuple(found),
        notes=(*(online_figures.notes(seen) if seen else ()), *notes),
        online=online_figures.figures(seen, last, loaded.experiment) if seen else None,
    )
    _tell(result, last.gate.checks)
    return code


def load() -> Monitor:
    """The last report; raises OSError and ValueError."""
    return Monitor.model_validate_json(MONITOR.read_bytes())


def sample(table: Table, count: int) -> Path:
    """The file of `count` rows of a table, in their order; the same ones for the same rows.

    It is the table's own file where that has no more rows.
    """
    if count >= len(table):
        return table.path
    chosen = sorted(random.Random(SEED).sample(range(len(table)), count))
    path = SAMPLED / f"{slug(table.path.stem)}-{count}-{table.digest[:ADDRESS]}.jsonl"
    with write_atomically(path) as file:
        file.writelines(json.dumps(table[row]) + "\n" for row in chosen)
    return path


def _load(settings: Settings, experiment: Experiment, seen: Seen | None = None) -> _Loaded:
    """The overlay's experiment over the rows to score."""
    if experiment.datasets or not experiment.evaluators:
        raise UserError(
            f"ENV: '{settings.env}' is not an environment that scores a log: its overlay needs "
            "`datasets: []` and an evaluator whose dataset is the log (as experiment.postprod.yaml)"
            f". Run `make monitor ENV={DEFAULT_ENV}`."
        )
    if seen:
        experiment = online.over(experiment, seen)
    names = {str(d.source): d.name for e in experiment.evaluators for d in e.datasets}
    if settings.log:
        _check_log(settings, names)
    named = {source: settings.log or source for source in names}
    whole = {source: _local(path, settings) for source, path in named.items()}
    scored = whole
    if settings.sample is not None:
        count = settings.sample
        scored = {source: sample(Table(path), count) for source, path in whole.items()}
    experiment = experiments.limited(_over(experiment, scored), settings)
    checked = validate.check(experiment, settings.variants)
    logs = tuple(
        Log(
            dataset=name,
            path=named[source],
            rows=len(checked.tables[str(scored[source])]),
            of=len(Table(whole[source])),
        )
        for source, name in names.items()
    )
    return _Loaded(experiment, checked, logs, tuple(map(str, scored.values())))


def _check_log(settings: Settings, named: Collection[str]) -> None:
    if len(named) > 1:
        raise UserError(
            f"LOG: experiment.{settings.env}.yaml names {len(named)} logs "
            f"({', '.join(sorted(named))}), and LOG can replace only one. Write the paths there."
        )
    if "://" in settings.log and not settings.log.startswith(AZURE):
        raise UserError(
            f"LOG: '{settings.log}' is neither a file of this machine nor an address that the task "
            "can read. Name the data store (azureml://datastores/<name>/paths/<path>), or download "
            "it and give its path."
        )
    if not settings.log.startswith(AZURE) and not Path(settings.log).is_file():
        raise UserError(f"LOG: '{settings.log}': no such file. Give the path of a .jsonl file.")


def _local(log: str, settings: Settings) -> Path:
    """The file of a log; one that lies in Azure is fetched."""
    if log.startswith(AZURE):
        from llmops.azure import collected

        return collected.fetch(log, settings.since)
    if settings.since:
        raise UserError(f"SINCE: '{log}' is a file; SINCE chooses among what Azure ML collected.")
    return Path(log)


def _over(experiment: Experiment, files: dict[str, Path]) -> Experiment:
    """The experiment with other files in place of the evaluators' sources."""
    evaluators = []
    for evaluator in experiment.evaluators:
        datasets = tuple(
            dataset.model_copy(update={"source": str(files[str(dataset.source)])})
            for dataset in evaluator.datasets
        )
        evaluators.append(evaluator.model_copy(update={"datasets": datasets}))
    return experiment.model_copy(update={"evaluators": tuple(evaluators)})


def _compare(
    known: Registration, scores: Sequence[Score], loaded: _Loaded
) -> tuple[list[Drift], list[str]]:
    found = list(_metrics(known.metrics, scores))
    notes = []
    if not found:
        names = f"registered: {', '.join(known.metrics) or 'none'}"
        notes.append(NOTHING_SHARED.format(what="metric", known=names))
    try:
        tables, inputs = _registered_inputs(known)
    except UserError as error:
        return found, [*notes, f"inputs are not compared: {error}"]
    notes += _changed(known, tables)
    for log, table in zip(loaded.logs, loaded.tables, strict=True):
        prefix = f"{log.dataset}." if len(loaded.logs) > 1 else ""
        columns = sorted(inputs & set(table.columns))
        if not columns:
            names = f"columns that the flow reads: {', '.join(sorted(inputs)) or 'none'}"
            notes.append(f"{log.dataset}: " + NOTHING_SHARED.format(what="column", known=names))
        for column in columns:
            before = [row.get(column) for each in tables.values() for row in each]
            one = drift.column(prefix + column, before, [row.get(column) for row in table])
            if one is not None:
                found.append(one)
            else:
                notes.append(f"{prefix}{column}: not compared: neither numbers, texts nor values.")
    return found, notes


def _metrics(registered: dict[str, float | None], scores: Sequence[Score]) -> Iterator[Drift]:
    """The log's metrics that the registered variant has under the same name, in any evaluator."""
    for score in scores:
        for name, value in registered.items():
            same = name == score.metric or name.endswith(f".{score.metric}")
            if same and value is not None and score.value is not None:
                yield drift.metric(name, value, score)


def _registered_inputs(known: Registration) -> tuple[dict[str, Table], set[str]]:
    """The standard flow's data in the registered environment, and the columns that it reads."""
    experiment, checked = validate.load(known.env, (DEFAULT,))
    needed = checked.flow.inputs if checked.flow else {}
    tables = {dataset.name: checked.tables[dataset.source] for dataset in experiment.datasets}
    mapped = {
        str(value)
        for dataset in experiment.datasets
        for value in complete_mappings(dataset.mappings, needed).values()
    }
    columns = {name for table in tables.values() for name in table.columns}
    return tables, {name for name in columns if f"${{data.{name}}}" in mapped}


def _changed(known: Registration, tables: dict[str, Table]) -> Iterator[str]:
    for asset in known.data:
        table = tables.get(asset.name)
        if table is not None and file_hash(table.path) != asset.content_hash:
            yield (
                f"{table.path} changed since it was registered as {asset.name}:{asset.version}; "
                "the log is compared with the file as it is now."
            )


def _not_registered() -> str:
    return f"drift is not measured: there is no {REGISTRATION}. `make register` writes it."


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _tell(result: Monitor, checks: Sequence[Check]) -> None:
    """Write and print it."""
    with write_atomically(MONITOR) as file:
        file.write(result.model_dump_json(indent=2) + "\n")
    with write_atomically(PAGE) as file:
        file.write("\n".join(_page(result, checks)) + "\n")
    print(_shown(result))


def _page(result: Monitor, checks: Sequence[Check]) -> Iterator[str]:
    yield from (f"# Monitor: {text(result.experiment)}, {text(result.env)}", "")
    yield f"- gate: {result.gate}"
    yield from (f"- log {code(log.dataset)}: {_rows(log)}" for log in result.logs)
    yield f"- registered: {code(result.registered) if result.registered else 'nothing'}"
    for check in checks:
        where = f"{code(check.dataset)}: " if result.online else ""
        yield f"- {check.verdict}: {where}{text(check.check)}: {text(check.message)}"
    if result.online:
        yield from online_figures.page(result.online)
    if result.drift:
        yield from ("", f"## Drift: {_verdict(result)}", "")
        yield from ("|" + "|".join(COLUMNS) + "|", "|" + "---|" * len(COLUMNS))
        for line in _lines(result):
            yield "|" + "|".join(text(part).replace("|", "\\|") for part in line) + "|"
        yield ""
        yield from (f"- {code(one.name)}: {text(one.text, 500)}" for one in result.drift)
    if result.notes:
        yield from ("", "## Notes", "", *(f"- {text(note, 500)}" for note in result.notes))


def _rows(log: Log) -> str:
    part = f"{log.rows} of {log.of}" if log.rows < log.of else f"{log.rows}"
    return f"{part} rows of {code(log.path)}"


def _lines(result: Monitor) -> list[tuple[str, ...]]:
    return [
        (one.name, one.registered, one.log, f"{one.distance:.2f} {one.measure}", one.level)
        for one in result.drift
    ]


def _verdict(result: Monitor) -> str:
    """The worst level and what has it."""
    worst = max((one.level for one in result.drift), key=drift.LEVELS.index)
    names = [one.name for one in result.drift if one.level == worst]
    return "none" if worst == "none" else f"{worst} in {', '.join(names)}"


def _shown(result: Monitor) -> str:
    """What the task prints below the report's own table."""
    from tabulate import tabulate

    lines = list(online_figures.shown(result.online)) if result.online else []
    if result.drift:
        lines += [tabulate(_lines(result), headers=COLUMNS, disable_numparse=True)]
        lines += [f"{one.name}: {one.text}" for one in result.drift if one.level != "none"]
        lines += [f"drift since {result.registered}: {_verdict(result)}"]
    return "\n".join([*lines, *result.notes, f"monitor: {PAGE}"])
