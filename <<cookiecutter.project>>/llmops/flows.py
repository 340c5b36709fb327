"""What a flow is, read from its files without running it.

A flow turns a row into outputs: a prompt flow DAG (`flow.dag.yaml`), a flex flow
(`flow.flex.yaml`), a prompty file, or a plain Python callable (`flow.py:run`). Nothing here imports
promptflow or the flow's own code.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmops.errors import UserError

Kind = Literal["dag", "flex", "prompty", "python"]
FILES: dict[str, Kind] = {"flow.dag.yaml": "dag", "flow.flex.yaml": "flex", "flow.py": "python"}
IGNORED = {"__pycache__", ".promptflow", ".runs", ".git", ".pytest_cache", ".mypy_cache"}


@dataclass(frozen=True)
class Flow:
    """A flow as its files describe it.

    `inputs` says of each input whether it is required (has no default); `outputs` is null where the
    files do not name them. `variants` maps a node to its variants, the default first. `definition`
    is the DAG's content. `entry` is `module:function` for flex and Python flows.
    """

    folder: Path
    file: str
    kind: Kind
    inputs: dict[str, bool]
    outputs: tuple[str, ...] | None
    entry: str = ""
    variants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    definition: dict[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """The DAG's nodes by name, variants resolved to their default."""
        return {node["name"]: node for node in overlay(self, {}, {}).get("nodes", [])}


def describe(reference: str, root: Path = Path()) -> Flow:
    """Find and read a flow: a folder, a name below `flows/`, a prompty file, or `flow.py:function`.

    Raises:
        UserError: there is no flow, its file cannot be read, or its entry does not exist.
    """
    path, _, function = reference.partition(":")
    place = root / "flows" / path if (root / "flows" / path).exists() else root / path
    if place.is_file():
        return _read(place.parent, place.name, function, reference)
    for name in FILES:
        if (place / name).is_file():
            return _read(place, name, function, reference)
    prompty = sorted(place.glob("*.prompty"))
    if len(prompty) == 1:
        return _read(place, prompty[0].name, function, reference)
    found = "is not there" if not place.exists() else "holds no flow"
    raise UserError(
        f"{reference}: the folder {found} "
        f"(expected one of {', '.join(FILES)}, one *.prompty, or a path like flows/x/flow.py:run)."
    )


def overlay(flow: Flow, choices: Mapping[str, str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The DAG with one variant chosen for each node and node inputs (`node.input`) set.

    Nodes without a choice take their default variant; the result has no variants left.
    """
    definition = {k: v for k, v in flow.definition.items() if k != "node_variants"}
    blocks = flow.definition.get("node_variants") or {}
    nodes = []
    for node in definition.get("nodes", []):
        name = node["name"]
        if name in flow.variants:
            chosen = blocks[name]["variants"][choices.get(name, flow.variants[name][0])]
            node = {**chosen["node"], "name": name}
        own = {k.partition(".")[2]: v for k, v in inputs.items() if k.startswith(f"{name}.")}
        nodes.append({**node, "inputs": {**(node.get("inputs") or {}), **own}} if own else node)
    return {**definition, "nodes": nodes} if definition else {}


def digest(flow: Flow) -> str:
    """A hash over names and contents of the flow's files; line endings and folder order do not count."""
    content = hashlib.sha256(f"{flow.kind} {flow.file} {flow.entry}".encode())
    for name, path in sorted(_files(flow)):
        data = path.read_bytes().replace(b"\r\n", b"\n")
        content.update(json.dumps([name, hashlib.sha256(data).hexdigest()]).encode())
    return content.hexdigest()


def _files(flow: Flow) -> Iterator[tuple[str, Path]]:
    roots = [flow.folder, *(flow.folder / i for i in flow.definition.get("additional_includes") or [])]
    for root in roots:
        for path in [root] if root.is_file() else root.rglob("*"):
            parts = path.relative_to(root).parts
            if path.is_file() and not IGNORED & set(parts) and path.suffix != ".pyc":
                yield "/".join((root.name if root != flow.folder else "", *parts)), path


def _read(folder: Path, file: str, function: str, reference: str) -> Flow:
    kind: Kind = "prompty" if file.endswith(".prompty") else FILES.get(file, "python")
    try:
        text = (folder / file).read_text(encoding="utf-8-sig")
        if kind == "python":
            return _read_python(folder, file, text, function or "run")
        if kind == "prompty":
            return _read_prompty(folder, file, text)
        document = _yaml(text)
        return _read_dag(folder, file, document) if kind == "dag" else _read_flex(folder, file, document)
    except SyntaxError as error:
        raise UserError(f"{folder / file}: line {error.lineno}: not Python: {error.msg}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{reference}: {file}: cannot be read as a flow ({error}).") from error


def _yaml(text: str) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(document, dict):
        raise ValueError("expected keys and values at the top")
    return document


def _read_dag(folder: Path, file: str, document: dict[str, Any]) -> Flow:
    variants: dict[str, tuple[str, ...]] = {}
    for node, block in (document.get("node_variants") or {}).items():
        first = str(block.get("default_variant_id") or next(iter(block["variants"])))
        if first not in block["variants"]:
            raise ValueError(f"node_variants.{node}.default_variant_id: '{first}' is not a variant")
        variants[node] = (first, *(name for name in block["variants"] if name != first))
    marked = [node["name"] for node in document.get("nodes") or [] if node.get("use_variants")]
    if missing := sorted(set(marked) - set(variants)):
        raise ValueError(f"node '{missing[0]}' uses variants but node_variants has none for it")
    return Flow(
        folder,
        file,
        "dag",
        _inputs(document.get("inputs")),
        tuple(document.get("outputs") or {}),
        variants={name: variants[name] for name in marked},
        definition=document,
    )


def _read_flex(folder: Path, file: str, document: dict[str, Any]) -> Flow:
    entry = str(document.get("entry", ""))
    module, _, name = entry.partition(":")
    if not name:
        raise ValueError(f"entry '{entry}' is not <module>:<function or class>")
    source = folder / (module.replace(".", "/") + ".py")
    declared = _inputs(document.get("inputs"))
    inputs = _signature(ast.parse(source.read_text(encoding="utf-8-sig")), name) | declared
    outputs = tuple(document["outputs"]) if document.get("outputs") else None
    return Flow(folder, file, "flex", inputs, outputs, entry, definition=document)


def _read_prompty(folder: Path, file: str, text: str) -> Flow:
    parts = text.split("---", 2)
    if len(parts) < 3:
        raise ValueError("a prompty starts with a block between two lines of ---")
    document = _yaml(parts[1])
    outputs = tuple(document.get("outputs") or {}) or ("output",)
    return Flow(folder, file, "prompty", _inputs(document.get("inputs")), outputs)


def _read_python(folder: Path, file: str, text: str, function: str) -> Flow:
    inputs = _signature(ast.parse(text), function)
    return Flow(folder, file, "python", inputs, None, f"{Path(file).stem}:{function}")


def _inputs(block: Mapping[str, Any] | None) -> dict[str, bool]:
    return {
        name: not (isinstance(value, Mapping) and value.get("default") is not None)
        for name, value in (block or {}).items()
    }


def _signature(tree: ast.Module, name: str) -> dict[str, bool]:
    """Parameters of a function, or of a class's __call__, and whether each is required."""
    found = {node.name: node for node in tree.body if hasattr(node, "name")}
    node: Any = found.get(name)
    if isinstance(node, ast.ClassDef):
        methods = {part.name: part for part in node.body if hasattr(part, "name")}
        node = methods.get("__call__")
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise ValueError(f"no function '{name}' (found {', '.join(sorted(found)) or 'none'})")
    arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    optional = set(arguments[len(arguments) - len(node.args.defaults) :]) if node.args.defaults else set()
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    keyword = {argument.arg: default is None for argument, default in pairs}
    positional = {a: a not in optional for a in arguments if a not in ("self", "cls")}
    return positional | keyword
