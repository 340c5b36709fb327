"""`make try`: one row through the flow, printed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from llmops import answers, config, flows, plan
from llmops.answers import Answers
from llmops.config import Experiment
from llmops.data import apply_mappings, complete_mappings
from llmops.errors import FAILED, OK, UserError
from llmops.experiment import load
from llmops.flows import Flow
from llmops.indexing import upkeep
from llmops.recordings import MISSING
from llmops.running import stopping
from llmops.running.engine import Worker, run_row
from llmops.running.pipeline import LOGS
from llmops.runs import Row
from llmops.settings import Settings
from llmops.validate import Checked
from llmops.work import job


def run(settings: Settings) -> int:
    """Run one row through the default variant, or those of VARIANTS, and print what came back.

    The row is the first of the first dataset, or INPUTS: `text="..." number=3`, or a JSON object.

    Returns:
        0, or 2 where the row failed. Raises UserError as `make experiment` does.
    """
    selection = settings.variants or (plan.DEFAULT,)
    experiment, checked = load(settings, selection)
    if checked.flow is None:
        raise UserError(
            f"ENV: '{settings.env}' has no datasets, so no flow to try. Choose another."
        )
    upkeep.refresh(experiment, checked.flow, settings)
    source = Answers(experiment, settings.llm)
    print(f"llm: {source.mode}. {source.note}", flush=True)
    inputs = _first(checked, experiment)
    if settings.inputs:
        inputs = _given(settings.inputs)
        _check(inputs, checked.flow, experiment)
    try:
        source.open()
        rows = stopping.run(_rows(checked, experiment, source, inputs))
    finally:
        source.close()
    for name, row in rows.items():
        _show(name, row, source)
    return FAILED if any(row.failed for row in rows.values()) else OK


def replayed(reference: str, inputs: dict[str, Any], root: Path = Path()) -> Row:
    """One row through any flow of the repo, its models' answers taken from recordings/.

    For tests: a row without a recording has an error with the code `recordings.MISSING`.

    Raises:
        UserError: there is no such flow, or experiment.yaml cannot be read.
    """
    flow = flows.describe(reference, root)
    experiment = config.load(folder=root)
    if experiment.index and _stands_for(experiment, flow, root):
        upkeep.refresh(experiment, flow, Settings(llm="replay"), root)
    source = Answers(experiment, "replay")
    try:
        source.open()
        return stopping.run(_one(flow, experiment, source, inputs))
    finally:
        source.close()


def _stands_for(experiment: Experiment, flow: Flow, root: Path) -> bool:
    """Whether a flow takes what the experiment's does, so that it searches the same documents."""
    own = flows.describe(experiment.flow or experiment.name, root)
    return own.inputs.keys() <= flow.inputs.keys()


async def _one(flow: Flow, experiment: Experiment, source: Answers, inputs: dict[str, Any]) -> Row:
    connections = source.connections()
    worker = Worker(flow.folder, answers.environment(connections), LOGS / "try.log")
    try:
        task = job(plan.DEFAULT, flow, flow.definition, connections, ())
        return await run_row(worker, task, 0, inputs, experiment.limits)
    finally:
        await worker.close()


def _check(inputs: dict[str, Any], flow: Flow, experiment: Experiment) -> None:
    known = ", ".join(flow.inputs)
    unknown = [name for name in inputs if name not in flow.inputs and not flow.more_inputs]
    if unknown:
        raise UserError(f"INPUTS: the flow has no input '{unknown[0]}' (its inputs: {known}).")
    given = {*inputs, *experiment.parameters}
    missing = [name for name, needed in flow.inputs.items() if needed and name not in given]
    if missing:
        raise UserError(f"INPUTS: the flow needs '{missing[0]}' (its inputs: {known}).")


def _given(text: str) -> dict[str, Any]:
    try:
        if text.lstrip().startswith("{"):
            record: dict[str, Any] = json.loads(text)
            return record
        pairs = [word.partition("=") for word in shlex.split(text)]
    except ValueError as error:
        raise UserError(
            f"INPUTS: cannot be read ({error}). Write INPUTS='text=\"...\"'."
        ) from error
    if any(not equals for _, equals, _ in pairs):
        raise UserError(
            "INPUTS: expected name=value pairs or a JSON object. Quote values with spaces."
        )
    return {name: _value(value) for name, _, value in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _first(checked: Checked, experiment: Experiment) -> dict[str, Any]:
    dataset = experiment.datasets[0]
    flow_inputs = checked.flow.inputs if checked.flow else {}
    mappings = complete_mappings(dataset.mappings, flow_inputs)
    mappings = {name: mappings[name] for name in mappings if name not in experiment.parameters}
    return apply_mappings(mappings, {"data": checked.tables[dataset.source][0]})


async def _rows(
    checked: Checked, experiment: Experiment, source: Answers, inputs: dict[str, Any]
) -> dict[str, Row]:
    flow = checked.flow
    if flow is None:
        return {}
    connections = source.connections()
    worker = Worker(flow.folder, answers.environment(connections), LOGS / "try.log")
    found = {}
    try:
        for variant in {cell.variant.name: cell.variant for cell in checked.cells}.values():
            tables = checked.tables.values()
            task = job(variant.name, flow, variant.definition, connections, tables)
            found[variant.name] = await run_row(
                worker, task, 0, inputs | variant.inputs, experiment.limits
            )
    finally:
        await worker.close()
    return found


def _show(name: str, row: Row, source: Answers) -> None:
    print(f"\n{name}: {json.dumps(row.inputs, ensure_ascii=False)}")
    if row.error is not None:
        print(f"  failed: {row.error['type']}: {row.error['message']}")
        if row.error.get("code") == MISSING:
            print(f"  {source.no_recording(1)}")
    for output, value in (row.outputs or {}).items():
        print(f"  {output}: {json.dumps(value, ensure_ascii=False, indent=2)}")
    tokens = sum(prompt + completion for _, prompt, completion in row.usage.values())
    print(f"  {row.latency_s:.2f} s, {tokens} tokens")
