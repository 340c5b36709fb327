"""The short stages: each reads what the stage before it wrote."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from llmops import config, experiment, flows, summary
from llmops import report as reports
from llmops.answers import FOLDER, Answers, environment
from llmops.connections import Connection
from llmops.errors import FAILED, OK, UserError
from llmops.flows import Flow
from llmops.plan import Cell
from llmops.recordings import RECORDED
from llmops.report.words import TIMES
from llmops.running import stopping
from llmops.running.engine import Worker
from llmops.running.pipeline import LOGS
from llmops.settings import Settings
from llmops.validate import Checked
from llmops.verdict import baseline, judges
from llmops.verdict import gate as judge
from llmops.work import job


def validate(settings: Settings) -> int:
    """Check files, mappings and variants, import the flows, and show the plan; runs no row.

    Raises:
        UserError: every problem, one a line.
    """
    plan, checked = experiment.load(settings, settings.variants)
    found = [flow for flow in (checked.flow, *checked.evaluators.values()) if flow]
    stopping.run(_import_flows(found, Answers(plan, "replay").unreachable()))
    print(_preview(checked))
    return OK


def report(settings: Settings) -> int:
    """Write the report of the last experiment again; raises UserError where there is none."""
    last = _last()
    print(f"report: {reports.write(last)}")
    return OK


def gate(settings: Settings) -> int:
    """Judge the last experiment's scores by experiment.yaml as it is now; 2 where that stops it.

    Raises:
        UserError: there is no experiment, or a check names what no evaluator gave.
    """
    last = _last()
    rules = config.load(last.env)
    again = judges.judged_again(baseline.judged_again(last, rules), rules)
    judged = judge.judged(again, rules)
    summary.save(judged)
    reports.write(judged)
    print("\n".join(judge.lines(judged.gate, judged.gate.checks)))
    return FAILED if judged.gate.stops else OK


def record(settings: Settings) -> int:
    """Run the experiment against the endpoints and keep their answers; as `experiment.run`.

    Without any recorded answers every row runs again: the last run's answers were not kept.
    """
    fresh = settings.fresh or not (FOLDER / RECORDED).exists()
    return experiment.run(replace(settings, llm="record", fresh=fresh))


def doctor(settings: Settings) -> int:
    """Say what is configured, what is missing and what answers; 1 if no run would start."""
    from llmops import doctor as health

    text, code = health.report(settings, Path())
    print(text)
    return code


def _last() -> summary.Summary:
    """The last experiment, whose rows are there for the report."""
    last = summary.load()
    for run in last.runs or last.evaluations:
        if not Path(run.outputs).is_file():
            raise UserError(f"{run.outputs}: not found. Run `make experiment` first.")
    return last


def _preview(checked: Checked) -> str:
    count = len(checked.cells)
    lines = [f"{count} cell{'s' if count > 1 else ''}:"] if checked.cells else []
    calls, repeats = 0, checked.repeats
    times = f" {TIMES} {repeats} repeats" if repeats > 1 else ""
    for cell in checked.cells:
        rows = len(checked.tables[cell.dataset.source])
        calls += rows * repeats * _model_calls(cell)
        lines.append(f"  {cell.variant.name} over {cell.dataset.name}: {rows} rows{times}")
    lines.append(f"evaluators: {', '.join(checked.evaluators) or 'none'}")
    if calls:
        lines.append(
            f"about {calls} model calls (LLM nodes times rows{times and ' times repeats'}), "
            "less what is stored already"
        )
    return "\n".join([*lines, "experiment.yaml is valid."])


def _model_calls(cell: Cell) -> int:
    return sum(node.get("type") == "llm" for node in cell.variant.definition.get("nodes", []))


async def _import_flows(found: list[Flow], connections: dict[str, Connection]) -> None:
    variables = environment(connections)
    workers = [Worker(flow.folder, variables, LOGS / "validate.log") for flow in found]
    try:
        jobs = [job("default", flow, flows.overlay(flow, {}, {}), connections) for flow in found]
        pairs = zip(workers, jobs, strict=True)
        results = await asyncio.gather(*(w.load(j) for w, j in pairs), return_exceptions=True)
    finally:
        for worker in workers:
            await worker.close()
    problems = [str(result) for result in results if isinstance(result, UserError)]
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    for result in results:
        if isinstance(result, BaseException):
            raise result
