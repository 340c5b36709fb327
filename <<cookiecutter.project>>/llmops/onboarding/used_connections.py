"""Which connections a flow uses: from its nodes, its prompts, its code and the files beside it.

Entries are what `connections:` of experiment.yaml takes. Of a connection file beside the flow only
the names of its properties are read; no value of it goes anywhere.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops import code
from llmops.connections import AZURE_API_VERSION, AZURE_OPENAI, OPENAI, variable
from llmops.flows import Flow
from llmops.onboarding import arguments, code_hints, environment, package_tools
from llmops.onboarding.datasets import run_files
from llmops.onboarding.interface import (
    Interface,
    block,
    front_matter,
    includes,
    initial,
    read,
    resolved,
)
from llmops.onboarding.interface import entry as module_of
from llmops.onboarding.source import modules, yaml_files

CUSTOM = "CustomConnection"
STRONG = "CustomStrongTypeConnection"
# prompt flow's types with the properties that each must have.
TYPES: dict[str, tuple[str, ...]] = {
    AZURE_OPENAI: ("api_base", "api_key"),
    OPENAI: ("api_key",),
    "ServerlessConnection": ("api_base", "api_key"),
    "SerpConnection": ("api_key",),
    "CognitiveSearchConnection": ("api_base", "api_key"),
    "AzureContentSafetyConnection": ("endpoint", "api_key"),
    "FormRecognizerConnection": ("endpoint", "api_key"),
    "AzureAIServicesConnection": ("endpoint", "api_key"),
    "QdrantConnection": ("api_base", "api_key"),
    "WeaviateConnection": ("api_base", "api_key"),
    CUSTOM: (),
}
# What a connection file calls them.
SHORT = {"azure_open_ai": AZURE_OPENAI, "open_ai": OPENAI, "custom": CUSTOM}
SHORT |= {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", t.removesuffix("Connection")).lower(): t for t in TYPES
}
CONFIGURATIONS = {
    **arguments.CONFIGURATIONS,
    "azure_openai": AZURE_OPENAI,
    "openai": OPENAI,
    "AzureOpenAI": AZURE_OPENAI,
    "OpenAI": OPENAI,
}
MODELS = (AZURE_OPENAI, OPENAI, "ServerlessConnection")
VERSIONS = {AZURE_OPENAI: AZURE_API_VERSION}
SECRET = re.compile(r"key|secret|token|password|pwd|credential|sas|conn(ection)?_?str", re.I)
PROPERTY = re.compile(r"^\$\{([\w -]+)\.(\w+)\}$")


@dataclass
class Use:
    """What is known of one connection: the types that it could have, the likeliest first.

    `keys` are names of properties, of a custom connection's for the most part; `secret` those of
    them that are certainly secret.
    """

    types: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    secret: set[str] = field(default_factory=set)
    version: str = ""
    guess: str = ""


@dataclass
class Used:
    """The connections of a flow as entries of experiment.yaml, and lines for `.env.example`."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find(interface: Interface, more: Iterable[Mapping[str, Any]] = ()) -> Used:
    """The connections and variables that a flow uses; `more` are run files' contents."""
    flow, uses, notes = interface.flow, dict[str, Use](), list[str]()
    trees = modules(flow)
    documents = [interface.document, *more]
    _of_nodes(flow, uses, notes)
    _of_prompties(flow, uses)
    _of_init(interface, uses, documents)
    for document in documents:
        _of_variables(document, uses)
    for tree in trees.values():
        _of_calls(code.without_main(tree), uses)
    _of_files(flow.folder, uses)
    entries = [_entry(name, use) for name, use in uses.items()]
    given = {name for document in documents for name in _variables(document)}
    names = environment.names(flow, trees.values(), given)
    if not any(entry["connection_type"] in MODELS for entry in entries):
        # Beside a connection to a model, the flow's own code hands the variables on.
        names |= environment.implied(flow) - given
        entries += environment.models(names)
    taken = set(re.findall(r"\$\{(\w+)\}", str(entries)))
    others = environment.lines((names | environment.examples(flow)) - taken - given)
    own = [line for entry in entries for line in _lines(entry)]
    return Used(entries, list(dict.fromkeys([*own, *others])), notes)


def entries(flow: Flow) -> tuple[list[dict[str, Any]], list[str]]:
    """The connections that a flow uses as entries, and the lines of `.env.example` for it."""
    interface = read(flow)
    runs = [run.document for run in run_files(interface)]
    used = find(arguments.complete(interface, runs)[0], runs)
    return used.entries, used.lines


def merge(document: dict[str, Any], used: Used) -> None:
    """Add the entries to a document's connections, but for those whose name stands there.

    An entry whose name is only ours, as it leads to variables, gets another one where it is taken.
    """
    listed = document.setdefault("connections", [])
    known = {entry["name"]: entry for entry in listed}
    for entry in used.entries:
        before, own = known.get(entry["name"]), re.search(r"\$\{[A-Z0-9_]+\}", str(entry))
        if before is None or (own and before.get("api_key") != entry.get("api_key")):
            taken = before is not None
            listed.append({**entry, "name": f"{entry['name']}_env"} if taken else entry)


def _of_nodes(flow: Flow, uses: dict[str, Use], notes: list[str]) -> None:
    unnamed: list[str] = []
    for name in flow.nodes:
        for node in flow.versions(name):
            inputs = block(node.get("inputs"))
            if node.get("type") == "llm" and not node.get("connection"):
                unnamed.append(_type_of_node(node))
                notes.append(
                    f"{flow.file}: the node '{name}' names no connection: it takes the only one to "
                    "a model in experiment.yaml."
                )
            if isinstance(named := node.get("connection"), str) and named:
                _note(uses, named, [_type_of_node(node)])
            for key, types, tree in _connection_inputs(flow, node, inputs):
                if isinstance(inputs.get(key), str) and not inputs[key].startswith("${"):
                    use = _note(uses, inputs[key], _nearest(types, inputs))
                    use.guess = use.guess or _guess(node, inputs[key])
                    _properties(use, tree, key, types)
    if unnamed and not any(set(MODELS) & set(use.types) for use in uses.values()):
        _note(uses, arguments.NAMES[unnamed[0]], unnamed[:1])


def _guess(node: Mapping[str, Any], name: str) -> str:
    """The type that a tool wants which is not installed here."""
    asks_model = node.get("type") == "custom_llm" or "deployment_name" in block(node.get("inputs"))
    is_model = asks_model or re.search(r"open_?ai|aoai", name, re.I)
    return AZURE_OPENAI if is_model else CUSTOM


def _type_of_node(node: Mapping[str, Any]) -> str:
    """The type of connection that an LLM node wants."""
    inputs = block(node.get("inputs"))
    if kind := CONFIGURATIONS.get(str(node.get("provider") or "")):
        return kind
    if "openai" in str(node.get("module") or "").split("."):
        return OPENAI
    return OPENAI if "model" in inputs and "deployment_name" not in inputs else AZURE_OPENAI


def _connection_inputs(
    flow: Flow, node: Mapping[str, Any], inputs: Mapping[str, Any]
) -> Iterator[tuple[str, list[str], ast.Module | None]]:
    """The inputs of a node that take a connection, and the types that it may have."""
    source = block(node.get("source"))
    if tool := source.get("tool"):
        known = package_tools.connections(str(tool))
        unknown = [] if known else [key for key in inputs if "connection" in key.lower()]
        yield from ((key, known.get(key, []), None) for key in [*known, *unknown])
    elif str(source.get("path", "")).endswith(".py"):
        path = next((p for p in _places(flow, source["path"]) if p.is_file()), None)
        tree = code.parse(path) if path else None
        if tree:
            for key, types in code_hints.hinted(tree).items():
                yield key, types, tree


def _places(flow: Flow, path: str) -> list[Path]:
    """Where a node's file may lie: in the folder, or in what it includes."""
    beside = [p if p.name == path else p.parent / path for p in includes(flow)]
    return [flow.folder / path, *beside]


def _nearest(types: list[str], inputs: Mapping[str, Any]) -> list[str]:
    """The types in the order in which the node's other inputs make them likely."""
    wanted = AZURE_OPENAI if inputs.get("deployment_name") else OPENAI
    named = inputs.get("deployment_name") or inputs.get("model")
    return sorted(types, key=lambda kind: kind != wanted) if named else types


def _note(uses: dict[str, Use], name: str, types: Iterable[str]) -> Use:
    use = uses.setdefault(name, Use())
    use.types += [kind for kind in types if kind not in use.types]
    return use


def _of_prompties(flow: Flow, uses: dict[str, Use]) -> None:
    for path in environment.prompties(flow):
        model = resolved(front_matter(path).get("model"), path.parent)
        _of_configuration(uses, model, "")
        _of_configuration(uses, resolved(model.get("configuration"), path.parent), "")


def _of_configuration(uses: dict[str, Use], given: Any, kind: str) -> None:
    """A block that says which model is asked: by a connection's name, or by itself."""
    given = block(given)
    if isinstance(given.get("connection"), str):
        kind = CONFIGURATIONS.get(str(given.get("type") or ""), kind)
        only_model = "model" in given and "azure_deployment" not in given
        use = _note(uses, given["connection"], [kind or (OPENAI if only_model else AZURE_OPENAI)])
        version = str(given.get("api_version") or "")
        use.version = use.version or ("" if "$" in version else version)


def _of_init(interface: Interface, uses: dict[str, Use], documents: list[Any]) -> None:
    """What a flex flow's class is made with: a model configuration, or a connection's name."""
    if not interface.flow.entry:
        return
    hints = {name: given.hint for name, given in initial(interface.flow).items()}
    shown = [block(document.get("init")) for document in documents]
    for given in [interface.init, *shown]:
        for name, value in given.items():
            hint = hints.get(name, "")
            kind = next((t for word, t in CONFIGURATIONS.items() if f"{word}" in hint), "")
            _of_configuration(uses, value, kind)
            types = code_hints.types_of_hint(hint)
            if isinstance(value, str) and (types or name.endswith("connection")):
                use = _note(uses, value, types)
                _properties(use, code.parse(module_of(interface.flow)[0]), name, types)


def _variables(document: Mapping[str, Any]) -> dict[str, Any]:
    return block(document.get("environment_variables"))


def _of_variables(document: Mapping[str, Any], uses: dict[str, Use]) -> None:
    """`environment_variables: {X: ${connection.property}}` of a definition or a run file."""
    for name, value in _variables(document).items():
        if found := PROPERTY.match(str(value)):
            kind = environment.type_of_variable(name)
            use = _note(uses, found[1], [kind] if kind else [])
            use.keys += [found[2]] if found[2] not in use.keys else []


def _of_calls(tree: ast.Module, uses: dict[str, Use]) -> None:
    """`AzureOpenAIModelConfiguration(connection="x")` in the code, and properties of parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            kind = CONFIGURATIONS.get(ast.unparse(node.func).rpartition(".")[2])
            named = {k.arg: code.literal(k.value) for k in node.keywords}
            if kind and isinstance(named.get("connection"), str):
                _note(uses, named["connection"], [kind])


def _properties(use: Use, tree: ast.Module | None, name: str, types: list[str]) -> None:
    for key, secret in code_hints.properties(tree, name, types) if tree else ():
        _key(use, key, secret)


def _key(use: Use, key: str, secret: bool) -> None:
    use.keys += [key] if key not in use.keys else []
    use.secret |= {key} if secret else set()


def _of_files(folder: Path, uses: dict[str, Use]) -> None:
    """Connection files beside the flow, for connections that it uses."""
    for _, document in yaml_files(folder):
        kind = SHORT.get(str(document.get("type") or ""))
        use = uses.get(str(document.get("name") or ""))
        if use is None or kind is None:
            continue
        use.types += [kind] if not use.types else []
        for part in ("configs", "secrets"):
            for key in block(document.get(part)):
                _key(use, str(key), part == "secrets")


def _entry(name: str, use: Use) -> dict[str, Any]:
    """The connection as experiment.yaml has it; a class of the user's own is a custom one."""
    known = [kind for kind in use.types if kind in TYPES]
    kind = [*known, CUSTOM if use.types else use.guess or AZURE_OPENAI][0]
    entry: dict[str, Any] = {"name": name, "connection_type": kind}
    entry |= {key: f"${{{key}}}" for key in TYPES[kind]}
    if kind == AZURE_OPENAI:
        entry |= {"api_type": "azure", "api_version": use.version or VERSIONS[kind]}
    if kind == CUSTOM:
        secret = {key for key in use.keys if key in use.secret or SECRET.search(key)}
        blocks = {
            "configs": {key: f"${{{key}}}" for key in use.keys if key not in secret},
            "secrets": {key: f"${{{key}}}" for key in use.keys if key in secret},
        }
        entry |= {key: block for key, block in blocks.items() if block}
    return entry


def _lines(entry: Mapping[str, Any]) -> Iterator[str]:
    """The variables that an entry reads, as comments of `.env.example`."""
    texts = {**entry, **(entry.get("configs") or {}), **(entry.get("secrets") or {})}
    for text in texts.values():
        for key in re.findall(r"\$\{(\w+)\}", text) if isinstance(text, str) else ():
            name = key if key.isupper() else variable(entry["name"], key)
            yield environment.line(name)
