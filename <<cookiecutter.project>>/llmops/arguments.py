"""What a flow's class is made with: `init` of experiment.yaml, checked against its signature."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llmops.errors import UserError
from llmops.flows import Flow

ENVIRONMENT = re.compile(r"\$\{env:\w+\}")


def problems(
    where: str, given: Collection[str], flow: Flow, connections: Sequence[str]
) -> Iterator[str]:
    """Arguments that are unknown, missing, or name a connection that there is not, in words.

    `given` are the names under the key `where`; the values, with the flow's own, are in
    `flow.init`. `connections` are the names that experiment.yaml gives.
    """
    takes = f"(expected one of {', '.join(flow.takes)})" if flow.takes else "(it takes none)"
    for name in given:
        if name not in flow.takes and not flow.takes_more:
            entry = flow.entry or f"a {flow.kind} flow"
            yield f"{where}.{name}: no argument of {entry} in {flow.path} {takes}."
    for name, required in flow.takes.items():
        if required and name not in flow.init:
            yield (
                f"{where}: lacks '{name}', without which {flow.entry} of {flow.path} cannot be "
                f"made (its arguments: {', '.join(flow.takes)}). Give it a value; that of a "
                f"model's configuration is {{connection: {next(iter(connections), '<name>')}, "
                "azure_deployment: <deployment>}."
            )
    for name, value in flow.init.items():
        connection = value.get("connection") if isinstance(value, Mapping) else None
        if connection is not None and connection not in connections:
            source = where if name in given else f"{flow.path}: sample.init"
            yield (
                f"{source}.{name}.connection: '{connection}', which experiment.yaml does not name "
                f"(connections: {', '.join(connections) or 'none'}). Name it under `connections`, "
                f"or set {name} under {where}."
            )


def require_portable(flow: Flow) -> None:
    """Raises UserError where an argument stands in this machine's environment, for a cloud run."""
    for name, value in flow.init.items():
        if ENVIRONMENT.search(_text(value)):
            raise UserError(
                f"init.{name}: {flow.path}: ${{env:…}} stands for a variable of this machine, "
                "which Azure does not have. Name a connection of the workspace instead, or leave "
                "out TARGET."
            )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(_text(item) for item in value.values())
    return str(value)
