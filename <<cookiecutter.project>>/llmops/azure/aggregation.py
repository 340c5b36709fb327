"""Metrics of an evaluation that ran in Azure: by its own aggregation here, checked against Azure's.

Run here, the aggregation gives intervals and row values too. It needs what the flow's nodes gave it
of each row; of that, Azure returns the flow's outputs alone, so a node's output is put together
from the outputs that refer to it. Whether that was all of it shows where both come to equal values.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmops import answers
from llmops.connections import Connection
from llmops.errors import UserError
from llmops.flows import Flow
from llmops.running.engine import Worker
from llmops.running.pipeline import LOGS
from llmops.work import Work, job

NODE_OUTPUT = re.compile(r"\$\{([^.{}]+)\.output(?:\.([^{}]+))?\}")
AZURES_OWN = "no interval: Azure's own aggregation"


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with the metrics that Azure gave it."""

    work: Work
    metrics: Mapping[str, Any]


def wanted(flow: Flow) -> frozenset[str]:
    """The references to node outputs that a flow's aggregation takes of each row."""
    return frozenset(
        str(value)
        for node in flow.nodes.values()
        if node.get("aggregation")
        for value in (node.get("inputs") or {}).values()
        if NODE_OUTPUT.fullmatch(str(value))
    )


def inputs(flow: Flow, wanted: Iterable[str], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """What aggregation takes of one row (`Row.aggregation`), as far as its `outputs` tell."""
    if flow.kind == "flex":
        return {"returned": "value"} if set(outputs) == {"output"} else {}
    given = _references(flow, outputs)
    found = {reference: _value(reference, given) for reference in wanted}
    return {reference: value for reference, value in found.items() if value is not None}


def _references(flow: Flow, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs by what they refer to."""
    blocks = flow.definition.get("outputs") or {}
    return {
        str(block.get("reference")): outputs[name]
        for name, block in blocks.items()
        if name in outputs and isinstance(block, Mapping)
    }


def _value(reference: str, given: Mapping[str, Any]) -> Any:
    """A node's output, a part of it, or its known parts; null where nothing is known."""
    if reference in given:
        return given[reference]
    match = NODE_OUTPUT.fullmatch(reference)
    node, part = (match[1], match[2]) if match else ("", None)
    if part is not None:
        whole = given.get(f"${{{node}.output}}")
        return whole.get(part) if isinstance(whole, Mapping) else None
    parts = [(NODE_OUTPUT.fullmatch(other), value) for other, value in given.items()]
    return {m[2]: value for m, value in parts if m and m[1] == node and m[2]} or None


def measure(evaluated: Iterable[Evaluated], connections: dict[str, Connection]) -> None:
    """Keep the metrics of each evaluation, with intervals where they could be computed here."""
    asyncio.run(_measure(list(evaluated), connections))


async def _measure(evaluated: list[Evaluated], connections: dict[str, Connection]) -> None:
    for item in evaluated:
        here = await _aggregated(item.work, connections)
        item.work.run.save_metrics(_checked(item, here))


async def _aggregated(work: Work, connections: dict[str, Connection]) -> dict[str, dict[str, Any]]:
    """The metrics by the flow's aggregation on this machine; empty where it does not run here."""
    worker = Worker(work.flow.folder, answers.environment(connections), LOGS / "aggregation.log")
    try:
        loaded = job(work.name, work.flow, work.definition, connections)
        return await worker.aggregate(loaded, work.run.path, len(work.table))
    except UserError:
        return {}
    finally:
        await worker.close()


def _checked(item: Evaluated, here: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Azure's metrics; ours where it has none (means of outputs), and where they are equal."""
    found = dict(here) if not item.metrics else {}
    scored = sum(not row.failed for row in item.work.run.rows())
    for name, value in item.metrics.items():
        ours = here.get(name)
        if ours is not None and _equal(ours["value"], value):
            found[name] = ours
        else:
            number = value if isinstance(value, int | float) else None
            found[name] = {"value": number, "ci95": None, "scored": scored, "note": AZURES_OWN}
    return found


def _equal(ours: Any, theirs: Any) -> bool:
    numbers = isinstance(ours, int | float) and isinstance(theirs, int | float)
    return numbers and math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-9)
