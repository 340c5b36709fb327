"""The compute behind a parallel component: the local engine runs mini-batches of rows.

What a row does to its mini-batch stands in prompt flow's own source (promptflow-parallel): the rows
of a mini-batch run one after the other, and the first that fails ends it. It is then tried again
as a whole; if it fails for good, none of its rows has outputs. Those of all others are lines of
parallel_run_step.jsonl as they finished, each with its line_number: the row's own, where the data
have such a column. Settings and their defaults: prompt flow's tutorial run-flow-with-pipeline.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.data import apply_mappings
from llmops.running.engine import Worker, run_row

from .errors import Json
from .flow_engine import LIMITS, Loaded, load, table
from .jobs import STORE, JobRun
from .serving import stored_at
from .state import State

FILE = "parallel_run_step.jsonl"
"""Without it, a flow's outputs have no line."""


@dataclass(frozen=True)
class Settings:
    """How a step is run; `failed_rows` and `failed_batches` may fail, -1 for any number."""

    rows: int
    workers: int
    retries: int
    timeout_s: float
    failed_rows: int
    failed_batches: int


class MiniBatchError(Exception):
    """A row has ended its mini-batch."""


def settings(step: Json) -> Settings:
    """The settings of a step, with the component's defaults."""
    retry = step.get("retry_settings") or {}
    instances = int((step.get("resources") or {}).get("instance_count", 1))
    return Settings(
        int(step.get("mini_batch_size", 1)),
        instances * int(step.get("max_concurrency_per_instance", 1)),
        int(retry.get("max_retries", 3)),
        float(retry.get("timeout", 600)),
        int(step.get("error_threshold", -1)),
        int(step.get("mini_batch_error_threshold", -1)),
    )


async def execute(state: State, run: JobRun) -> None:
    """Run every mini-batch and put the outputs into the storage.

    Raises:
        Exception: what keeps the step from starting; too many mini-batches or rows failed.
    """
    folder = state.folder / "jobs" / run.name
    loaded = await asyncio.to_thread(_load, state, run, folder)
    uri = "azureml:" + run.request["inputs"]["data"]["uri"].removeprefix("azureml:")
    rows = list(await asyncio.to_thread(table, state, uri, folder / "data"))
    worker = Worker(loaded.flow.folder, loaded.environment, folder / "worker.log")
    try:
        await worker.load(loaded.job)
        lines = await _run(run, worker, loaded, rows)
    finally:
        await worker.close()
    _publish(state, run, lines)


def _load(state: State, run: JobRun, folder: Path) -> Loaded:
    component = state.resources[run.request["componentId"]]
    given: dict[str, Json] = {}
    for name, value in run.request["inputs"].items():
        if name.startswith("connections."):
            _, node, parameter = name.split(".")
            given.setdefault(node, {})[parameter] = value
    return load(state, {"connections": given}, stored_at(state, component["flow"]), folder)


async def _run(run: JobRun, worker: Worker, loaded: Loaded, rows: list[Json]) -> list[Json]:
    """The outputs of the mini-batches that did not fail."""
    how = settings(run.request)
    turns = asyncio.Semaphore(how.workers)
    lines: list[Json] = []
    failed: list[tuple[int, Json]] = []

    async def one(batch: list[tuple[int, Json]]) -> None:
        async with turns:
            found = await _again(run, worker, loaded, batch, how)
        if found is not None:
            lines.extend(found)
        else:
            failed.extend(batch)
            _check(run, how, len(failed))

    try:
        async with asyncio.TaskGroup() as tasks:
            numbered = list(enumerate(rows))
            for start in range(0, len(rows), how.rows):
                tasks.create_task(one(numbered[start : start + how.rows]))
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return lines


def _check(run: JobRun, how: Settings, failed: int) -> None:
    batches = -(-failed // how.rows)
    for name, allowed, found in (
        ("error_threshold", how.failed_rows, failed),
        ("mini_batch_error_threshold", how.failed_batches, batches),
    ):
        if 0 <= allowed < found:
            last = next((line for line in reversed(run.log) if "mini-batch" in line), "")
            raise RuntimeError(f"{found} failed, more than {name} {allowed} allows; {last}")


async def _again(
    run: JobRun, worker: Worker, loaded: Loaded, batch: Iterable[tuple[int, Json]], how: Settings
) -> list[Json] | None:
    """A mini-batch's lines, tried as often as may be; null where it fails for good."""
    for attempt in range(how.retries + 1):
        try:
            async with asyncio.timeout(how.timeout_s):
                return [await _row(run, worker, loaded, *numbered) for numbered in batch]
        except (MiniBatchError, TimeoutError) as error:
            run.log.append(f"mini-batch, attempt {attempt + 1}: {error or 'timed out'}")
    return None


async def _row(run: JobRun, worker: Worker, loaded: Loaded, number: int, record: Json) -> Json:
    number = int(record.get("line_number", number))
    mappings: dict[str, Any] = {
        name: value
        for name, value in run.request["inputs"].items()
        if name != "data" and not name.startswith("connections.")
    }
    try:
        inputs = apply_mappings(mappings, {"data": record}) if mappings else record
    except KeyError as error:
        message = f"Couldn't find these mapping relations: {error.args[0]}."
        raise MiniBatchError(f"row {number}: {message}") from error
    row = await run_row(worker, loaded.job, number, inputs, LIMITS)
    if row.error:
        raise MiniBatchError(f"row {number}: {row.error['message']}")
    return {**(row.outputs or {}), "line_number": number}


def _publish(state: State, run: JobRun, lines: list[Json]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    place = stored_at(state, f"azureml://datastores/{STORE}/paths/{run.folder}/flow_outputs/{FILE}")
    state.blobs.write(place, text.encode(), "application/octet-stream", {})
