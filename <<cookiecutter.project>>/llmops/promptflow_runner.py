"""The one module that knows promptflow: runs its DAG, flex flows and prompty files in this process.

No connection store, no background service and no telemetry: the executor is given the connections as
a dictionary. See docs/adr/0002 in the template for what was measured.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmops.runners import Aggregate, Runner
from llmops.runs import Row

os.environ.setdefault("PF_DISABLE_TRACING", "true")

_DEVKIT = (
    "promptflow._cli._utils",
    "promptflow._sdk._service.apis.collector",
    "promptflow._sdk._tracing",
    "promptflow._sdk._utilities.tracing_utils",
)
_HOME = "telemetry:\n  enabled: false\n"


def load(job: dict[str, Any]) -> Runner:
    """A runner for a DAG, flex or prompty flow; `job` as in `llmops.worker`."""
    executor_module = import_promptflow()
    connections = {name: dict(value) for name, value in job["connections"].items()}
    from promptflow.core._connection_provider._connection_provider import ConnectionProvider
    from promptflow.core._connection_provider._dict_connection_provider import (
        DictConnectionProvider,
    )

    # A connection named inside a flex flow's model_config or a prompty ignores the dictionary.
    ConnectionProvider._instance = DictConnectionProvider(connections)
    folder, file = Path(job["folder"]), job["file"]
    create = executor_module.FlowExecutor
    if job["kind"] != "dag":
        executor = create.create(Path(file), connections, working_dir=folder, raise_ex=True)
        return ScriptRunner(executor)
    from promptflow.contracts.flow import Flow

    definition = _use_models(job["definition"], job["models"], connections)
    flow = Flow._from_dict(definition, working_dir=folder)
    executor = create._create_from_flow(
        flow, connections, folder, flow_file=Path(file), raise_ex=True
    )
    return DagRunner(executor)


class DagRunner(Runner):
    """A flow.dag.yaml with its variants resolved."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._nodes = [node for node in executor._flow.nodes if node.aggregation]

    def run(self, inputs: dict[str, Any], row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        result = self._executor.exec_line(inputs, index=row)
        outputs = {key: value for key, value in result.output.items() if key != "line_number"}
        return outputs, dict(result.aggregation_inputs)

    def aggregator(self, rows: Sequence[Row]) -> Aggregate | None:
        if not self._nodes or not rows:
            return None
        nodes = {key: [row.aggregation.get(key) for row in rows] for key in rows[0].aggregation}
        inputs = {key: [row.inputs.get(key) for row in rows] for key in rows[0].inputs}
        official = self._official(nodes, inputs)
        direct = self._direct(nodes, inputs)
        every = range(len(rows))
        if direct is None or not _equal(official(every), direct, every):
            return official
        return direct

    def _official(self, nodes: dict[str, list[Any]], inputs: dict[str, list[Any]]) -> Aggregate:
        def aggregate(chosen: Sequence[int]) -> dict[str, Any]:
            result = self._executor.exec_aggregation(_pick(inputs, chosen), _pick(nodes, chosen))
            return dict(result.metrics)

        return aggregate

    def _direct(
        self, nodes: dict[str, list[Any]], inputs: dict[str, list[Any]]
    ) -> Aggregate | None:
        """The aggregation functions called without the executor, some 100 times faster.

        Null where an aggregation node depends on another one or is not a Python function.
        """
        functions = []
        for node in self._nodes:
            function = self._executor._tools_manager.get_tool(node.name)
            function = getattr(function, "__original_function", None)
            arguments = {name: _column(value, nodes, inputs) for name, value in node.inputs.items()}
            if function is None or None in arguments.values():
                return None
            functions.append((function, arguments))

        def aggregate(chosen: Sequence[int]) -> dict[str, Any]:
            with _logged_metrics() as metrics:
                for function, arguments in functions:
                    function(**{name: pick(chosen) for name, pick in arguments.items() if pick})
            return metrics

        return aggregate


class ScriptRunner(Runner):
    """A flex flow (function or class) or a prompty file."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def run(self, inputs: dict[str, Any], row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        from promptflow._utils.dataclass_serializer import convert_eager_flow_output_to_dict

        result = self._executor.exec_line(inputs, index=row)
        if result.run_info.status.value != "Completed":
            raise RuntimeError(_message(result.run_info.error))
        outputs = dict(convert_eager_flow_output_to_dict(result.output))
        outputs.pop("line_number", None)
        return outputs, {}

    def aggregator(self, rows: Sequence[Row]) -> Aggregate | None:
        function = getattr(self._executor, "_aggr_func", None)
        if function is None:
            return None
        outputs = [_returned(row.outputs) for row in rows]

        def aggregate(chosen: Sequence[int]) -> dict[str, Any]:
            with _logged_metrics() as metrics:
                returned = self._executor._exec_aggregation([outputs[at] for at in chosen]).metrics
            return {**metrics, **returned}

        return aggregate


def import_promptflow() -> Any:
    """Import the executor without the development kit, which costs seconds that no row needs.

    `promptflow/__init__.py` and `promptflow.tools` import it (SQLAlchemy, Flask, Azure Monitor). An
    empty package takes its place under the same path; what flows import from it is served on demand.
    """
    if "promptflow" not in sys.modules:
        home = Path(tempfile.mkdtemp(prefix="promptflow-"))
        (home / "pf.yaml").write_text(_HOME, encoding="utf-8")
        os.environ["PF_HOME_DIRECTORY"] = str(home)
        spec = importlib.util.find_spec("promptflow")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("promptflow is not installed")
        package = types.ModuleType("promptflow")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        package.__getattr__ = _legacy_name  # type: ignore[method-assign]
        sys.modules["promptflow"] = package
        with _without_devkit():
            _import_tools()
    import promptflow.executor

    logging.getLogger("execution").setLevel(logging.ERROR)
    for name in ("execution", "execution.flow", "execution.bulk", "promptflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return promptflow.executor


def _import_tools() -> None:
    """Import the LLM tools without their own loop of up to 100 tries with long pauses.

    Trying again is the engine's work, where a row's timeout and Retry-After are kept.
    """
    spec = importlib.util.find_spec("promptflow.tools")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("promptflow-tools is not installed")
    package = types.ModuleType("promptflow.tools")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["promptflow.tools"] = package
    common = importlib.import_module("promptflow.tools.common")
    common.__dict__["handle_openai_error"] = lambda *_, **__: lambda function: function
    del sys.modules["promptflow.tools"]
    importlib.import_module("promptflow.tools")


def _legacy_name(name: str) -> Any:
    """`from promptflow import tool` and the like, as flows of 2023 write it."""
    places = {"PFClient": "client", "load_flow": "client", "load_run": "client"}
    if name.startswith("__"):
        raise AttributeError(name)
    module = importlib.import_module(f"promptflow.{places.get(name, 'core')}")
    return getattr(module, "log_metric" if name == "log_flow_metric" else name)


class _StandIn(types.ModuleType):
    """A module of the development kit whose every name is None; no row calls one."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def _without_devkit() -> Iterator[None]:
    """Stand in for the development-kit modules that promptflow.tools touches on import."""
    for name in _DEVKIT:
        sys.modules[name] = _StandIn(name)
    try:
        yield
    finally:
        for name in _DEVKIT:
            sys.modules.pop(name, None)


def _use_models(
    definition: dict[str, Any], models: dict[str, str], connections: dict[str, Any]
) -> dict[str, Any]:
    """Name the model as the connection's type wants it, and use the connection's own model if set."""
    nodes = []
    for node in definition.get("nodes", []):
        inputs = dict(node.get("inputs") or {})
        connection = node.get("connection") or inputs.get("connection")
        kind = connections.get(connection, {}).get("type") if isinstance(connection, str) else None
        model = inputs.get("deployment_name") or inputs.get("model")
        if node.get("type") == "llm" and kind and model:
            for key in ("deployment_name", "model"):
                inputs.pop(key, None)
            key = "deployment_name" if kind == "AzureOpenAIConnection" else "model"
            inputs[key] = models.get(str(connection)) or model
            node = {**node, "inputs": inputs}
        nodes.append(node)
    return {**definition, "nodes": nodes}


@contextmanager
def _logged_metrics() -> Iterator[dict[str, Any]]:
    from promptflow._core.metric_logger import add_metric_logger, remove_metric_logger

    metrics: dict[str, Any] = {}

    def keep(key: str, value: Any) -> None:
        metrics[key] = value

    add_metric_logger(keep)
    try:
        yield metrics
    finally:
        remove_metric_logger(keep)


def _column(
    value: Any, nodes: dict[str, list[Any]], inputs: dict[str, list[Any]]
) -> Callable[[Sequence[int]], Any] | None:
    kind = value.value_type.name
    if kind == "LITERAL":
        return lambda chosen: value.value
    source = inputs if kind == "FLOW_INPUT" else nodes
    column = source.get(value.value if kind == "FLOW_INPUT" else value.serialize())
    return None if column is None else lambda chosen: [column[at] for at in chosen]


def _pick(columns: dict[str, list[Any]], chosen: Sequence[int]) -> dict[str, list[Any]]:
    return {key: [column[at] for at in chosen] for key, column in columns.items()}


def _equal(metrics: dict[str, Any], direct: Aggregate, every: Sequence[int]) -> bool:
    try:
        return metrics == direct(every)
    except Exception:  # the user's function: whatever it raises, the executor's own way is taken
        return False


def _returned(outputs: dict[str, Any] | None) -> Any:
    """What the function returned: prompt flow stores a value that is no dict as {"output": value}."""
    return outputs["output"] if outputs is not None and set(outputs) == {"output"} else outputs


def _message(error: dict[str, Any] | None) -> str:
    return str((error or {}).get("message", "the flow failed without a message"))
