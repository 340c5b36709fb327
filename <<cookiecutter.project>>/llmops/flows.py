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
from llmops.files import parse_yaml

Kind = Literal["dag", "flex", "prompty", "python"]
FILES: dict[str, Kind] = {"flow.dag.yaml": "dag", "flow.flex.yaml": "flex", "flow.py": "python"}
IGNORED = {"__pycache__", ".promptflow", ".runs", ".git", ".pytest_cache", ".mypy_cache"}


@dataclass(frozen=True)
class Flow:
    """A flow as its files describe it.

    `inputs` says of each input whether it is required (has no default), `more_inputs` whether it
    takes any other by its name (`**inputs`); `outputs` is null where the files do not name them.
    `variants` maps a node to its variants, the default first. `definition` is the DAG's content.
    `entry` is `module:function` for flex and Python flows.
    """

    folder: Path
    file: str
    kind: Kind
    inputs: dict[str, bool]
    outputs: tuple[str, ...] | None
    entry: str = ""
    variants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    definition: dict[str, Any] = field(default_factory=dict)
    more_inputs: bool = False

    @property
    def path(self) -> Path:
        """The file that says what the flow is."""
        return self.folder / self.file

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """The DAG's nodes by name, variants resolved to their default."""
        return {node["name"]: node for node in overlay(self, {}, {}).get("nodes", [])}

    def versions(self, name: str) -> list[dict[str, Any]]:
        """A node of the DAG in each of its variants."""
        chosen = [{name: variant} for variant in self.variants.get(name, ())] or [{}]
        nodes = [overlay(self, choices, {}).get("nodes", []) for choices in chosen]
        return [node for version in nodes for node in version if node["name"] == name]

    def connections(self) -> Iterator[tuple[str, str]]:
        """The DAG's nodes that name a connection, and its name."""
        for name in self.nodes:
            used = {node.get("connection") for node in self.versions(name)}
            yield from (
                (name, str(connection)) for connection in sorted(filter(None, used), key=str)
            )


def describe(reference: str, root: Path = Path()) -> Flow:
    """Find and read a flow: a folder, a name below `flows/`, a prompty file, or `flow.py:function`.

    Raises:
        UserError: there is no flow, its file cannot be read, or its entry does not exist.
    """
    path, _, function = reference.partition(":")
    place = root / "flows" / path if (root / "flows" / path).exists() else root / path
    if place.is_file():
        return _read(place.parent, place.name, function)
    for name in FILES:
        if (place / name).is_file():
            return _read(place, name, function)
    prompty = sorted(place.glob("*.prompty"))
    if len(prompty) == 1:
        return _read(place, prompty[0].name, function)
    if place.exists():
        raise UserError(
            f"'{reference}' holds no flow (expected one of {', '.join(FILES)}, one *.prompty, or a "
            "path like flows/x/flow.py:run)."
        )
    beside = sorted(f"flows/{p.name}" for p in (root / "flows").glob("*") if p.is_dir())
    raise UserError(f"'{reference}' is not there (expected one of {', '.join(beside) or 'none'}).")


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


def digest(flow: Flow, definition: Mapping[str, Any]) -> str:
    """A hash over what decides the answers of one variant: its definition, and the flow's files.

    A file counts with its name and content; line endings and the order of folders do not. Of a DAG
    the prompts of other variants are left out, so that editing one runs that variant alone.
    """
    content = hashlib.sha256(f"{flow.kind} {flow.file} {flow.entry}".encode())
    content.update(json.dumps(definition, sort_keys=True).encode())
    others = other_prompts(flow, definition)
    for name, path in sorted(files(flow)):
        if name not in others:
            data = path.read_bytes().replace(b"\r\n", b"\n")
            content.update(json.dumps([name, hashlib.sha256(data).hexdigest()]).encode())
    return content.hexdigest()


def other_prompts(flow: Flow, definition: Mapping[str, Any]) -> set[str]:
    """The DAG's own file, whose content is the definition, and prompts that only others use."""
    if flow.kind != "dag":
        return set()
    every = (node for name in flow.nodes for node in flow.versions(name))
    prompts = {_source(node) for node in every if node.get("type") in ("llm", "prompt")}
    return {flow.file} | prompts - {_source(node) for node in definition.get("nodes", [])}


def _source(node: Mapping[str, Any]) -> str:
    source = node.get("source")
    path = str(source.get("path", "")) if isinstance(source, Mapping) else ""
    return Path(path).as_posix()


def files(flow: Flow) -> Iterator[tuple[str, Path]]:
    """The flow's files without caches, each with the name it has beside `additional_includes`."""
    includes = flow.definition.get("additional_includes") or []
    for root in (flow.folder, *(flow.folder / path for path in includes)):
        for path in [root] if root.is_file() else root.rglob("*"):
            parts = path.relative_to(root).parts
            if path.is_file() and not IGNORED & set(parts) and path.suffix != ".pyc":
                yield "/".join((*((root.name,) if root != flow.folder else ()), *parts)), path


def _read(folder: Path, file: str, function: str) -> Flow:
    endings: dict[str, Kind] = {".prompty": "prompty", ".yaml": "dag", ".yml": "dag"}
    kind: Kind = FILES.get(file) or endings.get(Path(file).suffix, "python")
    try:
        text = (folder / file).read_text(encoding="utf-8-sig")
        if kind == "python":
            return _read_python(folder, file, text, function or "run")
        if kind == "prompty":
            return _read_prompty(folder, file, text)
        document = _keys_and_values(parse_yaml(text), "the file")
        flex = kind == "flex" or ("entry" in document and "nodes" not in document)
        return _read_flex(folder, file, document) if flex else _read_dag(folder, file, document)
    except SyntaxError as error:
        place = error.filename if error.filename and error.filename.endswith(".py") else file
        raise UserError(
            f"{folder / place}: line {error.lineno}: not Python: {error.msg}."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{folder / file}: not UTF-8. Save the file as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{folder / file}: {error.filename}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{folder / file}: {error}.") from error


def _keys_and_values(block: Any, where: str) -> dict[str, Any]:
    """The block itself; a missing one is empty."""
    if not isinstance(block, dict | None):
        raise ValueError(f"{where}: expected keys and values, found a {type(block).__name__}")
    return block or {}


def _read_dag(folder: Path, file: str, document: dict[str, Any]) -> Flow:
    nodes = document.get("nodes")
    if not isinstance(nodes, list) or not nodes:
        raise ValueError("nodes: none. A DAG needs at least one")
    for at, node in enumerate(nodes):
        named = _keys_and_values(node, f"nodes[{at}]").get("name")
        if not isinstance(named, str):
            raise ValueError(f"nodes[{at}].name: missing. Give each node a name")
    marked = [node["name"] for node in nodes if node.get("use_variants")]
    blocks = _keys_and_values(document.get("node_variants"), "node_variants")
    return Flow(
        folder,
        file,
        "dag",
        _inputs(document.get("inputs")),
        tuple(_keys_and_values(document.get("outputs"), "outputs")),
        variants={name: _variants(name, blocks.get(name)) for name in marked},
        definition=document,
    )


def _variants(node: str, block: Any) -> tuple[str, ...]:
    """The names of a node's variants, the default first."""
    where = f"node_variants.{node}"
    block = _keys_and_values(block, where)
    variants = _keys_and_values(block.get("variants"), f"{where}.variants")
    if not variants:
        raise ValueError(f"{where}.variants: none, but the node says use_variants: true")
    for name, variant in variants.items():
        if not _keys_and_values(
            _keys_and_values(variant, f"{where}.variants.{name}").get("node"), name
        ):
            raise ValueError(f"{where}.variants.{name}.node: missing")
    first = str(block.get("default_variant_id") or next(iter(variants)))
    if first not in variants:
        choices = ", ".join(variants)
        raise ValueError(f"{where}.default_variant_id: '{first}' (expected one of {choices})")
    return (first, *(name for name in variants if name != first))


def _read_flex(folder: Path, file: str, document: dict[str, Any]) -> Flow:
    entry = str(document.get("entry") or "")
    module, _, name = entry.partition(":")
    if not name:
        raise ValueError(f"entry: '{entry}' (expected <module>:<function or class>)")
    source = folder / (module.replace(".", "/") + ".py")
    tree = ast.parse(source.read_text(encoding="utf-8-sig"), source.name)
    inputs, more = _signature(tree, name)
    inputs |= _inputs(document.get("inputs"))
    outputs = tuple(_keys_and_values(document.get("outputs"), "outputs")) or None
    return Flow(folder, file, "flex", inputs, outputs, entry, definition=document, more_inputs=more)


def _read_prompty(folder: Path, file: str, text: str) -> Flow:
    parts = text.split("---", 2)
    if len(parts) < 3:
        raise ValueError("a prompty starts with a block between two lines of ---")
    document = _keys_and_values(parse_yaml(parts[1]), "the block between the lines of ---")
    outputs = tuple(_keys_and_values(document.get("outputs"), "outputs")) or ("output",)
    return Flow(folder, file, "prompty", _inputs(document.get("inputs")), outputs)


def _read_python(folder: Path, file: str, text: str, function: str) -> Flow:
    inputs, more = _signature(ast.parse(text, file), function)
    entry = f"{Path(file).stem}:{function}"
    return Flow(folder, file, "python", inputs, None, entry, more_inputs=more)


def _inputs(block: Any) -> dict[str, bool]:
    return {
        name: not (isinstance(value, Mapping) and value.get("default") is not None)
        for name, value in _keys_and_values(block, "inputs").items()
    }


def _signature(tree: ast.Module, name: str) -> tuple[dict[str, bool], bool]:
    """Parameters of a function, or of a class's __call__: which are required, and any other."""
    found = {node.name: node for node in tree.body if hasattr(node, "name")}
    node: Any = found.get(name)
    if isinstance(node, ast.ClassDef):
        methods = {part.name: part for part in node.body if hasattr(part, "name")}
        node = methods.get("__call__")
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        raise ValueError(f"no function '{name}' (found {', '.join(sorted(found)) or 'none'})")
    arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    optional = set(arguments[len(arguments) - len(node.args.defaults) :])
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    keyword = {argument.arg: default is None for argument, default in pairs}
    positional = {a: a not in optional for a in arguments if a not in ("self", "cls")}
    return positional | keyword, node.args.kwarg is not None
