"""The one module that knows promptflow: runs its DAGs, flex flows and prompty files in-process.

No connection store, no background service and no telemetry: the executor is given the connections
as a dictionary. See docs/adr/0002 in the template for what was measured.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime
import functools
import importlib
import importlib.util
import inspect
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from llmops.running import calls
from llmops.running import promptflow_scripts as scripts
from llmops.running.runners import (
    Aggregate,
    Aggregation,
    CallableRunner,
    Emit,
    FlowError,
    Runner,
    over,
    pour,
)
from llmops.runs import Row

# Read on import. A failed row is told once, by the worker; outputs are checked once, by `_plain`.
os.environ |= {
    "PF_DISABLE_TRACING": "true",
    "PF_LOGGING_LEVEL": "CRITICAL",
    "PF_SKIP_SERIALIZATION_CHECK": "true",
}

_DEVKIT = (
    "promptflow._cli._utils",
    "promptflow._sdk._service.apis.collector",
    "promptflow._sdk._tracing",
    "promptflow._sdk._utilities.tracing_utils",
)
Columns = dict[str, list[Any]]
STREAMING: ContextVar[bool] = ContextVar("streaming", default=False)
"""Whether this row's LLM node, where its answer is an output, gives it in pieces."""

_MODEL_TYPES = ("AzureOpenAIConnection", "OpenAIConnection", "ServerlessConnection")

WHOLE = {"response_format", "tools", "functions"}
"""Parameters of a prompty whose answer prompt flow reads as a whole."""
_SETTINGS = "telemetry:\n  enabled: false\n"


def plain(job: dict[str, Any]) -> Runner:
    """A runner for a Python callable that uses prompt flow; `job` as in `llmops.running.worker`."""
    return CallableRunner(job, _prepared(job).make)


def _prepared(job: dict[str, Any]) -> scripts.Connections:
    """Prompt flow, imported, and the connections that it is given."""
    import_promptflow()
    connections = {name: dict(value) for name, value in job["connections"].items()}
    return scripts.Connections(connections, job["models"])


def load(job: dict[str, Any]) -> Runner:
    """A runner for a DAG, flex or prompty flow; `job` as in `llmops.running.worker`."""
    known = _prepared(job)
    executors, connections = import_promptflow().FlowExecutor, known.given
    _set_variables(job["definition"], connections)
    folder, file = _with_includes(job), Path(job["file"])
    from promptflow.storage._run_storage import DummyRunStorage

    storage = DummyRunStorage()  # what prompt flow would keep of a row, the engine keeps
    if job["kind"] == "prompty":
        # By its whole path, because it finds images and files of its own beside it.
        path = folder / file
        create = functools.partial(
            executors.create, path, connections, working_dir=folder, storage=storage
        )
        return PromptyRunner(create(), path, create)
    if job["kind"] == "flex":
        script = scripts.executor()(
            file, connections, folder, storage=storage, init_kwargs={"job": job, "make": known.make}
        )
        return ScriptRunner(script)
    from promptflow.contracts.flow import Flow

    definition = _use_models(job["definition"], job["models"], connections)
    flow = Flow._from_dict(definition, working_dir=folder)
    return DagRunner(
        executors._create_from_flow(flow, connections, folder, flow_file=file, storage=storage)
    )


class DagRunner(Runner):
    """A flow.dag.yaml with its variants resolved."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._nodes = [node for node in executor._flow.nodes if node.aggregation]
        executor.enable_streaming_for_llm_flow(STREAMING.get)

    def run(self, inputs: dict[str, Any], row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Runner."""
        result = self._executor.exec_line(inputs, index=row)
        result.output.pop("line_number", None)
        base64 = self._executor._multimedia_processor.convert_multimedia_data_to_base64_dict
        return _plain(base64(result.output)), _plain(
            base64(dict(result.aggregation_inputs)), otherwise=str
        )

    def stream(self, inputs: dict[str, Any], row: int, emit: Emit) -> dict[str, Any]:
        """See Runner."""
        STREAMING.set(True)
        result = _piecewise(self._executor, inputs, row, emit)
        return _plain(result)

    def aggregate(self, rows: Iterable[Row]) -> Aggregation | None:
        """See Runner. The official way decides; a faster one is used for draws if it agrees."""
        if not self._nodes:
            return None
        count, nodes, inputs = self._columns(rows)
        official = over(count, self._official(nodes, inputs))
        asked = calls.ROW.get()
        direct = self._direct(nodes, inputs) if count and not (asked and asked.usage) else None
        if direct is None or not _equal(official.values, direct, range(count)):
            return official
        return official._replace(again=direct)

    def _columns(self, rows: Iterable[Row]) -> tuple[int, Columns, Columns]:
        """How many rows, and what the aggregation nodes take of them: node outputs, flow inputs."""
        nodes: Columns = {}
        inputs: Columns = {}
        values = [value for node in self._nodes for value in node.inputs.values()]
        used = {value.value for value in values if value.value_type.name == "FLOW_INPUT"}
        count, first, given = 0, Row(0, {}, None), set[str]()
        for count, row in enumerate(rows, start=1):
            first = row if count == 1 else first
            for key, value in row.aggregation.items():
                nodes.setdefault(key, []).append(value)
            given |= row.inputs.keys()
            for key in used:  # a row may leave out what has a default
                inputs.setdefault(key, []).append(row.inputs.get(key, self._default(key)))
        # The executor wants every input; those that no node takes are not held in memory.
        rest = {key: [value] * count for key, value in first.inputs.items() if key not in used}
        return count, nodes, {key: inputs[key] for key in used & given} | rest

    def _default(self, name: str) -> Any:
        known = self._executor._flow.inputs.get(name)
        return known.default if known else None

    def _official(self, nodes: Columns, inputs: Columns) -> Aggregate:
        def aggregate(chosen: Sequence[int]) -> dict[str, Any]:
            result = self._executor.exec_aggregation(_pick(inputs, chosen), _pick(nodes, chosen))
            return dict(result.metrics)

        return aggregate

    def _direct(self, nodes: Columns, inputs: Columns) -> Aggregate | None:
        """The aggregation functions called without the executor, some 100 times faster.

        Null where an aggregation node depends on another one or is not a plain Python function.
        """
        functions = []
        for node in self._nodes:
            function = self._executor._tools_manager.get_tool(node.name)
            function = getattr(function, "__original_function", None)
            arguments = {name: _column(value, nodes, inputs) for name, value in node.inputs.items()}
            if not inspect.isfunction(function) or inspect.iscoroutinefunction(function):
                return None
            if None in arguments.values():
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
        from promptflow.contracts.tool import ValueType

        self._executor = executor
        self._aggregate = getattr(executor, "_aggr_func", None)
        # `pf run` turns values into the types of the function's hints.
        hinted = executor._inputs.items()
        self._types = {k: v for k, v in hinted if isinstance(v.type, ValueType)}

    def run(self, inputs: dict[str, Any], row: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Runner."""
        from promptflow._utils.dataclass_serializer import convert_eager_flow_output_to_dict

        result = self._executor.exec_line(self._typed(inputs, row), index=row)
        if result.run_info.status.value != "Completed":
            raise _failure(result.run_info.error or {})
        outputs = convert_eager_flow_output_to_dict(result.output)
        outputs.pop("line_number", None)
        return _plain(outputs), {"returned": _shape(result.output)} if self._aggregate else {}

    def stream(self, inputs: dict[str, Any], row: int, emit: Emit) -> dict[str, Any]:
        """See Runner."""
        return _plain(_piecewise(self._executor, self._typed(inputs, row), row, emit))

    def _typed(self, inputs: dict[str, Any], row: int) -> dict[str, Any]:
        from promptflow.executor.flow_validator import FlowValidator

        typed = FlowValidator._resolve_flow_inputs_type_inner(self._types, inputs, row)
        return dict(typed)

    def aggregate(self, rows: Iterable[Row]) -> Aggregation | None:
        """See Runner."""
        function = self._aggregate
        if function is None:
            return None
        lines = [_line(row, self._executor.returned) for row in rows]
        name = self._executor._aggr_input_name

        def aggregate(chosen: Sequence[int]) -> dict[str, Any]:
            with _logged_metrics() as logged:
                metrics = function(**{name: [lines[at] for at in chosen]})
            return {**logged, **metrics} if isinstance(metrics, dict) else logged

        return over(len(lines), aggregate)


class PromptyRunner(ScriptRunner):
    """A prompty file; a second executor asks its model for pieces, once somebody wants them."""

    def __init__(self, executor: Any, path: Path, create: Callable[..., Any]) -> None:
        super().__init__(executor)
        self._path, self._create = path, create
        self._streaming: Runner | None = None
        self._lock = threading.Lock()

    def stream(self, inputs: dict[str, Any], row: int, emit: Emit) -> dict[str, Any]:
        """See Runner."""
        with self._lock:
            self._streaming = self._streaming or ScriptRunner(self._piecewise())
        return self._streaming.stream(inputs, row, emit)

    def _piecewise(self) -> Any:
        """The executor itself where the answer is not the text alone, which has no pieces."""
        from promptflow.core import Prompty

        model = Prompty._parse_prompty(self._path)[0].get("model") or {}
        parameters = model.get("parameters") or {}
        if model.get("response") == "all" or parameters.keys() & WHOLE:
            return self._executor
        asked = {"parameters": {**parameters, "stream": True}}
        return self._create(init_kwargs={"model": asked})


def import_promptflow() -> Any:
    """Import the executor without the development kit, which costs seconds that no row needs.

    `promptflow/__init__.py` and `promptflow.tools` import it (SQLAlchemy, Flask, Azure Monitor). An
    empty package takes its place under the same path; what flows import from it is served on
    demand.
    """
    if "promptflow" not in sys.modules:
        keep_quiet()
        spec = importlib.util.find_spec("promptflow")
        if spec is None or spec.submodule_search_locations is None:
            raise FlowError("PromptFlowMissing", "promptflow is not installed")
        package = types.ModuleType("promptflow")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        package.__getattr__ = _legacy_name  # type: ignore[method-assign]
        sys.modules["promptflow"] = package
        with _without_devkit():
            _import_tools()
        _remember_templates()
        _remember_signatures()
        scripts.prepare_prompty()
    import promptflow.executor

    logging.getLogger("promptflow").setLevel(logging.ERROR)
    return promptflow.executor


def keep_quiet() -> None:
    """Before promptflow is imported: no telemetry, no look at PyPI for a newer version.

    Its settings are in a folder that goes when this process ends, or its worker does.
    """
    folder = tempfile.TemporaryDirectory(prefix="promptflow-")
    atexit.register(folder.cleanup)
    Path(folder.name, "pf.yaml").write_text(_SETTINGS, encoding="utf-8")
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M:%S.%f")
    looked = json.dumps({"last_check_time": now, "last_hint_time": now})
    Path(folder.name, "pf_version_check.json").write_text(looked, encoding="utf-8")
    os.environ["PF_HOME_DIRECTORY"] = folder.name
    # Else the import asks Azure Monitor for a configuration that nothing here uses.
    os.environ["APPLICATIONINSIGHTS_CONTROLPLANE_DISABLED"] = "true"


def _import_tools() -> None:
    """Import the LLM tools without their own loop of up to 100 tries with long pauses.

    Trying again is the engine's work, where a row's timeout and Retry-After are kept.
    """
    spec = importlib.util.find_spec("promptflow.tools")
    if spec is None or spec.submodule_search_locations is None:
        raise FlowError("PromptFlowMissing", "promptflow-tools is not installed")
    package = types.ModuleType("promptflow.tools")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["promptflow.tools"] = package
    common = importlib.import_module("promptflow.tools.common")
    common.__dict__["handle_openai_error"] = lambda *_, **__: lambda function: function
    del sys.modules["promptflow.tools"]
    importlib.import_module("promptflow.tools")


def _remember_templates() -> None:
    """Compile a prompt once: prompt flow would do it for each row."""
    from jinja2.sandbox import SandboxedEnvironment
    from promptflow.core import _utils
    from promptflow.tools import common

    @functools.cache
    def environment(**options: Any) -> SandboxedEnvironment:
        made = SandboxedEnvironment(**options)
        made.__dict__["from_string"] = functools.lru_cache(maxsize=64)(made.from_string)
        return made

    for module in (_utils, common):
        module.SandboxedEnvironment = environment


def _remember_signatures() -> None:
    """Look a tool's parameters up once: prompt flow would do it for each row."""
    from promptflow.executor import _dag_manager

    known = functools.lru_cache(maxsize=256)(inspect.signature)
    _dag_manager.inspect = types.SimpleNamespace(signature=known, Parameter=inspect.Parameter)


def _legacy_name(name: str) -> Any:
    """`from promptflow import tool` and the like, as flows of 2023 write it."""
    places = {"PFClient": "client", "load_flow": "client", "load_run": "client"}
    places |= {"trace": "tracing", "start_trace": "tracing"}
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


def _set_variables(definition: dict[str, Any], connections: dict[str, Any]) -> None:
    """Set the flow's `environment_variables`; `${connection.property}` stands for a value."""
    from promptflow.core._utils import update_dict_value_with_connections

    given = definition.get("environment_variables") or {}
    variables = {
        name: json.dumps(value) if isinstance(value, dict | list) else str(value)
        for name, value in given.items()
    }
    update_dict_value_with_connections(connections, variables)
    os.environ.update(variables)


def _with_includes(job: dict[str, Any]) -> Path:
    """The flow's folder, or a copy that has its `additional_includes` beside the flow's files."""
    folder = Path(job["folder"])
    includes = job["definition"].get("additional_includes") or []
    return _merged(folder, tuple(includes)) if includes else folder


@functools.cache
def _merged(folder: Path, includes: tuple[str, ...]) -> Path:
    merged = Path(tempfile.mkdtemp(prefix="flow-"))
    shutil.copytree(folder, merged, dirs_exist_ok=True)
    for include in includes:
        source = (folder / include).resolve()
        if source.is_dir():
            shutil.copytree(source, merged / source.name, dirs_exist_ok=True)
        else:
            shutil.copy2(source, merged)
    os.chdir(merged)
    sys.path.insert(0, str(merged))
    return merged


def _use_models(
    definition: dict[str, Any], models: dict[str, str], connections: dict[str, Any]
) -> dict[str, Any]:
    """Name the model as the connection's type wants it; the connection's own model goes first.

    An LLM node that names no connection, as in a flow out of a gallery, takes the only one there
    is that leads to a model.
    """
    nodes = []
    for node in definition.get("nodes", []):
        inputs = dict(node.get("inputs") or {})
        connection = node.get("connection") or inputs.get("connection")
        if node.get("type") == "llm" and not connection:
            connection = _only_model(connections)
            node = {**node, "connection": connection}
        kind = connections.get(connection, {}).get("type") if isinstance(connection, str) else None
        model = inputs.get("deployment_name") or inputs.get("model") or models.get(str(connection))
        if _asks_by_name(node) and kind and model:
            for key in ("deployment_name", "model"):
                inputs.pop(key, None)
            key = "deployment_name" if kind == "AzureOpenAIConnection" else "model"
            inputs[key] = models.get(str(connection)) or model
            node = {**node, "inputs": inputs}
        nodes.append(node)
    return {**definition, "nodes": nodes}


def _asks_by_name(node: dict[str, Any]) -> bool:
    """Whether a node is an LLM node, of the older or of the newer kind."""
    tool = (node.get("source") or {}).get("tool")
    return node.get("type") == "llm" or tool == "promptflow.tools.llm.llm"


def _only_model(connections: dict[str, Any]) -> str | None:
    """The one connection that leads to a model; null where there is none, or more than one."""
    found = [name for name, link in connections.items() if link["type"] in _MODEL_TYPES]
    return found[0] if len(found) == 1 else None


def _piecewise(executor: Any, inputs: dict[str, Any], row: int, emit: Emit) -> dict[str, Any]:
    """Run a row whose outputs may be generators, and emit those piece by piece."""
    asynchronous = getattr(executor, "_is_async", None)
    if asynchronous if asynchronous is not None else executor._should_use_async():
        return asyncio.run(_piecewise_async(executor, inputs, row, emit))
    result = executor.exec_line(inputs, index=row, allow_generator_output=True)
    return pour(_completed(result), emit)


async def _piecewise_async(
    executor: Any, inputs: dict[str, Any], row: int, emit: Emit
) -> dict[str, Any]:
    """The same in an event loop of its own, which the pieces need as well."""
    result = await executor.exec_line_async(
        inputs, index=row, allow_generator_output=True, sync_iterator_to_async=False
    )
    outputs = _completed(result)
    for name, value in outputs.items():
        if isinstance(value, AsyncIterator):
            async for piece in value:
                if str(piece):
                    emit({name: str(piece)})
    return pour({n: v for n, v in outputs.items() if not isinstance(v, AsyncIterator)}, emit)


def _completed(result: Any) -> dict[str, Any]:
    """The outputs of a row that may be generators; raises what the flow raised."""
    from promptflow._utils.dataclass_serializer import convert_eager_flow_output_to_dict

    if result.run_info.status.value != "Completed":
        raise _failure(result.run_info.error or {})
    outputs: dict[str, Any] = convert_eager_flow_output_to_dict(result.output)
    outputs.pop("line_number", None)
    return outputs


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


def _column(value: Any, nodes: Columns, inputs: Columns) -> Callable[[Sequence[int]], Any] | None:
    kind = value.value_type.name
    if kind == "LITERAL":
        return lambda chosen: value.value
    source = inputs if kind == "FLOW_INPUT" else nodes
    column = source.get(value.value if kind == "FLOW_INPUT" else value.serialize())
    return None if column is None else lambda chosen: [column[at] for at in chosen]


def _pick(columns: Columns, chosen: Sequence[int]) -> Columns:
    return {key: [column[at] for at in chosen] for key, column in columns.items()}


def _equal(metrics: dict[str, Any], direct: Aggregate, every: Sequence[int]) -> bool:
    try:
        return metrics == direct(every)
    except Exception:  # the user's function: whatever it raises, the executor's own way is taken
        return False


def _plain(
    outputs: dict[str, Any], otherwise: Callable[[Any], Any] | None = None
) -> dict[str, Any]:
    """Outputs as JSON keeps them; TypeError where it cannot, which fails the row as in `pf run`.

    A dataclass, a date or a pydantic model becomes what prompt flow makes of it; `otherwise` is
    asked for the rest.
    """
    from promptflow._utils.utils import default_json_encoder
    from promptflow.tracing._utils import serialize

    def encode(value: Any) -> Any:
        known = serialize(value)
        return (otherwise or default_json_encoder)(value) if known is value else known

    plain: dict[str, Any] = json.loads(json.dumps(outputs, default=encode))
    return plain


def _shape(output: Any) -> str:
    """What a flow returned, for `_line`: its outputs are kept as a dict in any case."""
    if isinstance(output, dict):
        return "dict"
    return "dataclass" if is_dataclass(output) else "value"


def _line(row: Row, returned: Any) -> Any:
    """A row as `pf run` gives it to `__aggregate__`; `returned` is the flow's return annotation."""
    from promptflow._utils.utils import AttrDict

    outputs, shape = row.outputs or {}, row.aggregation.get("returned")
    if shape == "value":
        return outputs["output"]
    if shape == "dataclass" and isinstance(returned, type) and is_dataclass(returned):
        return returned(**outputs)
    return AttrDict(outputs)


def _failure(error: dict[str, Any]) -> FlowError:
    """What the flow's own code raised, out of prompt flow's account of it."""
    for extra in error.get("additionalInfo") or []:
        told = extra.get("info") or {}
        if told.get("type"):
            return FlowError(told["type"], told.get("message", ""), told.get("traceback", ""))
    cause = error
    while cause.get("innerError"):
        cause = cause["innerError"]
    kind = str(cause.get("code", "Error"))
    return FlowError(kind, str(error.get("message", "the flow failed without a message")))
