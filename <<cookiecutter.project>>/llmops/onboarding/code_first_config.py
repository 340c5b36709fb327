"""The configuration of a code-first repo: config/config.yaml, or config/model_config.json."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.config import DEFAULT_ENV
from llmops.errors import UserError
from llmops.explain import quoted
from llmops.onboarding import source_files
from llmops.onboarding.proposal import Document

NAMES = ("ml_model_config_name", "prompt_flow_config_name")
_PLACES = ("config", "configs", "")
_LISTS = ("models", "flows")
_ENVS = {"ci", "dev", "local", "pr", "preprod", "prod", "qa", "staging", "test", "uat"}


@dataclass(frozen=True)
class Repo:
    """The configuration: an entry by environment for each flow, and what holds for all of them."""

    folder: Path
    file: Path
    flows: dict[str, dict[str, Document]]
    common: Document = field(default_factory=dict)


def recognise(folder: Path) -> bool:
    """Whether the folder is such a repo."""
    return folder.is_dir() and _file(folder) is not None


def choices(folder: Path) -> tuple[str, ...]:
    """The names of the flows that the configuration has."""
    return tuple(sorted(read(folder).flows))


def _file(folder: Path) -> Path | None:
    for stem in ("config", "model_config"):
        for place in _PLACES:
            path = source_files.find(folder, stem, place)
            if path and _is_ours(path):
                return path
    return None


def _is_ours(path: Path) -> bool:
    try:
        document = source_files.read(path)
    except UserError:
        return False
    return isinstance(document.get("flow_configs"), dict) or any(_entries(document))


def _entries(document: Document) -> Iterator[Document]:
    """The entries of model_config.json."""
    for key in _LISTS:
        found = document.get(key)
        for item in found if isinstance(found, list) else ():
            keys = lower(item) if isinstance(item, dict) else {}
            if "standard_flow_path" in keys and any(name in keys for name in NAMES):
                yield item


def lower(block: Mapping[str, Any]) -> Document:
    """The block with keys in lower case."""
    return {str(key).lower(): value for key, value in block.items()}


def read(folder: Path) -> Repo:
    """The configuration of a repo; raises UserError where there is none or it cannot be read."""
    file = _file(folder)
    if file is None:
        raise UserError(
            f"FROM: '{folder}' is no code-first repo: neither config/config.yaml with flow_configs "
            "nor config/model_config.json is there."
        )
    document = source_files.read(file)
    flows: dict[str, dict[str, Document]] = {}
    if isinstance(found := document.get("flow_configs"), dict):
        for key, (name, env) in _named(found).items():
            flows.setdefault(name, {})[env] = source_files.block(found, key, file)
        return Repo(folder, file, flows, _common(document))
    for item in _entries(document):
        entry = lower(item)
        name = str(next(entry[key] for key in NAMES if key in entry))
        flows.setdefault(name, {})[str(entry.get("env_name") or DEFAULT_ENV)] = item
    return Repo(folder, file, flows)


def _named(keys: Collection[str]) -> dict[str, tuple[str, str]]:
    """Flow and environment of each key `<flow>_<env>`; one without environment is dev's."""
    stems = [key.rpartition("_")[0] for key in keys]
    found = {}
    for key in keys:
        stem, _, env = key.rpartition("_")
        split = bool(stem) and (env in _ENVS or stems.count(stem) > 1)
        found[key] = (stem, env) if split else (key, DEFAULT_ENV)
    return found


def _common(document: Document) -> Document:
    """The keys of the blocks beside flow_configs, without the block's prefix (`aoai_`)."""
    found: Document = {}
    for name, block in document.items():
        if name != "flow_configs" and isinstance(block, dict):
            prefix = name.removesuffix("config")
            found = {k.removeprefix(prefix): v for k, v in lower(block).items()} | found
    return found


def chosen(repo: Repo, flow: str) -> str:
    """The flow that FLOW names, with or without environment; raises UserError with the choices."""
    keys = {f"{name}_{env}": name for name, envs in repo.flows.items() for env in envs}
    if flow in repo.flows or flow in keys:
        return flow if flow in repo.flows else keys[flow]
    if not flow and len(repo.flows) == 1:
        return next(iter(repo.flows))
    told = f"'{flow}' is none of the flows" if flow else "unset, and there are several flows"
    raise UserError(
        f"FLOW: {told} of {repo.file.relative_to(repo.folder)} "
        f"(expected one of {quoted(sorted(repo.flows))})."
    )
