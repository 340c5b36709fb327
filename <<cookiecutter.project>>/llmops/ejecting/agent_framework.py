"""A DAG as a workflow of Microsoft Agent Framework: `State` of a row, executors, edges, `run`.

Chat goes through Agent Framework's client with the messages that the prompts make, so that each
request is the one that prompt flow made. All that is no workflow is as `python` writes it: prompts,
functions, connections, variants as parameters, the aggregation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from llmops.ejecting import graph as graphs
from llmops.ejecting import python
from llmops.ejecting.beside import Ejected, beside
from llmops.ejecting.expressions import Columns
from llmops.ejecting.llm import TYPES
from llmops.ejecting.names import Names, plain
from llmops.ejecting.requests import Request
from llmops.ejecting.workflow import Workflow
from llmops.ejecting.writer import Module, Source, Speech, Writer, begin

_OTHERWISE = ("max_tokens", "response_format")
"""Parameters that Agent Framework's client would send under another name or in another form."""


def write(source: Source) -> Ejected:
    """The files of a DAG's folder as a flow of Agent Framework.

    Raises:
        UserError: the DAG's nodes wait for each other.
    """
    plain_ = _apart(begin(source, graphs.read(source.flow, source.types)))
    row = replace(plain_, names=_of_state(plain_.names), speech=AgentSpeech())
    see = python.expressions(row)
    flow = Workflow(row, see)
    executors = list(flow.executors())
    outputs = {n: python.output(row, see, v) for n, v in row.graph.outputs.items()}
    wrap = "load" if row.shows_images else ""
    columns = Columns(see, row.graph.outputs, lambda r: python.kept_value(row, see, r), wrap)
    columns.names = plain_.names
    over_rows = list(python.work_over_rows(plain_, columns))
    _state(plain_, row.names)
    flow.write(executors)
    _run(plain_, flow.name, {**{n: text for n, text in outputs.items() if text}, **columns.more})
    if over_rows:
        python.aggregate(plain_, over_rows)
    return beside(plain_, python.text(plain_))


class AgentSpeech(Speech):
    """Chat through Agent Framework's client; all else through the openai package's."""

    define = "async def"
    sdk = "Async"

    def ask(
        self, module: Module, client: str, request: Request, arguments: Mapping[str, str]
    ) -> list[str]:
        """See Speech."""
        if not _gives_text_alone(request, arguments):
            first, last = super().ask(module, client, request, arguments)
            return [first.replace("answer = ", "answer = await ", 1), last]
        options = dict(arguments)
        model = options.pop("model")
        if raw := {name: options.pop(name) for name in _OTHERWISE if name in options}:
            options["extra_body"] = f"{{{_items(raw)}}}"
        _chat_client(module, client)
        given = f"[], options={{{_items(options)}}}"
        return [
            f"answer = await {client}_chat({model}).get_response({given})",
            # Its `text` is stripped, which the model's answer is not.
            "return answer.messages[0].text",
        ]


def _gives_text_alone(request: Request, arguments: Mapping[str, str]) -> bool:
    """Whether Agent Framework's answer has all that is taken of it, and can be asked just so."""
    unsure = any("NOT_GIVEN" in arguments.get(name, "") for name in _OTHERWISE)
    one = arguments.get("n", "1") == "1"
    plainly = one and not request.message and not unsure
    # Its client takes no model without a name, as a serverless deployment may have none.
    return request.call == "chat.completions" and request.model != "" and plainly


def _items(values: Mapping[str, str]) -> str:
    return ", ".join(f'"{name}": {text}' for name, text in values.items())


def _chat_client(module: Module, client: str) -> None:
    module.use("from agent_framework.openai import OpenAIChatCompletionClient")
    module.add(
        f"@{module.helper('once', 'once')}",
        f"def {client}_chat(model: str) -> OpenAIChatCompletionClient:",
        f'    """A chat model of {client}()."""',
        f"    return OpenAIChatCompletionClient(model, async_client={client}())",
    )


def _apart(writer: Writer) -> Writer:
    """With clients of other names for the aggregation, which does not wait as the rows do."""
    asks = any(node.aggregation and node.connection for node in writer.graph.every())
    clients = {c: f"{name}_over_rows" for c, name in writer.names.clients.items()}
    return replace(writer, names=replace(writer.names, clients=clients)) if asks else writer


def _of_state(names: Names) -> Names:
    """The same things as fields of a row's state."""
    fields, nodes = {*names.inputs.values(), *names.variants.values()}, {}
    for node in names.nodes:
        field = plain(node).lower()
        while field in fields:
            field += "_output"
        fields.add(field)
        nodes[node] = f"state.{field}"
    return replace(
        names,
        inputs={key: f"state.{name}" for key, name in names.inputs.items()},
        nodes=nodes,
        variants={key: f"state.{name}" for key, name in names.variants.items()},
        clients={c: name.removesuffix("_over_rows") for c, name in names.clients.items()},
    )


# ---- A row's state, and the row


def _state(writer: Writer, fields: Names) -> None:
    """The class of what goes from node to node."""
    names, graph, module = writer.names, writer.graph, writer.module
    inputs = [f"{names.inputs[i.name]}: {TYPES.get(i.type, 'Any')}" for i in graph.inputs]
    variants = [f"{names.variants[n]}: str" for n in _variants(writer)]
    kept = [n for n in graph.nodes if not n.aggregation and python.used(writer, n)]
    outputs = [f"{fields.nodes[n.name].removeprefix('state.')}: Any = None" for n in kept]
    module.use("from dataclasses import dataclass")
    module.use("from typing import Any")
    module.add(
        "@dataclass",
        "class State:",
        '    """What is known of a row: its inputs, and what each node gave (null if left out)."""',
        *(f"    {line}" for line in [*inputs, *variants, *outputs]),
        "",
        "    def __deepcopy__(self, memo: object) -> State:",
        "        # The workflow's events copy what goes on; not every value can be copied.",
        "        return self",
    )


def _variants(writer: Writer) -> list[str]:
    """The nodes of a row that have variants."""
    return [n for n in writer.graph.variants if not writer.graph.node(n).aggregation]


def _run(writer: Writer, workflow: str, outputs: Mapping[str, str]) -> None:
    names = writer.names
    first = [line for i in writer.graph.inputs for line in python.prepare(writer, i)]
    given = [*names.inputs.values(), *(names.variants[n] for n in _variants(writer))]
    begun = f"State({', '.join(f'{name}={name}' for name in given)})"
    writer.module.add(
        f"async def run({python.signature(writer)}) -> dict[str, Any]:",
        '    """One row."""',
        *(f"    {line}" for line in first),
        f"    finished = await {workflow}().run({begun})",
        "    (state,) = finished.get_outputs()",
        f"    return {{{_items(outputs)}}}",
    )
