"""A use case of Microsoft's GenAIOps template: a folder with experiment.yaml and its overlays.

The folder's structure stays, so that every path in the files stays right. The format of 2023, three
JSON files, is read by `use_case_2023`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llmops.config import DEFAULT_ENV
from llmops.errors import UserError
from llmops.onboarding import finishing, leftovers, old_keys, source_files, upstream, use_case_2023
from llmops.onboarding.proposal import Copied, Document, Left, Proposal
from llmops.onboarding.upstream import UseCase

KIND = "use case"
_OVERLAY = re.compile(r"experiment[._-](?P<env>\w[\w-]*)\.ya?ml")
_WRAPPERS = ("experiment_config", "experiment")
_ONE_FILE = "llmops_config"


def recognise(folder: Path) -> bool:
    """Whether the folder is a use case of either generation."""
    if not folder.is_dir():
        return False
    return (
        bool(_experiment_files(folder)) or use_case_2023.recognise(folder) or _is_one_file(folder)
    )


def below(folder: Path) -> list[Path]:
    """The subfolders that are use cases, for a folder that is none itself."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and recognise(path)]


def propose(folder: Path) -> Proposal:
    """What importing a use case would do.

    Raises:
        UserError: the folder is no use case, or a file that says what it is cannot be read.
    """
    folder = folder.resolve()
    if not recognise(folder):
        inside = ", ".join(path.name for path in below(folder)) if folder.is_dir() else ""
        raise UserError(
            f"FROM: '{folder}' is no use case: neither experiment.yaml nor llmops_config.json is "
            f"there (use cases below it: {inside or 'none'})."
        )
    if _experiment_files(folder):
        case = _from_files(folder)
    else:
        read = _from_one_file if _is_one_file(folder) else use_case_2023.read
        case = read(folder)
    return _complete(case)


def _complete(case: UseCase) -> Proposal:
    left = [*leftovers.find(case.folder), *_old_configuration(case)]
    known = {one.path for one in case.proposal.left}
    case.proposal.left += [one for one in left if one.path not in known]
    own = [*case.files.values(), *_experiment_files(case.folder).values()]
    skipped = [one.path for one in case.proposal.left] + own
    skip = {path.relative_to(case.folder).as_posix() for path in skipped}
    deployments = [source_files.find(case.folder, finishing.DEPLOYMENT, *upstream.CONFIGS)]
    skip |= {path.relative_to(case.folder).as_posix() for path in deployments if path}
    upstream.take_files(case, case.folder, skip)
    proposal = finishing.finish(case)
    proposal.copies.sort(key=_by_target)
    return proposal


def _by_target(copied: Copied) -> str:
    return copied.target.as_posix()


def _old_configuration(case: UseCase) -> Iterator[Left]:
    """The older files that say the same: turned into experiment files, or passed over for them."""
    used = "experiment.yaml and its overlays say it here"
    for path in use_case_2023.files(case.folder):
        yield Left(path, used)
    taken = set(case.files.values())
    for env, path in _experiment_files(case.folder).items():
        wrapped = any(key in source_files.read(path) for key in _WRAPPERS)
        if path not in taken and not wrapped and path not in {x.path for x in case.proposal.left}:
            yield Left(path, f"its content stands in an overlay (environment '{env or 'dev'}')")


def _experiment_files(folder: Path) -> dict[str, Path]:
    """Experiment files by environment, "" the base; of two for one, the one with our name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("experiment*.y*ml"), key=_ours_first):
        match = _OVERLAY.fullmatch(path.name)
        base = path.stem == "experiment"
        if path.is_file() and (match or base):
            found.setdefault(match["env"] if match else "", path)
    if "" in found and not _is_ours(found[""]):
        return {}
    if found and "" not in found:
        envs = [env for env in found if "flow" in _content(source_files.read(found[env]))]
        if not envs:
            return {}
        found[""] = found.pop(upstream.first_env(envs))
    return found


def _is_ours(path: Path) -> bool:
    """Whether an experiment.yaml is of this format, as far as it can be read."""
    try:
        document = _content(source_files.read(path))
    except UserError:
        return True  # whose mistake is told on import
    return bool({"flow", "datasets", "evaluators"} & set(document))


def _ours_first(path: Path) -> tuple[bool, bool, str]:
    return (not path.name.startswith("experiment."), path.suffix != ".yaml", path.name)


def _content(document: Document) -> Document:
    """The experiment in a document, which an early generation wraps in a key of its own."""
    inner = next((document[key] for key in _WRAPPERS if isinstance(document.get(key), dict)), None)
    return document if inner is None or "name" in document else inner


def _from_files(folder: Path) -> UseCase:
    files = _experiment_files(folder)
    documents = {env: source_files.read_commented(path) for env, path in files.items()}
    inner = {env: _content(document) for env, document in documents.items()}
    base = inner.pop("")
    name = str(base.get("name") or folder.name)
    case = UseCase(folder, Proposal(name, KIND), base, inner)
    case.files = {
        env: path for env, path in files.items() if _content(documents[env]) is documents[env]
    }
    for env in documents:
        if _content(documents[env]) is not documents[env]:
            case.proposal.notes.append(
                f"{upstream.experiment_file(env)}: the experiment that {files[env].name} holds; "
                "env_name is the name of the file here."
            )
    case.proposal.left += _doubles(folder, set(files.values()))
    return case


def _doubles(folder: Path, used: set[Path]) -> Iterator[Left]:
    for path in sorted(folder.glob("experiment*.y*ml")):
        if path not in used and (_OVERLAY.fullmatch(path.name) or path.stem == "experiment"):
            yield Left(path, "another file speaks for the same environment and has the newer name")


def _is_one_file(folder: Path) -> bool:
    """Whether one file llmops_config.yaml holds the experiment and its environments."""
    path = source_files.find(folder, _ONE_FILE, *upstream.CONFIGS)
    return path is not None and isinstance(source_files.read(path).get("experiment"), dict)


def _from_one_file(folder: Path) -> UseCase:
    path = source_files.find(folder, _ONE_FILE, *upstream.CONFIGS)
    assert path is not None  # as _is_one_file found
    document = source_files.read(path)
    base = document["experiment"]
    if "connections" in document:
        base["connections"] = document["connections"]
    case = UseCase(folder, Proposal(str(base.get("name") or folder.name), KIND), base)
    deployments: Document = {}
    for key, block in (document.get("environments") or {}).items():
        env = str((block or {}).get("env_name") or key)
        overlay = (block or {}).get("experiment") or {}
        if overlay or env != DEFAULT_ENV:
            case.overlays[env] = overlay
        for section, entries in ((block or {}).get("deployment_configs") or {}).items():
            deployments.setdefault(section, []).extend(entries or [])
    case.proposal.left.append(Left(path, "experiment.yaml and its overlays say it here"))
    use_case_2023.write_deployments(case, deployments, path)
    old_keys.tell(case, document.get("azure_config") or {}, path, "")
    return case
