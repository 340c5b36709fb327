"""What a flow is, read from its files without running it.

A flow turns a row into outputs: a prompt flow DAG (`flow.dag.yaml`), a flex flow
(`flow.flex.yaml`), a prompty file, or a plain Python callable (`flow.py:run`). Nothing here imports
promptflow or the flow's own code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmops.errors import UserError
from llmops.files import parse_yaml
from llmops.signatures import UNKNOWN, Signature
from llmops.signatures import read as read_signature

Kind = Literal["dag", "flex", "prompty", "python"]
FILES = ("flow.dag.yaml", "flow.flex.yaml", "*.flex.yaml", "*.dag.yaml", "flow.py", "*.prompty")
"""What makes a folder a flow; of several the first counts."""
_FILE = re.compile(r"\$\{file:([^}]+)\}|(?:file:)?([^{}]+\.json)")
_PROMPTY = re.compile(r"\s*-{3,}[ \t]*\n(.*?)^-{3,}[ \t]*$", re.DOTALL | re.MULTILINE)
PACKED, VARIANT = "packed.json", "inputs of the variant"
"""The file of a packed Python flow in which its `defaults` are, and their key."""
INDEX = "index.json"
STANDS_FOR = {"chunks.sqlite", "vectors.usearch"}
"""Of an index over documents its manifest says what it holds; these files are that in other bytes.

They differ from build to build, and are large."""
IGNORED = {"__pycache__", ".promptflow", ".runs", ".git", ".pytest_cache", ".mypy_cache"}


@dataclass(frozen=True)
class Flow:
    """A flow as its files describe it.

    `inputs` says of each input whether it is required (has no default), `more_inputs` whether it
    takes any other by its name (`**inputs`); `outputs` is null where the files do not name them.
    `variants` maps a node to its variants, the default first. `definition` is the DAG's content.
    `entry` is `module:function` for flex and Python flows. Of a class `takes` says which arguments
    its making requires, `takes_more` whether it takes any other; `init` holds their values: those
    of the flow's own sample, until experiment.yaml gives others. `defaults` are values that a
    packed Python flow takes for inputs which are not given: those of the variant that was packed.
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
    takes: dict[str, bool] = field(default_factory=dict)
    takes_more: bool = False
    init: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)

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
        return _read(place.parent, place.name, function, root)
    others: list[str] = []
    for kind in FILES:
        others = sorted(file.name for file in place.glob(kind) if file.is_file())
        if len(others) == 1:
            return _read(place, others[0], function, root)
        if others:
            break
    if place.exists():
        more = f"{path}/{others[0]}" if others else "flows/x/flow.py:run"
        raise UserError(
            f"'{reference}' holds no flow (expected one of {', '.join(FILES)}, or a path like "
            f"{more})."
        )
    beside = sorted(f"flows/{p.name}" for p in (root / "flows").glob("*") if p.is_dir())
    raise UserError(f"'{reference}' is not there (expected one of {', '.join(beside) or 'none'}).")


def means(reference: str, flow: Flow, root: Path = Path()) -> bool:
    """Whether a reference, as `describe` takes it, stands for this flow."""
    try:
        return describe(reference, root).path.resolve() == flow.path.resolve()
    except UserError:
        return False


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
    if flow.init:
        content.update(json.dumps(flow.init, sort_keys=True, default=str).encode())
    others = other_prompts(flow, definition)
    for name, path in sorted(files(flow)):
        if name not in others and not _said_by_manifest(path):
            data = path.read_bytes().replace(b"\r\n", b"\n")
            content.update(json.dumps([name, hashlib.sha256(data).hexdigest()]).encode())
    return content.hexdigest()


def _said_by_manifest(path: Path) -> bool:
    return path.name in STANDS_FOR and (path.parent / INDEX).is_file()


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


def _read(folder: Path, file: str, function: str, root: Path) -> Flow:
    try:
        text = (folder / file).read_text(encoding="utf-8-sig")
        if file.endswith(".prompty"):
            return _read_prompty(folder, file, text)
        if not file.endswith((".yaml", ".yml")):
            return _read_python(folder, file, function or "run", root)
        document = _keys_and_values(parse_yaml(text), "the file")
        # A flex flow of early 2024 is called flow.dag.yaml too.
        if file.endswith("flex.yaml") or ("entry" in document and "nodes" not in document):
            return _read_flex(folder, file, document, root)
        return _read_dag(folder, file, document)
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


def _read_flex(folder: Path, file: str, document: dict[str, Any], root: Path) -> Flow:
    entry = str(document.get("entry") or "")
    module, _, name = entry.partition(":")
    if not name:
        raise ValueError(f"entry: '{entry}' (expected <module>:<function or class>)")
    includes = [folder / path for path in document.get("additional_includes") or []]
    places = [folder, *(path.parent for path in includes), root.resolve()]
    signature = read_signature(places, module, name)
    return Flow(
        folder,
        file,
        "flex",
        _either(signature.inputs, _inputs(document.get("inputs"))),
        tuple(_keys_and_values(document.get("outputs"), "outputs")) or None,
        entry,
        definition=document,
        more_inputs=signature.more_inputs,
        takes=_either(signature.init, _inputs(document.get("init"))),
        takes_more=signature.more_init,
        init=_sample_init(folder, document, signature),
    )


def _either(code: Mapping[str, bool], file: Mapping[str, bool]) -> dict[str, bool]:
    """What is required by the code and has no default in the flow's file."""
    return {name: code.get(name, True) and file.get(name, True) for name in {**code, **file}}


def _sample_init(
    folder: Path, document: Mapping[str, Any], signature: Signature = UNKNOWN
) -> dict[str, Any]:
    """The arguments of the flow's own sample, or those of an init.json that fits the class."""
    sample = referred(document.get("sample"), folder)
    init = referred(sample.get("init"), folder) if isinstance(sample, Mapping) else None
    if isinstance(init, Mapping):
        return dict(init)
    init = referred("${file:init.json}", folder) if signature.init else None
    return dict(init) if isinstance(init, Mapping) and init.keys() <= signature.init.keys() else {}


def referred(value: Any, folder: Path) -> Any:
    """What `${file:x.json}`, or in a sample `x.json`, holds; null where there is no such file."""
    found = _FILE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    try:
        return parse_yaml((folder / (found[1] or found[2])).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None


def front_matter(text: str) -> dict[str, Any]:
    """The block at the head of a prompty; raises ValueError where there is none, or it is none."""
    parts = _PROMPTY.match(text)
    if parts is None:
        raise ValueError("a prompty starts with a block between two lines of ---")
    return _keys_and_values(parse_yaml(parts[1]), "the block between the lines of ---")


def _read_prompty(folder: Path, file: str, text: str) -> Flow:
    document = front_matter(text)
    inputs = _keys_and_values(document.get("inputs"), "inputs")
    if not inputs:  # prompt flow then takes them from the sample
        sample = referred(document.get("sample"), folder)
        required = dict.fromkeys(sample, True) if isinstance(sample, Mapping) else {}
    else:
        required = {
            name: isinstance(v, Mapping) and "default" not in v for name, v in inputs.items()
        }
    outputs = tuple(_keys_and_values(document.get("outputs"), "outputs"))
    known = outputs or (None if _structured(document, folder) else ("output",))
    return Flow(folder, file, "prompty", required, known)


def _structured(document: Mapping[str, Any], folder: Path) -> bool:
    """Whether a prompty may return something else than a text."""
    model = referred(document.get("model"), folder)
    model = model if isinstance(model, Mapping) else {}
    parameters = referred(model.get("parameters"), folder)
    asked = parameters if isinstance(parameters, Mapping) else {}
    kind = referred(asked.get("response_format"), folder)
    json_wanted = kind is not None and kind != {"type": "text"}
    return json_wanted or "tools" in asked or model.get("response") == "all"


def _read_python(folder: Path, file: str, function: str, root: Path) -> Flow:
    signature = read_signature([folder, root.resolve()], Path(file).stem, function)
    packed = referred(f"${{file:{PACKED}}}", folder)
    defaults = packed.get(VARIANT) if isinstance(packed, Mapping) else None
    defaults = dict(defaults) if isinstance(defaults, Mapping) else {}
    return Flow(
        folder,
        file,
        "python",
        signature.inputs | dict.fromkeys(defaults, False),
        None,
        f"{Path(file).stem}:{function}",
        more_inputs=signature.more_inputs,
        takes=signature.init,
        takes_more=signature.more_init,
        init=_sample_init(folder, {}, signature),
        defaults=defaults,
    )


def _inputs(block: Any) -> dict[str, bool]:
    return {
        name: not (isinstance(value, Mapping) and value.get("default") is not None)
        for name, value in _keys_and_values(block, "inputs").items()
    }
