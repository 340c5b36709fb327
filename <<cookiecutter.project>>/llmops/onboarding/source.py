"""Finds the flow that a user points at, and what of its files comes into the repo."""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops import code, flows
from llmops.errors import UserError
from llmops.files import parse_yaml, slug
from llmops.flows import Flow
from llmops.onboarding.copying import collect
from llmops.onboarding.interface import entry, includes
from llmops.onboarding.proposal import Copied, Left

DEFINITIONS = (".dag.yaml", ".flex.yaml")
# Folder names that say nothing of what is in them.
GENERIC = {"standard", "flow", "flows", "src", "source", "app", "code", "main", "prompt", "prompts"}
GENERIC |= {"promptflow", "pf", "run", "evaluation", "evaluator", "eval", "chat", "default"}


@dataclass
class Placed:
    """A flow's files in the repo. `reference` is what experiment.yaml says of it.

    `folder` is where the flow itself lies, which is deeper than `flows/<name>` where the files
    beside it that it includes come along.
    """

    reference: str
    folder: Path
    copies: list[Copied] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find(reference: Path | str) -> Flow:
    """The flow at a path: a folder with one, its definition, a prompty file, `file.py:callable`.

    Raises:
        UserError: there is none, or more than one; says what was found and the choices.
    """
    text, function = str(reference), ""
    if ".py:" in text and not Path(text).exists():
        text, _, function = text.rpartition(":")
    path = Path(text).expanduser().absolute()
    path = _in_folder(path.resolve()) if path.is_dir() else path.parent.resolve() / path.name
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*") if not p.name.startswith("."))
        raise UserError(f"'{text}' is not there (beside it: {_listed(beside)}).")
    if path.suffix == ".py":
        function = function or _only_callable(path)
    elif path.suffix != ".prompty" and not path.name.endswith(DEFINITIONS):
        raise UserError(
            f"'{text}' is no flow (expected a folder with one, a file named *.dag.yaml, "
            "*.flex.yaml or *.prompty, or <file>.py:<function or class>)."
        )
    return flows.describe(f"{path}:{function}" if function else str(path))


def name_of(flow: Flow) -> str:
    """A name for the flow in the repo: its folder's, with the parents' where that says nothing.

    A prompty or Python file that is not its folder's only one gives its own name.
    """
    stem = flow.path.name.split(".")[0]
    alone = flow.kind == "prompty" and len(list(flow.folder.glob("*.prompty"))) == 1
    if flow.kind in ("prompty", "python") and not alone and stem.lower() not in GENERIC:
        return slug(stem)
    parts: list[str] = []
    for folder in (flow.folder, *flow.folder.parents):
        if folder.name and (not parts or folder.name.lower() not in GENERIC):
            parts.insert(0, folder.name)
        if folder.name.lower() not in GENERIC:
            break
    return slug("-".join(parts) or stem)


def place(flow: Flow, name: str, skip: Collection[str] = ()) -> Placed:
    """The flow's files below `flows/<name>`, with what it includes from outside its folder.

    What is included keeps its place relative to the flow, so that the definition stays as it is.
    `skip` are paths relative to the flow's folder that are not wanted.

    Raises:
        UserError: the definition itself may not come along, as it holds a key.
    """
    included = includes(flow)
    # By the path as it is written: a folder that is a link would have another name.
    outside = [path for path in included if not path.is_relative_to(flow.folder)]
    root = Path(os.path.commonpath([flow.folder, *outside])) if outside else flow.folder
    top = Path("flows") / name
    folder = top / flow.folder.relative_to(root)
    placed = Placed(_reference(flow, folder), folder)
    copies, left = collect(flow.folder, folder, skip=skip)
    linked = list(_needed_links(flow, left))
    for kept in left:
        if kept.path == flow.path and kept.path not in linked:
            raise UserError(f"{flow.path}: {kept.reason}. Without it there is no flow.")
    for path in outside:
        if path.is_dir():
            _add(copies, left, collect(path, top / path.relative_to(root)))
    files = [(path, top / path.relative_to(root)) for path in outside if path.is_file()]
    files += [(link.resolve(), folder / link.relative_to(flow.folder)) for link in linked]
    for path, target in files:
        _add(copies, left, one(path, target))
    left = [kept for kept in left if kept.path not in linked]
    left += [
        Left(path, "additional_includes names it, but it is not there")
        for path in included
        if not path.exists()
    ]
    placed.copies = list({copied.target: copied for copied in copies}.values())
    placed.left = list(dict.fromkeys(left))
    placed.notes = [f"{link.name} is a link: what it leads to is copied." for link in linked]
    return placed


def one(path: Path, target: Path) -> tuple[list[Copied], list[Left]]:
    """A single file as `collect` would take it: it looks for keys in it, too."""
    others = [beside.name for beside in path.parent.iterdir() if beside.name != path.name]
    copies, left = collect(path.parent, target.parent, skip=others)
    copied = [Copied(c.source, target) for c in copies if c.target.name == path.name]
    return copied, [kept for kept in left if kept.path.name == path.name]


def mentions(flow: Flow, name: str) -> bool:
    """Whether the flow's definition, prompts or code name a file."""
    suffixes = {".py", ".prompty", ".jinja2"}
    paths = [path for path in walk(flow.folder) if path.suffix in suffixes]
    return any(name in path.read_text("utf-8", "replace") for path in {flow.path, *paths})


def walk(folder: Path) -> Iterator[Path]:
    """The files of a folder without hidden folders, caches and virtual environments."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in flows.IGNORED | {"node_modules"}
            and not name.startswith(".")
            and not Path(place, name, "pyvenv.cfg").is_file()
        )
        yield from (Path(place, name) for name in sorted(names))


def yaml_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The YAML files of a folder that hold keys and values, by name."""
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            document = parse_yaml(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            continue
        if isinstance(document, dict):
            yield path, document


def requirements(flow: Flow) -> list[Path]:
    """The lists of packages that the flow says it needs, or that lie beside it."""
    block = flow.definition.get("environment")
    named = block.get("python_requirements_txt") if isinstance(block, dict) else None
    paths = [flow.folder / str(named)] if named else []
    paths.append(flow.folder / "requirements.txt")
    return list(dict.fromkeys(path for path in paths if path.is_file()))


def modules(flow: Flow) -> dict[Path, ast.Module]:
    """The Python modules of the flow that a run of it imports."""
    if flow.entry:
        starts = [entry(flow)[0]]
    else:
        starts = [flow.folder / path for path in _sources(flow) if path.endswith(".py")]
        starts += [p for p in includes(flow) if p.suffix == ".py"]
    return code.reachable(flow.folder, starts)


def _in_folder(folder: Path) -> Path:
    """The file that defines the folder's flow."""
    for name in flows.FILES:
        path = folder / name
        if path.is_file() and (name != "flow.py" or _callables(path) or not code.parse(path)):
            return path
    found = sorted(p for p in folder.glob("*") if p.name.endswith((*DEFINITIONS, ".prompty")))
    definitions = [path for path in found if path.suffix != ".prompty"]
    for choices in (definitions, found):
        if len(choices) == 1:
            return choices[0]
    if found:
        names = _listed([path.name for path in found])
        raise UserError(f"'{folder}' holds {len(found)} flows: {names}. Name one of them.")
    raise UserError(f"'{folder}' holds no flow. {_what_there_is(folder)}")


def _what_there_is(folder: Path) -> str:
    functions = [
        f"{path.name}:{n}" for path in sorted(folder.glob("*.py")) for n in _callables(path)
    ]
    if functions:
        return f"Its Python has {_listed(functions)}: name one as <path>/{functions[0]}."
    below = {p.parent for name in flows.FILES for p in (*folder.glob(f"*/{name}"),)}
    below |= {p.parent for name in flows.FILES for p in folder.glob(f"*/*/{name}")}
    if below:
        return f"Below it there are {_listed(sorted(str(p.relative_to(folder)) for p in below))}."
    return (
        "Expected flow.dag.yaml, flow.flex.yaml, one *.prompty, or <file>.py:<function or class>."
    )


def _only_callable(path: Path) -> str:
    names = _callables(path)
    if not code.parse(path):
        return "run"  # reading the flow then says in which line it is no Python
    if "run" in names or len(names) == 1:
        return "run" if "run" in names else names[0]
    raise UserError(
        f"'{path}' has {_listed(names)}. Say which one is the flow: "
        f"{path.name}:<function or class>."
    )


def _callables(path: Path) -> list[str]:
    """The public functions and callable classes of a module."""
    tree = code.parse(path)
    found = code.top_level(tree) if tree else {}
    return [n for n in found if tree and not n.startswith("_") and code.called(tree, n)]


def _reference(flow: Flow, folder: Path) -> str:
    """What experiment.yaml says: the folder where that is enough to find the flow."""
    named = flow.entry.partition(":")[2] if flow.kind == "python" else ""
    if flow.kind == "python":
        plain = flow.file == "flow.py" and named == "run"
        return folder.as_posix() if plain else f"{(folder / flow.file).as_posix()}:{named}"
    first = next((n for n in flows.FILES if (flow.folder / n).is_file()), flow.file)
    others = flow.kind == "prompty" and len(list(flow.folder.glob("*.prompty"))) > 1
    plain = first == flow.file and not others
    usual = flow.file in flows.FILES or flow.kind == "prompty"
    return folder.as_posix() if plain and usual else (folder / flow.file).as_posix()


def _sources(flow: Flow) -> Iterator[str]:
    """The files that the DAG's nodes name, in all variants."""
    for name in flow.nodes:
        for node in flow.versions(name):
            source = node.get("source")
            if isinstance(source, dict) and source.get("path"):
                yield str(source["path"])


def _needed_links(flow: Flow, left: Iterable[Left]) -> Iterator[Path]:
    """Links to files elsewhere that the definition names or the flow's code imports.

    They are what the author made part of the flow, as `additional_includes` are; any other link
    that leads outside stays behind.
    """
    sources = {Path(os.path.normpath(path)).as_posix() for path in _sources(flow)}
    trees = modules(flow).values()
    imported = {part for tree in trees for pair in code.imports(tree) for part in pair}
    for kept in left:
        path = kept.path
        if path.is_symlink() and path.is_file() and path.is_relative_to(flow.folder):
            inside = path.relative_to(flow.folder)
            named = inside.as_posix() in sources or path == flow.path
            if named or (path.suffix == ".py" and path.stem in imported):
                yield path


def _add(
    copies: list[Copied], left: list[Left], more: tuple[Iterable[Copied], Iterable[Left]]
) -> None:
    copies += more[0]
    left += more[1]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "none"
