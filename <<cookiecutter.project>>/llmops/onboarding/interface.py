"""What goes into a flow and what comes out: types, defaults and samples, read from its files."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmops import code, flows
from llmops.flows import Flow

ANSWER = "output"
"""prompt flow's name for what a function returns that returns no dict."""


@dataclass(frozen=True)
class Input:
    """An input of a flow; `type` is prompt flow's name of it, "" if the files do not say."""

    name: str
    type: str = ""
    required: bool = True
    default: Any = None
    is_chat_input: bool = False
    is_chat_history: bool = False


@dataclass(frozen=True)
class Interface:
    """A flow with what its files say beyond `Flow`.

    `sample` is a row of inputs that the author wrote down, `init` what a flex flow's class is made
    with, `document` the content of the definition or of the prompty's front matter.
    """

    flow: Flow
    inputs: dict[str, Input]
    outputs: tuple[str, ...] | None
    sample: dict[str, Any] = field(default_factory=dict)
    init: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def required(self) -> list[str]:
        """The inputs that have no default."""
        return [name for name, given in self.inputs.items() if given.required]


def read(flow: Flow) -> Interface:
    """What the flow takes and gives, as far as its files say it; reads nothing but files."""
    document = front_matter(flow.path) if flow.kind == "prompty" else flow.definition
    sample, init = _sample(flow, document)
    said = _hinted(flow) | dict(_declared(document.get("inputs")))
    if flow.kind == "prompty" and not said:  # prompt flow takes the sample's keys then
        said = {name: Input(name, _type_of(value)) for name, value in sample.items()}
    bare = {name: _input(name, "", required, None) for name, required in flow.inputs.items()}
    inputs = {
        name: replace(said.get(name, given), required=flow.inputs.get(name, given.required))
        for name, given in (said | bare).items()
    }
    known = {n: g for n, g in sample.items() if n in inputs}
    return Interface(flow, inputs, _outputs(flow), known, init, document)


def block(value: Any) -> dict[str, Any]:
    """The keys and values of a block of YAML; none where it is something else."""
    return dict(value) if isinstance(value, Mapping) else {}


def front_matter(path: Path) -> dict[str, Any]:
    """The block at the head of a prompty file; empty where it cannot be read."""
    try:
        return flows.front_matter(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}


def includes(flow: Flow) -> list[Path]:
    """What the definition includes from elsewhere, whether it is there or not."""
    named = flow.definition.get("additional_includes")
    paths = named if isinstance(named, list) else []
    return [Path(os.path.normpath(flow.folder / str(path))) for path in paths]


def entry(flow: Flow) -> tuple[Path, str]:
    """The file and the name of the callable of a flex or Python flow."""
    module, _, name = flow.entry.partition(":")
    places = [flow.folder, *(path.parent for path in includes(flow))]
    found = [code.module_file(place, module) for place in places]
    return next((path for path in found if path.is_file()), found[0]), name


def initial(flow: Flow) -> dict[str, code.Parameter]:
    """The parameters that the class of a flow is made with; empty for a function."""
    path, name = entry(flow)
    tree = code.parse(path) if flow.entry else None
    node = code.top_level(tree).get(name) if tree else None
    made = code.method(node, "__init__") if isinstance(node, ast.ClassDef) else None
    return code.parameters(made) if made else {}


def _hinted(flow: Flow) -> dict[str, Input]:
    """The inputs as the signature of the flow's callable has them."""
    path, name = entry(flow)
    tree = code.parse(path) if flow.entry else None
    function = code.called(tree, name) if tree else None
    given = code.parameters(function).values() if function else ()
    return {p.name: _input(p.name, code.type_of_hint(p.hint), p.required, p.default) for p in given}


def _declared(given: Any) -> Iterator[tuple[str, Input]]:
    for name, value in block(given).items():
        value = value if isinstance(value, Mapping) else {"type": value or ""}
        default = value.get("default")
        known = _input(name, str(value.get("type") or ""), default is None, default)
        yield (
            name,
            Input(
                known.name,
                known.type,
                known.required,
                default,
                value.get("is_chat_input") is True,
                value.get("is_chat_history") is True or known.is_chat_history,
            ),
        )


def _input(name: str, kind: str, required: bool, default: Any) -> Input:
    history = name == "chat_history" and kind in ("list", "")  # prompt flow's own name for it
    return Input(name, kind, required, default, is_chat_history=history)


def _sample(flow: Flow, document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs and the init values that the definition shows as an example."""
    given = resolved(document.get("sample"), flow.folder)
    nested = "inputs" in given or "init" in given
    inputs = resolved(given.get("inputs"), flow.folder) if nested else given
    for name, said in block(document.get("inputs")).items():
        if block(said).get("sample") is not None:
            inputs = {name: said["sample"], **inputs}
    init = resolved(given.get("init"), flow.folder) if nested else {}
    return inputs, init or resolved("init.json", flow.folder) or _defaults(document.get("init"))


def _defaults(given: Any) -> dict[str, Any]:
    found = block(given).items()
    values = {k: v.get("default") if isinstance(v, Mapping) else v for k, v in found}
    return {name: value for name, value in values.items() if value is not None}


def resolved(value: Any, folder: Path) -> dict[str, Any]:
    """The object itself, or that in the JSON file it names (`x.json`, `@x.json`, `${file:…}`)."""
    if isinstance(value, str):
        value = flows.referred(value.strip().removeprefix("@"), folder)
    return block(value)


def _outputs(flow: Flow) -> tuple[str, ...] | None:
    """The names of the outputs, also where only the code says them."""
    if flow.outputs is not None or not flow.entry:
        return flow.outputs
    path, name = entry(flow)
    tree = code.parse(path)
    function = code.called(tree, name) if tree else None
    if tree is None or function is None:
        return None
    plain = code.type_of_hint(ast.unparse(function.returns)) if function.returns else ""
    return code.returned(tree, function) or ((ANSWER,) if plain not in ("", "object") else None)


def _type_of(value: Any) -> str:
    return code.TYPES.get(type(value).__name__, "")
